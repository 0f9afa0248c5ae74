"""What each sub-task is to be answered with: the gold call assigned to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np

from cahl_pl.rewards.similarity import align, similarity_matrix
from cahl_pl.types import GoldCall, Plan, Task, ToolCall

Expects: TypeAlias = Literal["call", "answer", "any"]

_NEARNESS: Final = 1e-3  # far less than one argument's weight in the call similarity: it only breaks ties


@dataclass(frozen=True, slots=True)
class Target:
    """What is expected of the output for one sub-task.

    Attributes:
        expects: a call, an answer in text, or `any` of them: a surplus sub-task, for which there is no gold.
        gold: the gold call, if a call is expected.
    """

    expects: Expects
    gold: GoldCall | None = None


def assign_gold(plan: Plan, task: Task) -> list[Target]:
    """Finds for each sub-task what its execution is scored against.

    The sub-tasks that name a tool are aligned with the gold calls as they stand in a plan (`task.ordered`:
    i-th with i-th; otherwise the best one-to-one match by call similarity, near places first among equals).
    A gold call that is like no sub-task goes to a sub-task left over, in order, so that the executor may
    correct a wrong tool. Sub-tasks without a tool are to be answered in text, and so is every sub-task
    where no call is needed.

    Returns:
        One target per sub-task.
    """
    if not task.gold:
        return [Target("answer") for _ in plan.subtasks]
    places = [k for k, subtask in enumerate(plan.subtasks) if subtask.tool is not None]
    calls = [ToolCall(plan.subtasks[k].tool or "", plan.subtasks[k].parameters) for k in places]
    targets = [Target("any" if subtask.tool is not None else "answer") for subtask in plan.subtasks]
    similarities = similarity_matrix(calls, [gold.planned for gold in task.gold], task.tools)
    rows, columns = np.indices(similarities.shape)
    distance = (rows - columns) / max(*similarities.shape, 1)
    # The square makes keeping the order the cheapest way to resolve ties, pairs of similarity 0 among them.
    for i, j in align(similarities - _NEARNESS * distance**2, task.ordered):
        targets[places[i]] = Target("call", task.gold[j])
    return targets
