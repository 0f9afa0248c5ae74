"""Each role's optimiser and learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

from transformers import SchedulerType


@dataclass
class OptimizerConfig:
    """One role's optimiser (AdamW) and learning rate.

    Attributes:
        lr: peak learning rate.
        lr_schedule: a schedule of `transformers.get_scheduler`: `constant`, `constant_with_warmup`, `linear`, `cosine`, ...
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
        known = [kind.value for kind in SchedulerType]
        if self.lr_schedule not in known:
            raise ValueError(f"there is no lr_schedule {self.lr_schedule!r}; there are {', '.join(known)}")
