"""Optimisers and learning rates: what can be configured of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

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
            that ends with the run: `linear`, `cosine`, `cosine_with_restarts`, `polynomial`.
        warmup_steps: steps of this role over which the rate rises from 0.
        warm_start_lr: constant learning rate of the supervised warm start.
        betas: of AdamW.
        weight_decay: of AdamW.
        max_grad_norm: gradients are scaled down to this norm; `.inf` leaves them as they are.

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

    def __post_init__(self) -> None:
        for name in ("lr", "warm_start_lr", "weight_decay", "warmup_steps"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} of an optimiser is {getattr(self, name)}: give 0 or more")
        if not self.max_grad_norm > 0:
            raise ValueError(
                f"max_grad_norm is {self.max_grad_norm}: give more than 0; .inf leaves gradients as they are"
            )
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas of an optimiser are {self.betas}: give two values from 0 to below 1")
        if self.lr_schedule == "polynomial" and self.lr <= POLYNOMIAL_END:
            raise ValueError(f"lr of an optimiser is {self.lr}, where polynomial ends: give more than {POLYNOMIAL_END}")
        if self.lr_schedule not in LR_SCHEDULES:
            raise ValueError(f"there is no lr_schedule {self.lr_schedule!r} here; there are {', '.join(LR_SCHEDULES)}")
