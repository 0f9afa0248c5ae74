"""The executor's work on the plans: rates, success by tool, and episodes to read."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from cahl_pl.metrics import ToolUse, is_success
from cahl_pl.runs.files import append
from cahl_pl.runs.folder import run_folder
from cahl_pl.runs.records import record
from cahl_pl.runs.trackers import log_trajectories
from cahl_pl.types import RolloutBatch, Trajectory

TABLE = ("step", "task", "request", "success", "reward", "episode")
"""Columns of the table of episodes; `reward` is the plan's, if known, and `episode` is Markdown."""


class ExecutionFeedback(Callback):
    """Log of how the calls of a rollout round fared, and of sample episodes as text and as data.

    Once a round, with its first batch: the values of
    `cahl_pl.metrics.ToolUse` over all processes; `tools/success/<tool>`, the share of a tool's calls whose
    feedback has no error, over the first process's episodes; and `trajectories`, episodes as a text in TensorBoard, as a table
    in W&B (`TABLE`), as text files among MLflow's artifacts. The x-axis is `trainer.global_step`.

    The same episodes are appended to `trajectories.jsonl` in the run's folder, one JSON object per line: the output of
    `cahl_pl.runs.records.record`, with `step`, the `trainer.global_step`, and `reward`, the total reward of the plan,
    null if the round's first batch is not the planner's. A resumed run continues the file from the point where its checkpoint
    was written. `cahl-pl report` reads it. A full disk costs a warning and these lines.

    Args:
        every_n_rounds: interval n: the first round and every n-th after it are logged.
        num_samples: episodes to show, 0 for none. If the plans' rewards are known, evenly spaced from the best to the
            worst, so that 3 are the best, the median and the worst; else spread evenly over the round.
        max_characters: longest quotation in a shown episode; longer ones are cut.
        max_tools: tools that get their own curve, in the order in which they are first called. Data sets
            with thousands of tools would otherwise write thousands of curves.

    Raises:
        ValueError: a number is too small.
    """

    def __init__(
        self,
        every_n_rounds: int = 1,
        num_samples: int = 3,
        max_characters: int = 1000,
        max_tools: int = 50,
    ) -> None:
        for name, value, least in (
            ("every_n_rounds", every_n_rounds, 1),
            ("num_samples", num_samples, 0),
            ("max_characters", max_characters, 1),
            ("max_tools", max_tools, 0),
        ):
            if value < least:
                raise ValueError(f"ExecutionFeedback.{name} is {value}: give {least} or more")
        self.every_n_rounds = every_n_rounds
        self.num_samples = num_samples
        self.max_characters = max_characters
        self.max_tools = max_tools
        self._metric = ToolUse()
        self._tools: set[str] = set()
        self._rounds = 0
        self._told = False  # that the file cannot be written

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop the lines that a run in this folder wrote after this one's starting point."""
        path = run_folder(trainer) / "trajectories.jsonl" if trainer.is_global_zero else None
        if path is not None and path.exists():
            try:
                _keep_until(path, trainer.global_step)
            except OSError as error:
                self._tell(path, error)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Log the round that `batch` is the first of."""
        if batch.trajectories is None:
            return
        self._rounds += 1
        if (self._rounds - 1) % self.every_n_rounds != 0:
            return
        # on every process, because computing sums the counts over all of them
        self._metric.to(pl_module.device)
        self._metric.update(batch.trajectories)
        values = {name: value.item() for name, value in self._metric.compute().items()}
        self._metric.reset()
        if not trainer.is_global_zero:
            return
        values |= self._success_by_tool(batch.trajectories)
        rewards = _plan_rewards(batch)
        chosen = _choose(rewards, len(batch.trajectories), self.num_samples)
        shown = [batch.trajectories[i] for i in chosen]
        if shown:
            path = run_folder(trainer) / "trajectories.jsonl"
            try:
                append(path, "".join(self._lines(trainer.global_step, chosen, shown, rewards)))
            except OSError as error:
                self._tell(path, error)
        texts = [_markdown(trajectory, self.max_characters) for trajectory in shown]
        text = "\n\n---\n\n".join(texts)
        known = [None if rewards is None else rewards[i] for i in chosen]
        rows = [
            [trainer.global_step, _printable(t.task.id), _printable(t.task.request), is_success(t), reward, part]
            for t, reward, part in zip(shown, known, texts, strict=True)
        ]
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)
            add_text = getattr(getattr(logger, "experiment", None), "add_text", None)
            if add_text is not None and text:
                add_text("trajectories", text, trainer.global_step)
            elif text:
                log_trajectories(logger, TABLE, rows, text, trainer.global_step)

    def _lines(
        self, global_step: int, chosen: Sequence[int], shown: Sequence[Trajectory], rewards: Sequence[float] | None
    ) -> Iterator[str]:
        for i, trajectory in zip(chosen, shown, strict=True):
            reward = None if rewards is None else rewards[i]
            yield _line(trajectory, global_step, reward, self.max_characters)

    def _tell(self, path: Path, error: OSError) -> None:
        if not self._told:
            print(
                f"warning: {path} cannot be written ({error.strerror or error}); training goes on without it: make room or "
                "correct the permissions",
                flush=True,
            )
        self._told = True

    def state_dict(self) -> dict[str, Any]:
        """Return the rounds seen and the tools that have a curve."""
        return {"rounds": self._rounds, "tools": sorted(self._tools)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the counts."""
        self._rounds, self._tools = state_dict["rounds"], set(state_dict["tools"])

    def _success_by_tool(self, trajectories: Sequence[Trajectory]) -> dict[str, float]:
        calls: Counter[str] = Counter()
        successes: Counter[str] = Counter()
        for trajectory in trajectories:
            for step in trajectory.steps:
                call = step.action.call
                # a name that is not offered is a model's invention, not a tool
                if call is None or step.feedback is None or trajectory.task.tool(call.name) is None:
                    continue
                calls[call.name] += 1
                successes[call.name] += step.feedback.error is None
        for name in calls:
            if len(self._tools) < self.max_tools:
                self._tools.add(name)
        return {f"tools/success/{name}": successes[name] / calls[name] for name in calls if name in self._tools}


