"""Predictions, printed as they come and written as JSON lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from cahl_pl.records import run_folder


class PredictionWriter(Callback):
    """Prints plan, calls and feedback of each predicted episode and writes them to a file, one JSON object a line.

    Args:
        path: the file; None for `predictions.jsonl` in the run's folder.
        show: episodes to print; the file gets all.
    """

    def __init__(self, path: str | None = None, show: int = 5) -> None:
        self.path = path
        self.show = show
        self._shown = 0
        self._file: Path | None = None

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start an empty file."""
        self._file = Path(self.path) if self.path else run_folder(trainer) / "predictions.jsonl"
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text("", encoding="utf-8")
        self._shown = 0

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
        assert self._file is not None
        with self._file.open("a", encoding="utf-8") as file:
            for episode in outputs:
                text = json.dumps(episode, ensure_ascii=False, default=str)
                file.write(text.encode("utf-8", "replace").decode() + "\n")
        for episode in outputs[: self.show - self._shown]:
            print(_readable(episode))
            self._shown += 1

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say where the file is."""
        print(f"written: {self._file}")


def _readable(episode: dict[str, Any]) -> str:
    lines = [f"\nrequest  {episode['request']}"]
    if episode["plan_error"] is not None:
        lines.append(f"plan     unreadable: {episode['plan_error']}")
    for number, step in enumerate(episode["steps"], start=1):
        lines.append(f"step {number}   {step['task']}")
        lines.append(f"  output    {step['output'].strip()}")
        if step["feedback"] is not None:
            lines.append(f"  feedback  {step['feedback']}")
    return "\n".join(lines).encode("utf-8", "replace").decode()
