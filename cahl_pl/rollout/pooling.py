"""Plans of one request that say the same: their rewards differ by chance alone (`GRPOConfig.pool_equal_plans`)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cahl_pl.schema import canonical
from cahl_pl.types import Plan


def equal_plans(plans: Sequence[Plan]) -> Tensor:
    """Return `Group.alike` of a group of plans, [G]: equal plans get equal numbers; an unreadable one equals no other."""
    numbers: dict[str, int] = {}
    keys = [_said(plan) if plan.error is None else f"unreadable {i}" for i, plan in enumerate(plans)]
    return torch.tensor([numbers.setdefault(key, i) for i, key in enumerate(keys)])


def _said(plan: Plan) -> str:
    """Return a key of what a plan tells the executor, equal for plans that tell it the same, instructions included."""
    return canonical([[s.instruction.strip(), s.tool, dict(s.parameters)] for s in plan.subtasks])
