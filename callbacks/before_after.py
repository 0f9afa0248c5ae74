"""Test success before and after training, as a table and as `summary.json`."""

from __future__ import annotations

import time
from itertools import zip_longest
from typing import Any, Final

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table

from cahl_pl.callbacks.token_budget import TokenBudget
from cahl_pl.datamodule import RolloutDataModule
from cahl_pl.distributed import gather_over_processes, sum_over_processes
from cahl_pl.metrics import ToolUse, is_success
from cahl_pl.plurals import counted
from cahl_pl.runs.files import write_json
from cahl_pl.runs.folder import run_folder

_QUIET_S: Final = 30.0
"""Seconds after which a measurement's progress is printed."""

COLUMNS = (
    "task/success",
    "plan/parse_error_rate",
    "tools/calls_per_success",
    "tools/invalid_rate",
    "tools/redundant_rate",
)


class BeforeAfter(Callback):
    """Callback that runs the data module's test sets before the first step and after the last one.

    Writes `summary.json` into the run's folder, `{"test": {"before": 0.41, "after": 0.63}, ...}` (task success), with
    every other value under `"details"`, and prints a table. `details[<test set>]["solved"]` has for each task, in order,
    whether it was solved after training: 1 or 0, for intervals over tasks. `details["training"]` contains `steps`, the
    optimiser steps of both roles, and `tokens`, the number that the rounds sampled (in a run that only imitates: imitated),
    if a `TokenBudget` counts them, else null.

    After `test` it writes `test.json` instead: tag -> value, for each test set, as `test` logs them,
    `<test set>/tokens_per_task`, the tokens sampled per task, and under `"solved"` the same for each set.

    Several processes share the tasks; each task is run once.

    Args:
        max_tasks: tasks of each test set to run; None for all. `test` always runs all.
        before: also measure before training; without it, every `"before"` is null.
    """

    def __init__(self, max_tasks: int | None = None, before: bool = True) -> None:
        self.max_tasks = max_tasks
        self.before = before
        self._before: dict[str, dict[str, float]] = {}
        self._counts: dict[str, int] = {}  # tasks of each test set that `_before` measured
        self._solved: dict[str, str] = {}  # each test set's last measurement
        self._tested: dict[str, tuple[int, list[bool]]] = {}  # test set -> tokens, and which tasks of this process are solved
        self._evaluated_tokens = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the start, unless a resumed run brought its own; values over other tasks than now are left out."""
        now = self._task_counts(trainer)
        if self.before and not self._before:
            self._before, self._counts = self._measure(trainer, "before"), now
        for name in [name for name, count in self._counts.items() if count != now.get(name)]:
            then = counted(self._counts.pop(name), "task")
            if self._before.pop(name, None) is not None and name in now and trainer.is_global_zero:
                print(
                    f"note: before training {name} had {then}, now it has {now[name]}: no value before is shown",
                    flush=True,
                )

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the end; print and write both."""
        after = self._measure(trainer, "after")
        if not trainer.is_global_zero or not after:
            return
        before = self._before if self.before else {}
        table = Table(title=f"greedy episodes, {'before -> ' if before else ''}after training")
        table.add_column("test set")
        for column in COLUMNS:
            table.add_column(column.removeprefix("tools/").removeprefix("plan/"), justify="right")
        for name, values in after.items():
            starts = {c: f"{before[name][c]:.3f} -> " if name in before else "" for c in COLUMNS}
            table.add_row(name, *(f"{starts[c]}{values[c]:.3f}" for c in COLUMNS))
        Console(width=120).print(table)
        summary = {
            name: {
                "before": round(before[name]["task/success"], 6) if name in before else None,
                "after": round(values["task/success"], 6),
            }
            for name, values in after.items()
        }
        details: dict[str, Any] = {
            name: {"before": before.get(name), "after": values, "solved": self._solved.get(name)}
            for name, values in after.items()
        }
        budget = next((c for c in trainer.callbacks if isinstance(c, TokenBudget)), None)  # type: ignore[attr-defined]
        tokens = None if budget is None else budget.tokens or budget.imitated
        details["training"] = {"steps": trainer.global_step, "tokens": tokens}
        path = run_folder(trainer) / "summary.json"
        write_json(path, {**summary, "details": details})
        print(f"written: {path}")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reset the token counts."""
        self._tested = {}
        self._evaluated_tokens = _data(trainer).evaluated_tokens

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the tokens of one batch of a test set."""
        data = _data(trainer)
        spent, self._evaluated_tokens = data.evaluated_tokens - self._evaluated_tokens, data.evaluated_tokens
        if dataloader_idx < len(data.test_tasks):  # benchmarks come after them, and write their own reports
            name = list(data.test_tasks)[dataloader_idx]
            tokens, solved = self._tested.get(name, (0, []))
            self._tested[name] = (tokens + spent, solved + outputs["solved"])

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the values of the test sets; only now has Lightning gathered what the module logged."""
        values: dict[str, float] = {}
        solved: dict[str, str] = {}
        for name in _data(trainer).test_tasks:
            logged = {tag: value for tag, value in trainer.callback_metrics.items() if tag.startswith(f"{name}/")}
            tokens, done = self._tested.get(name, (0, []))
            (tokens_everywhere,) = sum_over_processes([float(tokens)])
            shares = gather_over_processes(done)  # each of every world_size-th task
            in_order = [d for row in zip_longest(*shares) for d in row if d is not None]
            values |= {tag: float(value) for tag, value in logged.items()}
            values[f"{name}/tokens_per_task"] = tokens_everywhere / max(len(in_order), 1)
            solved[name] = "".join(str(int(d)) for d in in_order)
        if trainer.is_global_zero and values:
            path = run_folder(trainer) / "test.json"
            write_json(path, {**values, "solved": solved})
            print(f"written: {path}", flush=True)

    def state_dict(self) -> dict[str, Any]:
        """Return the values before training and their numbers of tasks: a resumed run reports those of its first start."""
        return {"before": self._before, "tasks": self._counts}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the values before training; an older checkpoint lacks their numbers of tasks."""
        self._before, self._counts = dict(state_dict["before"]), dict(state_dict.get("tasks", {}))

    def _task_counts(self, trainer: Trainer) -> dict[str, int]:
        data: RolloutDataModule | None = getattr(trainer, "datamodule", None)
        sets = {} if data is None else data.test_tasks
        return {name: min(len(tasks), self.max_tasks or len(tasks)) for name, tasks in sets.items()}

    def _measure(self, trainer: Trainer, when: str) -> dict[str, dict[str, float]]:
        data = _data(trainer)
        total = sum(self._task_counts(trainer).values())
        if total and trainer.is_global_zero:
            print(
                f"measuring {counted(total, 'test task')} {when} training (lower BeforeAfter.max_tasks to measure fewer)",
                flush=True,
            )
        result = {}
        done, told = 0, time.monotonic()
        for name, tasks in data.test_tasks.items():
            count = min(len(tasks), self.max_tasks or len(tasks))
            metric = ToolUse().to(trainer.strategy.root_device)  # NCCL cannot reduce host tensors
            metric.update([])  # a process without a share, too, has something to add
            tokens: float = -data.evaluated_tokens
            share = range(trainer.global_rank, count, trainer.world_size)
            solved: dict[int, bool] = {}
            for start in range(0, len(share), data.eval_batch_size):
                some = share[start : start + data.eval_batch_size]
                episodes = data.evaluate([tasks[i] for i in some])
                metric.update(episodes)
                solved |= dict(zip(some, map(is_success, episodes), strict=True))
                done += len(some) * trainer.world_size
                if trainer.is_global_zero and time.monotonic() > told + _QUIET_S and done < total:
                    told = time.monotonic()
                    print(f"measured {done} of {total}", flush=True)
            everywhere = {i: done for part in gather_over_processes(solved) for i, done in part.items()}
            self._solved[name] = "".join(str(int(everywhere[i])) for i in range(count))
            (tokens,) = sum_over_processes([float(tokens + data.evaluated_tokens)])
            result[name] = {tag: value.item() for tag, value in metric.compute().items()}
            result[name]["tokens_per_task"] = tokens / max(count, 1)
        return result


def _data(trainer: Trainer) -> RolloutDataModule:
    data: RolloutDataModule = trainer.datamodule  # type: ignore[attr-defined]
    return data
