"""What a run is about to do, before it does it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from cahl_pl.datamodule import RolloutDataModule
from cahl_pl.datasets.base import TaskSource
from cahl_pl.memory_plan import GIB, plan_of, worst_stage
from cahl_pl.runs.folder import run_folder
from cahl_pl.types import ROLES


class StartSummary(Callback):
    """Prints the base, the adapters, the planned memory, the shape of a round and the data when training starts.

    What became of each row of a data file is written to `data.txt` in the run's folder: every row that was left out,
    or whose schema was relaxed, by its id and with the reason. The terminal gets the counts and the first few.

    Args:
        show: rows to name in the terminal, for each file.
    """

    def __init__(self, show: int = 3) -> None:
        self.show = show

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print and write."""
        if not trainer.is_global_zero:
            return
        data: RolloutDataModule = trainer.datamodule  # type: ignore[attr-defined]
        print(
            "\n".join([*_model(pl_module), *_memory(trainer, pl_module), *_round(data), *self._data(data)]), flush=True
        )
        reports = [str(tasks.report) for _, tasks in _sources(data) if tasks.report is not None]
        if reports:
            text = "\n".join(reports) + "\n"
            (run_folder(trainer) / "data.txt").write_text(text, encoding="utf-8", errors="replace")

    def _data(self, data: RolloutDataModule) -> Iterator[str]:
        sources = list(_sources(data))
        width = max(10, *(len(name) for name, _ in sources))
        for name, tasks in sources:
            report = tasks.report
            if report is None:
                yield f"{name:<{width}} {len(tasks)} tasks"
                continue
            first, *rows = str(report).splitlines()
            yield f"{name:<{width}} {first}"
            yield from rows[: self.show]
            if len(rows) > self.show:
                yield f"  and {len(rows) - self.show} more, named in data.txt in the run's folder"


def _model(module: LightningModule) -> Iterator[str]:
    policy: Any = module.policy
    trainable = {role: sum(p.numel() for p in policy.parameters_of(role)) for role in ROLES}
    adapters = ", ".join(f"{role} {count:,}" for role, count in trainable.items())
    config = policy.config
    yield f"base       {config.model} ({policy.causal_lm.config.model_type}), {config.quantization or 'none'} quantization"
    yield f"trainable  {adapters} parameters (LoRA rank {config.lora_rank})"


def _memory(trainer: Trainer, module: LightningModule) -> Iterator[str]:
    planned = plan_of(trainer, module)
    if planned is None:
        return
    worst = worst_stage(*planned)
    yield f"memory     {worst.total / GIB:.1f} GiB at most ({worst.name}), planned for the longest sequences allowed"


def _round(data: RolloutDataModule) -> Iterator[str]:
    config = data.rollout.config
    yield (
        f"round      {data.tasks_per_round} tasks x {config.planner_group_size} plans x {config.executor_group_size} "
        f"outputs a step, {data.rounds_per_epoch} rounds an epoch"
    )


def _sources(data: RolloutDataModule) -> Iterator[tuple[str, TaskSource]]:
    yield "train", data.train_tasks
    if data.validation_tasks is not None:
        yield "validation", data.validation_tasks
    yield from data.test_tasks.items()
