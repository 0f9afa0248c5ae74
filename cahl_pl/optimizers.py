"""A role's optimiser: its configuration, its construction, and its settings after a resume or a warm start."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import get_scheduler

from cahl_pl.errors import ConfigError
from cahl_pl.types import Role

DECAYING = ("linear", "cosine", "cosine_with_restarts", "polynomial")
"""Schedules that end with the run, and have to know its length."""
LR_SCHEDULES = ("constant", "constant_with_warmup", "inverse_sqrt", *DECAYING)
"""The schedules of `transformers.get_scheduler` that need nothing but warm-up and length: no measured value as
`reduce_lr_on_plateau` and `greedy` do, and no further arguments as `cosine_with_min_lr` and `warmup_stable_decay` do."""

POLYNOMIAL_END = 1e-7
"""The learning rate at which transformers' `polynomial` ends."""


@dataclass
class OptimizerConfig:
    """One role's optimiser (AdamW) and learning rate.

    Attributes:
        lr: peak learning rate.
        lr_schedule: a schedule of `transformers.get_scheduler`: `constant`, `constant_with_warmup`, `inverse_sqrt`, or one
            that ends with the run, with its steps or with the tokens of a `TokenBudget`: `linear`, `cosine`,
            `cosine_with_restarts`, `polynomial`.
        warmup_steps: steps of this role over which the rate rises from 0.
        warm_start_lr: constant learning rate of the supervised warm start.
        betas: AdamW's betas.
        weight_decay: AdamW's weight decay.
        max_grad_norm: gradients are scaled down to this norm; `.inf` leaves them as they are.
        lora_plus_ratio: learning rate of LoRA's B relative to A's (LoRA+, arXiv 2402.12354, which uses 16; then lower lr).

    Raises:
        ValueError: a value is out of its range, or there is no such schedule.
    """

    lr: float = 1e-5
    lr_schedule: str = "constant"
    warmup_steps: int = 0
    warm_start_lr: float = 2e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    lora_plus_ratio: float = 1.0

    def __post_init__(self) -> None:
        for name in ("lr", "warm_start_lr", "weight_decay", "warmup_steps"):
            if not 0 <= getattr(self, name) < math.inf:
                finite = "" if math.isfinite(getattr(self, name)) else ", and a finite number"
                raise ValueError(f"{name} of an optimiser is {getattr(self, name)}: give 0 or more{finite}")
        if not self.max_grad_norm > 0:
            raise ValueError(
                f"max_grad_norm is {self.max_grad_norm}: give more than 0; .inf leaves gradients as they are"
            )
        if not 0 < self.lora_plus_ratio < math.inf:
            raise ValueError(f"lora_plus_ratio of an optimiser is {self.lora_plus_ratio}: give more than 0")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas of an optimiser are {self.betas}: give two values from 0 to below 1")
        if self.lr_schedule == "polynomial" and self.lr <= POLYNOMIAL_END:
            raise ValueError(f"lr of an optimiser is {self.lr}, where polynomial ends: give more than {POLYNOMIAL_END}")
        if self.lr_schedule not in LR_SCHEDULES:
            raise ValueError(f"there is no lr_schedule {self.lr_schedule!r} here; there are {', '.join(LR_SCHEDULES)}")


def make_optimizer(
    named: Mapping[str, nn.Parameter], config: OptimizerConfig, num_steps: int
) -> tuple[torch.optim.Optimizer, Any]:
    """Return AdamW and its schedule over one role's parameters.

    Args:
        named: the parameters by name.
        config: the role's configuration.
        num_steps: the role's steps after the warm start, the length of the schedule.
    """
    groups = [list(named.values())]
    if config.lora_plus_ratio != 1:
        fast = [name for name, p in named.items() if "lora_B" in name or "lora_embedding_B" in name or p.ndim == 1]
        groups = [[p for name, p in named.items() if name not in fast], [named[name] for name in fast]]
    optimizer = torch.optim.AdamW(
        [{"params": group, "lr": config.lr * ratio} for group, ratio in zip(groups, _ratios(config), strict=False)],
        betas=(config.betas[0], config.betas[1]),
        weight_decay=config.weight_decay,
    )
    return optimizer, get_scheduler(config.lr_schedule, optimizer, config.warmup_steps, num_steps)


def set_rate(optimizer: Any, config: OptimizerConfig, rate: float) -> None:
    """Set A's learning rate to `rate`, and B's to its multiple."""
    for group, ratio in zip(optimizer.param_groups, _ratios(config), strict=False):
        group["lr"] = rate * ratio


def hold_to(optimizer: Any, scheduler: Any, config: OptimizerConfig) -> None:
    """Apply the configured settings where a checkpoint has restored older ones."""
    for group in optimizer.param_groups:
        group["betas"], group["weight_decay"] = tuple(config.betas), config.weight_decay
    ratios = _ratios(config)[: len(optimizer.param_groups)]
    scheduler.base_lrs = [config.lr * ratio for ratio in ratios]


def scheduled_rate(scheduler: Any, config: OptimizerConfig, num_steps: int, spent: float = 0.0) -> float:
    """Return the learning rate of A for the next step.

    `get_last_lr` would return the checkpoint's rate after a start with another one.

    Args:
        scheduler: the scheduler from `make_optimizer`.
        config: the role's configuration.
        num_steps: the number that it was made with.
        spent: share of a budget of tokens that is spent, from 0 to 1. A schedule that ends with the run ends with its steps or
            with its budget, whichever comes first.
    """
    step: float = scheduler.last_epoch
    if config.lr_schedule in DECAYING and step >= config.warmup_steps:
        step = max(step, config.warmup_steps + spent * (num_steps - config.warmup_steps))
    return float(scheduler.base_lrs[0] * scheduler.lr_lambdas[0](step))


def check_state(role: Role, config: OptimizerConfig, state: Mapping[str, Any]) -> None:
    """Compare the configured optimiser with its state in a checkpoint.

    Raises:
        ConfigError: the parameters are grouped differently.
    """
    before, now = len(state["param_groups"]) > 1, config.lora_plus_ratio != 1
    if before != now:
        raise ConfigError(
            f"the checkpoint was written {'with' if before else 'without'} LoRA+, but model.{role}.lora_plus_ratio is now "
            f"{config.lora_plus_ratio:g}: set it as it was (1 is without), or start a new run"
        )


def forget_moments(optimizer: torch.optim.Optimizer) -> None:
    """Reset AdamW: the moments of the warm start's gradients say nothing about those to come."""
    optimizer.state.clear()


def _ratios(config: OptimizerConfig) -> Sequence[float]:
    return (1.0, config.lora_plus_ratio)