def _plan_rewards(batch: RolloutBatch) -> list[float] | None:
    """Return the total reward of each trajectory's plan; None if the batch does not contain them."""
    rewards = [r for group in batch.groups for r in group.rewards.tolist()] if batch.role == "planner" else []
    if not rewards or not all(map(math.isfinite, rewards)):
        return None
    copies, rest = divmod(len(batch.trajectories or ()), len(rewards))  # executions of a plan, one after another
    return None if rest else [reward for reward in rewards for _ in range(copies)]


def _choose(rewards: Sequence[float] | None, total: int, number: int) -> list[int]:
    """Return the indices of at most `number` of `total` trajectories, evenly spaced by rank or, without rewards, by index."""
    number = min(number, total)
    if rewards is None:  # neighbours are plans of the same request
        return [i * total // number for i in range(number)]
    ranked = sorted(range(total), key=lambda i: -rewards[i])
    if number == 1:
        return [ranked[total // 2]]
    return [ranked[i * (total - 1) // (number - 1)] for i in range(number)]


def _line(trajectory: Trajectory, global_step: int, reward: float | None, max_characters: int) -> str:
    """Return a line of `trajectories.jsonl`. Texts are cut, calls are not: they are meant for comparison with the gold."""
    shown = {"step": global_step, "reward": reward, **record(trajectory)}
    for part in (shown, *shown["steps"]):
        for key in ("request", "plan", "task", "output", "answer", "feedback"):
            if isinstance(part.get(key), str):
                part[key] = _cut(part[key], max_characters)
    return _printable(json.dumps(shown, ensure_ascii=False, default=str)) + "\n"


def _keep_until(path: Path, last_step: int) -> None:
    """Drop the lines of later steps, and any that cannot be read: a killed run may have left half a line."""
    kept = []
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                if json.loads(line)["step"] <= last_step:
                    kept.append(line)
            except (ValueError, TypeError, KeyError, RecursionError):
                continue
    aside = path.with_suffix(".tmp")
    aside.write_text("".join(kept), encoding="utf-8")
    aside.replace(path)


def _markdown(trajectory: Trajectory, max_characters: int) -> str:
    task = trajectory.task
    gold = "\n".join(
        json.dumps({"name": call.name, "parameters": dict(call.arguments)}, ensure_ascii=False, default=str)
        for call in task.gold
    )
    verdict = "success" if is_success(trajectory) else "no success"
    parts = [
        ("Request", task.request),
        ("Plan" if trajectory.plan.error is None else "Plan (unreadable)", trajectory.plan_text),
    ]
    for number, step in enumerate(trajectory.steps, start=1):
        parts.append((f"Sub-task {number}", step.subtask.instruction))
        parts.append(("Output" if step.action.error is None else "Output (unreadable)", step.text))
        if step.feedback is not None:
            error = step.feedback.error
            parts.append(("Feedback" if error is None else f"Feedback (error: {error})", step.feedback.text))
    parts.append(("Gold calls", gold or "none"))
    body = "\n\n".join(f"**{title}**\n\n{_quote(text, max_characters)}" for title, text in parts)
    return f"### Task {_printable(task.id)}: {verdict}\n\n{body}"


def _quote(text: str, max_characters: int) -> str:
    """Return a code block around text that a model may have written: nothing in the text ends the block."""
    text = _cut(text, max_characters)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}\n{_printable(text)}\n{fence}"


def _cut(text: str, max_characters: int) -> str:
    more = len(text) - max_characters
    return f"{text[:max_characters]}\n... ({more} more characters)" if more > 0 else text


def _printable(text: str) -> str:
    # lone surrogates cannot be encoded, and the event file's writer would raise
    return text.encode("utf-8", "replace").decode()
