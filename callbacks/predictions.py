"""Predictions, printed as they come and written as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from cahl_pl.datamodule import RolloutDataModule
from cahl_pl.distributed import gather_over_processes
from cahl_pl.runs.files import append, check_writable
from cahl_pl.runs.folder import run_folder
from cahl_pl.types import Action, Feedback, Plan, Task, ToolCall


class PredictionWriter(Callback):
    """Callback that prints each predicted episode's plan, calls and feedback, and writes them to a file of JSON lines.

    A user's own requests (`data.requests`) are all printed: as they run if a batch has only one, so that a call is seen
    before its answer; otherwise when the batch is done. With several processes, the first one prints and writes the episodes
    of all, in the order of the tasks, at the end.

    Args:
        path: the file; None for `predictions.jsonl` in the run's folder.
        show: episodes of test sets to print; the file gets all.
    """

    def __init__(self, path: str | None = None, show: int = 5) -> None:
        self.path = path
        self.show = show
        self._shown = 0
        self._file: Path | None = None
        self._data: RolloutDataModule | None = None  # if it has a user's requests
        self._told = False  # whether this batch's request is printed as it runs
        self._lost = False  # episodes could not be written
        self._kept: dict[int, list[Any]] = {}  # this process's share of each loader, if there are several processes

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start an empty file.

        Raises:
            ConfigError: its folder cannot be written to.
        """
        self._shown, self._lost, self._kept = 0, False, {}
        data = getattr(trainer, "datamodule", None)
        if isinstance(data, RolloutDataModule) and data.requests is not None:
            self._data = data
            if trainer.world_size == 1:
                data.watch = self._watch
        if not trainer.is_global_zero:
            return
        self._file = Path(self.path) if self.path else run_folder(trainer) / "predictions.jsonl"
        check_writable(self._file.parent)
        self._file.write_text("", encoding="utf-8")

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the batch's episodes, and print the first few."""
        if trainer.world_size > 1:
            self._kept.setdefault(dataloader_idx, []).extend(outputs)
        else:
            self._tell(outputs)

    def _tell(self, outputs: Sequence[dict[str, Any]]) -> None:
        assert self._file is not None
        try:
            append(self._file, "".join(json.dumps(o, ensure_ascii=False, default=str) + "\n" for o in outputs))
        except OSError as error:
            if not self._lost:
                print(
                    f"warning: episodes could not be written to {self._file} ({error.strerror or error}) and will be missing "
                    "there: make room",
                    flush=True,
                )
            self._lost = True
        for episode in outputs[: None if self._data else max(0, self.show - self._shown)]:
            if not self._told:
                print(_readable(episode), flush=True)
            self._shown += 1
        self._told = False

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the file's path; with several processes, write it first."""
        if trainer.world_size > 1:
            shares = gather_over_processes(self._kept)
            for loader in sorted({loader for share in shares for loader in share}) if trainer.is_global_zero else ():
                dealt = zip_longest(*(share.get(loader, []) for share in shares))  # tasks are dealt out in turn
                self._tell([episode for episodes in dealt for episode in episodes if episode is not None])
        if self._data is not None:
            self._data.watch = None
            self._data = None
        if trainer.is_global_zero:
            print(f"written{', but not all of it' if self._lost else ''}: {self._file}")

    def _watch(self, task: Task, event: Plan | Action | Feedback) -> None:
        if not self._told:
            print(f"\nrequest  {_printable(task.request)}", flush=True)
            self._told = True
        print("\n".join(_lines(event)), flush=True)


def _lines(event: Plan | Action | Feedback) -> list[str]:
    """Return an event of an episode as lines for a terminal."""
    if isinstance(event, Feedback):
        return [f"{'result' if event.error is None else 'error':9}{_printable(event.text)}"]
    if isinstance(event, Action):
        if event.answer is not None:
            return [f"answer   {_printable(event.answer)}"]
        return [
            f"call     {_call(event.call)}" if event.call else f"call     unreadable: {_printable(str(event.error))}"
        ]
    if event.error is not None:
        return [f"plan     unreadable: {_printable(event.error)}"]
    steps = [
        (z.instruction, "answer" if z.tool is None else _call(ToolCall(z.tool, z.parameters))) for z in event.subtasks
    ]
    lines = [f"{i}. {_printable(words)}: {what}" for i, (words, what) in enumerate(steps, start=1)]
    return [f"{'' if i else 'plan':9}{line}" for i, line in enumerate(lines)]


def _call(call: ToolCall) -> str:
    return _printable(f"{call.name} {json.dumps(dict(call.arguments), ensure_ascii=False, default=str)}")


def _readable(episode: dict[str, Any]) -> str:
    lines = [f"\nrequest  {_printable(episode['request'])}"]
    if episode["plan_error"] is not None:
        lines.append(f"plan     unreadable: {_printable(episode['plan_error'])}")
    for number, step in enumerate(episode["steps"], start=1):
        lines.append(f"step {number}   {_printable(step['task'])}")
        lines.append(f"  output    {_printable(step['output'].strip())}")
        if step["feedback"] is not None:
            lines.append(f"  feedback  {_printable(step['feedback'])}")
    return "\n".join(lines)


def _printable(text: str) -> str:
    """Return the text on lines that begin with spaces, so that none looks like ours, and without cursor movements."""
    shown = "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
    return shown.replace("\n", "\n" + " " * 12)
