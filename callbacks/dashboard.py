"""Views of loggers beyond single curves: both roles side by side, distributions, and settings beside final metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from cahl_pl.datamodule import RolloutDataModule
from cahl_pl.metrics import is_success
from cahl_pl.runs.trackers import log_histograms, log_summary
from cahl_pl.types import ROLES, RolloutBatch

if TYPE_CHECKING:
    from cahl_pl.module import CAHLModule

SIDE_BY_SIDE = (
    "reward/mean",
    "reward/std",
    "frac_zero_std",
    "length/mean",
    "entropy",
    "kl",
    "ratio",
    "grad_norm",
    "lr",
)


class Dashboard(Callback):
    """Content of TensorBoard's tabs Custom scalars, Histograms and HParams, and the parts that W&B and MLflow can show.

    - Custom scalars: planner and executor in one chart, for each tag that both have; the components of each role's reward
      in one chart; invalid calls by cause in one chart.
    - Histograms `<role>/rewards`, `<role>/advantages` and `<role>/lengths` (tokens), of all samples of a round, before equal
      groups are left out.
    - HParams: the run's settings, beside the rewards and the success of its last round (that of the first process),
      written when it ends.

    W&B has the histograms (`histograms/<role>/...`), the settings and the final metrics, MLflow the last two; charts of several
    curves are laid out there in the browser. The x-axis is `trainer.global_step`.

    Args:
        every_n_rounds: rounds between two histograms; 0 for none.

    Raises:
        ValueError: `every_n_rounds` is negative.
    """

    def __init__(self, every_n_rounds: int = 5) -> None:
        if every_n_rounds < 0:
            raise ValueError(f"Dashboard.every_n_rounds is {every_n_rounds}: give 0 or more")
        self.every_n_rounds = every_n_rounds
        self._rounds: dict[str, int] = dict.fromkeys(ROLES, 0)
        self._final: dict[str, float] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lay out the charts."""
        for writer in _writers(trainer):
            writer.add_custom_scalars(layout(trainer.datamodule))  # type: ignore[attr-defined]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Write the histograms of a role's round, with its first update on it."""
        if batch.trajectories:
            self._final["final/success"] = sum(map(is_success, batch.trajectories)) / len(batch.trajectories)
        rewards = {f"final/{role}/reward": batch.metrics.get(f"{role}/reward/mean") for role in ROLES}
        self._final |= {name: value for name, value in rewards.items() if value is not None}
        if batch.objective == "supervised" or batch.update > 0 or not batch.groups or not self.every_n_rounds:
            return
        self._rounds[batch.role] += 1
        if (self._rounds[batch.role] - 1) % self.every_n_rounds:
            return
        values = {
            "rewards": torch.cat([group.rewards for group in batch.groups]),
            "advantages": torch.cat([group.advantages for group in batch.groups]),
            "lengths": torch.tensor([float(len(ids)) for group in batch.groups for ids in group.completion_ids]),
        }
        for writer in _writers(trainer):
            for name, value in values.items():
                writer.add_histogram(f"{batch.role}/{name}", value.float().cpu(), trainer.global_step)
        if trainer.is_global_zero:
            tagged = {f"histograms/{batch.role}/{name}": value for name, value in values.items()}
            for logger in trainer.loggers:
                log_histograms(logger, tagged, trainer.global_step)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the settings beside the final metrics."""
        module: CAHLModule = pl_module  # type: ignore[assignment]
        if not self._final or not trainer.is_global_zero:
            return
        chosen = settings(module, trainer.datamodule)  # type: ignore[attr-defined]
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(chosen, self._final, trainer.global_step)
                logger.save()
            log_summary(logger, chosen, self._final, trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        """Return the rounds seen of each role."""
        return dict(self._rounds)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the counts."""
        self._rounds.update(state_dict)


def layout(data: RolloutDataModule) -> dict[str, dict[str, list[Any]]]:
    """Return the charts of the tab Custom scalars: tab section -> chart -> kind and tags."""
    components = {
        "planner": ("param", "exe", "outcome"),
        "executor": ("form", "syn", "sem", "names", "parameters", "values", "exact", "correct", "outcome"),
    }
    roles = ("executor",) if data.single_level else ROLES
    return {
        "planner and executor": {tag: ["Multiline", [f"{role}/{tag}$" for role in roles]] for tag in SIDE_BY_SIDE},
        "reward components": {
            role: ["Multiline", [f"{role}/reward/({'|'.join(components[role])})$"]] for role in roles
        },
        "tools": {
            "success": ["Multiline", ["^task/success$"]],
            "invalid calls": ["Multiline", ["^tools/invalid_rate"]],
            "economy": ["Multiline", ["^tools/(redundant_rate|excess|error_rate)$"]],
        },
    }


def settings(module: CAHLModule, data: RolloutDataModule) -> dict[str, Any]:
    """Return the settings that distinguish runs, flat: numbers and texts."""
    rollout, policy = data.rollout.config, module.policy.config
    return {
        "model": policy.model,
        "adapter": policy.adapter,
        "quantization": policy.quantization or "none",
        "lora_rank": policy.lora_rank,
        **{f"{role}_loss": config.loss for role, config in module.grpo.items()},
        **{f"{role}_kl": config.kl for role, config in module.grpo.items()},
        **{f"{role}_scale_rewards": config.scale_rewards for role, config in module.grpo.items()},
        **{f"{role}_lr": config.lr for role, config in module.optimizer_config.items()},
        "planner_group_size": rollout.planner_group_size,
        "executor_group_size": rollout.executor_group_size,
        "branching": rollout.branching,
        "tasks_per_round": data.tasks_per_round,
        "updates_per_round": data.updates_per_round,
        "schedule": type(data.schedule).__name__,
        "single_level": data.single_level,
        "seed": data.seed,
    }


def _writers(trainer: Trainer) -> list[Any]:
    if not trainer.is_global_zero:
        return []
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
