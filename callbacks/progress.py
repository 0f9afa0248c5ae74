"""Progress in one line every few steps: readable in a terminal, in a log file and over a slow connection."""

from __future__ import annotations

import math
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from cahl_pl.callbacks.token_budget import TokenBudget
from cahl_pl.metrics import is_success
from cahl_pl.types import RolloutBatch


class ProgressLines(Callback):
    """Callback that prints step, both roles' rewards, success of the sampled episodes, tokens per second and the time left.

    Values are means over the steps since the last line. For a run without a limit, no time left is shown.

    Args:
        every_n_steps: optimiser steps between two lines.

    Raises:
        ValueError: `every_n_steps` is below 1.
    """

    def __init__(self, every_n_steps: int = 10) -> None:
        if every_n_steps < 1:
            raise ValueError(f"ProgressLines.every_n_steps is {every_n_steps}: give 1 or more")
        self.every_n_steps = every_n_steps
        self._sums: dict[str, list[float]] = {}
        self._start = 0.0
        self._done_before = 0  # steps, or tokens of a TokenBudget, when this process began

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._start, self._done_before = time.monotonic(), _progress(trainer)[0]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Collect the batch's values; print a line when it is time."""
        for role in ("planner", "executor"):
            self._add(role, batch.metrics.get(f"{role}/reward/mean"))
        self._add("tokens/s", batch.metrics.get("time/tokens_per_s"))
        if batch.trajectories:
            self._add("success", sum(map(is_success, batch.trajectories)) / len(batch.trajectories))
        loss = trainer.callback_metrics.get(f"{batch.role}/warm_start/loss")
        if batch.objective == "supervised" and loss is not None:
            self._add(f"{batch.role} loss", loss.item())
        step, (done, total) = trainer.global_step, _progress(trainer)
        last = total is not None and done >= total
        if not trainer.is_global_zero or not self._sums or (step % self.every_n_steps and not last):
            return
        means = {name: sum(values) / len(values) for name, values in self._sums.items()}
        parts = [f"{name} {means[name]:.0f}" if "/s" in name else f"{name} {means[name]:.3f}" for name in means]
        if total is None:
            print(f"step {step:>5}  {'  '.join(parts)}", flush=True)
        else:
            spent = time.monotonic() - self._start
            left = spent / max(1, done - self._done_before) * max(0, total - done)
            of = f"/{total}" if done == step else f"  tokens {done}/{total}"
            print(f"step {step:>5}{of}  {'  '.join(parts)}  left {_minutes(left)}", flush=True)
        self._sums = {}

    def _add(self, name: str, value: float | None) -> None:
        if value is not None:
            self._sums.setdefault(name, []).append(value)


def _progress(trainer: Trainer) -> tuple[int, int | None]:
    """Return the run's progress and its total: in optimiser steps, or in tokens if these are limited.

    The total is None if nothing determines it.
    """
    budget = next((c for c in trainer.callbacks if isinstance(c, TokenBudget)), None)  # type: ignore[attr-defined]
    if budget is not None:
        return budget.reached, budget.max_tokens
    total = trainer.estimated_stepping_batches
    return trainer.global_step, int(total) if math.isfinite(total) else None


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
