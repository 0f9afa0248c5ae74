"""Summary of what a run is about to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from cahl_pl.callbacks.token_budget import TokenBudget
from cahl_pl.datamodule import RolloutDataModule
from cahl_pl.datasets.base import TaskSource
from cahl_pl.datasets.report import LoadReport
from cahl_pl.memory_plan import GIB, plan_of, worst_stage
from cahl_pl.plurals import counted
from cahl_pl.policy.bases import expert_weights
from cahl_pl.runs.folder import run_folder
from cahl_pl.types import ROLES


class StartSummary(Callback):
    """Callback that prints base, adapters, planned memory, shape of a round, run and data when training starts.

    Problems with a data file's rows are written to `data.txt` in the run's folder: every row that was left out, or whose
    schema was relaxed, by its id and with the reason (for a file of JSON lines, the first of them). The terminal shows the
    counts and a few rows for each kind of reason.

    Args:
        show: number of rows to name in the terminal, for each kind of reason.
    """

    def __init__(self, show: int = 3) -> None:
        self.show = show

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print and write."""
        if not trainer.is_global_zero:
            return
        data: RolloutDataModule = trainer.datamodule  # type: ignore[attr-defined]
        print(
            "\n".join(
                [
                    *_model(pl_module),
                    *_memory(trainer, pl_module),
                    *_round(data),
                    *_run(trainer, data),
                    *self._data(data),
                ]
            ),
            flush=True,
        )
        reports = [tasks.report for _, tasks in _sources(data) if tasks.report is not None]
        if reports:
            lines = [line for report in reports for line in (report.headline, *report.rows, *_unnamed(report))]
            text = "\n".join(lines) + "\n"
            (run_folder(trainer) / "data.txt").write_text(text, encoding="utf-8", errors="replace")

    def _data(self, data: RolloutDataModule) -> Iterator[str]:
        sources = list(_sources(data))
        width = max(10, *(len(name) for name, _ in sources))
        for name, tasks in sources:
            report = tasks.report
            if report is None:
                yield f"{name:<{width}} {counted(len(tasks), 'task')}"
                continue
            yield f"{name:<{width}} {report.headline}"
            yield from report.summary(self.show)
        if any(tasks.report is not None and any(tasks.report.counts[1:]) for _, tasks in sources):
            yield "           each of these rows: data.txt in the run's folder"


def _unnamed(report: LoadReport) -> Iterator[str]:
    for verb, number in zip(("relaxed", "dropped"), report.unnamed[1:], strict=True):
        if number:
            yield f"  and {number:,} more {verb}, which are not named"


def _model(module: LightningModule) -> Iterator[str]:
    policy: Any = module.policy
    trainable = {role: sum(p.numel() for p in policy.parameters_of(role)) for role in ROLES}
    adapters = ", ".join(f"{role} {count:,}" for role, count in trainable.items())
    config = policy.config
    held = "in 4 bits (nf4)" if config.quantization == "nf4" else f"in {config.dtype}"
    parts = f", in parts on {policy.shards} processes" if policy.shards > 1 else ""
    yield f"base       {config.model} ({policy.causal_lm.config.model_type}), {held}{parts}"
    yield f"trainable  {adapters} parameters (LoRA rank {config.lora_rank})"
    if config.adapters is not None:
        yield f"start      the adapters in {config.adapters}, but for what a checkpoint holds"
    experts = expert_weights(policy.lm) if config.quantization == "nf4" else 0
    if experts:
        yield f"           {experts:,} weights of experts stay in {config.dtype}: NF4 is for linear layers alone"


def _memory(trainer: Trainer, module: LightningModule) -> Iterator[str]:
    planned = plan_of(trainer, module)
    if planned is None:
        return
    worst = worst_stage(*planned)
    yield f"memory     {worst.total / GIB:.1f} GiB at most ({worst.name}), planned for the longest sequences allowed"


def _round(data: RolloutDataModule) -> Iterator[str]:
    config, whole = data.rollout.config, len(data.train_tasks)
    tasks = counted(min(data.tasks_per_round, whole), "task")
    outputs, plans = counted(config.executor_group_size, "output"), counted(config.planner_group_size, "plan")
    if data.single_level:
        shape = f"{tasks} x {outputs} a turn"
    elif config.branching == "trajectory":
        shape = f"{tasks} x {plans} x {counted(config.executor_group_size, 'execution')}"
    else:
        shape = f"{tasks} x {plans} x {outputs} a step"
    last = whole % data.tasks_per_round
    end = f" (the last one of {counted(last, 'task')})" if last and data.rounds_per_epoch > 1 else ""
    yield f"round      {shape}, {counted(data.rounds_per_epoch, 'round')} an epoch{end}"


def _run(trainer: Trainer, data: RolloutDataModule) -> Iterator[str]:
    """Yield the run's length, unless something stops it earlier."""
    budget = next((c for c in trainer.callbacks if isinstance(c, TokenBudget)), None)  # type: ignore[attr-defined]
    steps = data.planned_steps()
    if budget is not None:
        yield f"run        until the rounds have sampled {counted(budget.max_tokens, 'token')}"
    elif steps is not None:
        taken: Counter[str] = Counter()
        rounds = 0
        for index, role in steps:
            taken[role] += 1
            rounds = index + 1
        parts = ", ".join(f"{role} {number:,}" for role, number in taken.items())
        warm = min(rounds, data.warm_start_rounds)
        which = "all of them" if warm == rounds > 1 else "the first round" if warm == 1 else f"the first {warm:,} rounds"
        imitating = f"; {which} imitate{'s' * (warm == 1)} gold" if warm else ""
        yield f"run        {counted(taken.total(), 'optimiser step')} in {counted(rounds, 'round')}: {parts}{imitating}"


def _sources(data: RolloutDataModule) -> Iterator[tuple[str, TaskSource]]:
    yield "train", data.train_tasks
    if data.validation_tasks is not None:
        yield "validation", data.validation_tasks
    yield from data.test_tasks.items()
