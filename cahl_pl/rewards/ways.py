"""Choice among several right ways: the one taken by a plan, or by a list of calls, is scored against."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeAlias

from cahl_pl.rewards.alignment import align
from cahl_pl.rewards.similarity import similarity_matrix
from cahl_pl.schema import call_key
from cahl_pl.types import GoldCall, Plan, Task, ToolCall

_Way: TypeAlias = tuple[GoldCall, ...]


def way_of_plan(task: Task, plan: Plan) -> Task:
    """Return the task with the way that a plan takes as its only one.

    This is the way whose tools match the plan's best, by the multisets' overlap over the larger of the two; on ties the one
    whose calls the sub-tasks resemble most, then the first. A task with one way is returned unchanged.
    """
    if not task.alternatives:
        return task
    planned = [ToolCall(subtask.tool, subtask.parameters) for subtask in plan.subtasks if subtask.tool is not None]
    names = [call.name for call in planned]

    def likeness(way: _Way) -> float:
        similarities = similarity_matrix(planned, [gold.planned for gold in way], task.tools)
        return float(sum(similarities[pair] for pair in align(similarities)))

    return _with_way(task, [lambda way: _overlap(names, (gold.name for gold in way)), likeness])


def way_of_calls(task: Task, calls: Sequence[ToolCall]) -> Task:
    """Return the task with the way that calls take as its only one, without a plan.

    This is the way with the most gold calls among the coerced calls; on ties the one whose tools match best, then the shortest.
    """
    if not task.alternatives:
        return task
    made = [call_key(call, task.tools) for call in calls]
    names = [call.name for call in calls]

    def common(way: _Way) -> float:
        return float((Counter(made) & Counter(call_key(gold.call, task.tools) for gold in way)).total())

    return _with_way(
        task, [common, lambda way: _overlap(names, (gold.name for gold in way)), lambda way: -float(len(way))]
    )


def _with_way(task: Task, criteria: Sequence[Callable[[_Way], float]]) -> Task:
    ways = list(task.ways)
    for criterion in criteria:
        values = [criterion(way) for way in ways]
        ways = [way for way, value in zip(ways, values, strict=True) if value == max(values)]
    return replace(task, gold=ways[0], alternatives=())


def _overlap(names: Sequence[str], others: Iterable[str]) -> float:
    own, other = Counter(names), Counter(others)
    return (own & other).total() / max(own.total(), other.total(), 1)
