"""Test success before and after training, as a table and as `summary.json`."""

from __future__ import annotations

import json

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table

from cahl_pl.datamodule import RolloutDataModule
from cahl_pl.metrics import ToolUse
from cahl_pl.records import run_folder

COLUMNS = ("task/success", "tools/calls_per_success", "tools/invalid_rate", "tools/redundant_rate")


class BeforeAfter(Callback):
    """Runs the data module's test sets before the first step and after the last one.

    Writes `summary.json` into the run's folder, `{"test": {"before": 0.41, "after": 0.63}, ...}` (task success), with
    every other value under `"details"`, and prints a table.

    Args:
        max_tasks: tasks of each test set to run; None for all.
    """

    def __init__(self, max_tasks: int | None = None) -> None:
        self.max_tasks = max_tasks
        self._before: dict[str, dict[str, float]] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the start, unless a resumed run brought its own."""
        if not self._before:
            self._before = self._measure(trainer, "before")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the end, print and write both."""
        after = {name: values for name, values in self._measure(trainer, "after").items() if name in self._before}
        if not trainer.is_global_zero or not after:
            return
        table = Table(title="greedy episodes, before -> after training")
        table.add_column("test set")
        for column in COLUMNS:
            table.add_column(column, justify="right")
        for name, values in after.items():
            table.add_row(name, *(f"{self._before[name][c]:.3f} -> {values[c]:.3f}" for c in COLUMNS))
        Console(width=110).print(table)
        summary = {
            name: {"before": round(self._before[name]["task/success"], 6), "after": round(values["task/success"], 6)}
            for name, values in after.items()
        }
        details = {name: {"before": self._before[name], "after": values} for name, values in after.items()}
        path = run_folder(trainer) / "summary.json"
        path.write_text(json.dumps({**summary, "details": details}, indent=2) + "\n", encoding="utf-8")
        print(f"written: {path}")

    def state_dict(self) -> dict[str, dict[str, dict[str, float]]]:
        """The values before training: a resumed run reports those of its first start."""
        return {"before": self._before}

    def load_state_dict(self, state_dict: dict[str, dict[str, dict[str, float]]]) -> None:
        """Take over the values before training."""
        self._before = state_dict["before"]

    def _measure(self, trainer: Trainer, when: str) -> dict[str, dict[str, float]]:
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, RolloutDataModule)
        total = sum(min(len(tasks), self.max_tasks or len(tasks)) for tasks in data.test_tasks.values())
        if total and trainer.is_global_zero:
            print(f"measuring {total} test tasks {when} training (BeforeAfter.max_tasks makes them fewer)", flush=True)
        result = {}
        for name, tasks in data.test_tasks.items():
            count = min(len(tasks), self.max_tasks or len(tasks))
            metric = ToolUse()
            for start in range(0, count, data.eval_batch_size):
                chosen = [tasks[i] for i in range(start, min(count, start + data.eval_batch_size))]
                metric.update(data.evaluate(chosen))
            result[name] = {tag: value.item() for tag, value in metric.compute().items()}
        return result
