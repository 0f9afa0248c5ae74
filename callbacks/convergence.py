"""Monitoring of the two roles' rewards: whether they still move, and move together."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from statistics import linear_regression
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from cahl_pl.types import ROLES, Role, RolloutBatch


@dataclass
class _Trend:
    """One role's latest rewards, their moving average, and for how many rounds they have been flat."""

    rewards: deque[float]
    ema: float = math.nan
    flat: int = 0


class Convergence(Callback):
    """Callback that watches each role's mean reward and reports when it has stopped moving.

    Each role's adapter changes what the other is rewarded for, so neither curve alone shows whether training
    has settled. Per role, once a round, from `<role>/reward/mean` of the batch averaged over processes:

    | tag | value |
    | --- | --- |
    | `convergence/<role>/reward_ema` | e_n = ema e_(n-1) + (1 - ema) r_n, with e_1 = r_1 |
    | `convergence/<role>/slope` | least-squares slope of the last `window` rewards, per round |
    | `convergence/<role>/plateau` | 1 when abs(slope) < min_slope for `patience` rounds in a row, else 0 |
    | `convergence/gap` | the planner's reward_ema minus the executor's |

    The slope is logged once there are `window` rewards. The x-axis is `trainer.global_step`. Rewards that are
    not finite are ignored.

    Args:
        ema: decay of the moving average, in [0, 1); 0 for no smoothing.
        window: number of rewards that the slope is fitted to.
        min_slope: slope below which, in absolute value, rewards are flat, in reward per round.
        patience: flat rounds in a row that make a plateau.
        stop: whether to end training when both roles are on a plateau.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(
        self,
        ema: float = 0.9,
        window: int = 50,
        min_slope: float = 1e-3,
        patience: int = 20,
        stop: bool = False,
    ) -> None:
        for name, value, fits, wanted in (
            ("ema", ema, 0 <= ema < 1, "at least 0 and less than 1"),
            ("window", window, window >= 2, "2 or more"),
            ("min_slope", min_slope, min_slope > 0, "more than 0"),
            ("patience", patience, patience >= 1, "1 or more"),
        ):
            if not fits:
                raise ValueError(f"Convergence.{name} is {value}: give {wanted}")
        self.ema = ema
        self.window = window
        self.min_slope = min_slope
        self.patience = patience
        self.stop = stop
        self._trends: dict[Role, _Trend] = {role: _Trend(deque(maxlen=window)) for role in ROLES}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Add the reward of one role's round."""
        if batch.objective == "supervised" or batch.update > 0:  # further updates carry the same rewards
            return
        # averaged over processes, so that all of them decide alike to stop
        own = torch.tensor(batch.metrics.get(f"{batch.role}/reward/mean", math.nan), device=pl_module.device)
        reward = float(trainer.strategy.reduce(own, reduce_op="mean"))
        if not math.isfinite(reward):
            return
        values = self._follow(batch.role, reward)
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)
        if self.stop and not trainer.should_stop and all(map(self._plateau, _learning(trainer))):
            rank_zero_info("Convergence: the rewards of all roles that learn are flat, so training stops.")
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """Return the rewards seen so far, as plain numbers."""
        return {
            role: {"rewards": list(trend.rewards), "ema": trend.ema, "flat": trend.flat}
            for role, trend in self._trends.items()
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the rewards; a smaller `window` than theirs keeps the latest."""
        for role in ROLES:
            saved = state_dict[role]
            self._trends[role] = _Trend(deque(saved["rewards"], self.window), saved["ema"], saved["flat"])

    def _follow(self, role: Role, reward: float) -> dict[str, float]:
        trend = self._trends[role]
        trend.rewards.append(reward)
        trend.ema = reward if math.isnan(trend.ema) else self.ema * trend.ema + (1 - self.ema) * reward
        values = {f"convergence/{role}/reward_ema": trend.ema}
        if len(trend.rewards) == self.window:
            slope = linear_regression(range(self.window), trend.rewards).slope
            trend.flat = trend.flat + 1 if abs(slope) < self.min_slope else 0
            values[f"convergence/{role}/slope"] = slope
        values[f"convergence/{role}/plateau"] = float(self._plateau(role))
        gap = self._trends["planner"].ema - self._trends["executor"].ema
        if not math.isnan(gap):
            values["convergence/gap"] = gap
        return values

    def _plateau(self, role: Role) -> bool:
        return self._trends[role].flat >= self.patience


def _learning(trainer: Trainer) -> set[Role]:
    """Return the roles that the schedule gives steps: another role's reward is that of an unchanged policy."""
    data = getattr(trainer, "datamodule", None)
    return set(ROLES) if data is None else set(data.roles_of_epoch())
