"""Targets of sub-tasks: the gold calls assigned to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from cahl_pl.rewards.alignment import align_plan
from cahl_pl.types import GoldCall, Plan, Task

Expects: TypeAlias = Literal["call", "answer"]


@dataclass(frozen=True, slots=True)
class Target:
    """Target of the output for one sub-task.

    Attributes:
        expects: a call, or an answer in text.
        gold: the gold call, if a call is expected.
    """

    expects: Expects
    gold: GoldCall | None = None


def assign_gold(plan: Plan, task: Task) -> list[Target]:
    """Find the target that the execution of each sub-task is scored against.

    The sub-tasks that name a tool are matched with the gold calls (`align_plan`); one whose tool is wrong may get a
    remaining gold call, so that the executor can correct it. Every other sub-task is to be answered in text: one without a
    tool, a surplus one, and all of them if no call is needed. So the executor is never rewarded for a surplus call.

    Returns:
        One target per sub-task.
    """
    match = align_plan(plan, task)
    return [Target("call", task.gold[match[k]]) if k in match else Target("answer") for k in range(len(plan.subtasks))]
