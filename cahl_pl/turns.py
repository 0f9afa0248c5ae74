"""What comes next of a request's gold calls, for an executor that works without a planner."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from cahl_pl.schema import call_key
from cahl_pl.types import GoldCall, Task, ToolCall


def next_calls(task: Task, made: Sequence[ToolCall]) -> tuple[GoldCall, ...]:
    """The gold calls that a right output makes now: those that have not been made and wait for no other's result.

    Of ordered gold calls without references nobody knows which wait for which: they come one at a time.

    Args:
        task: the task.
        made: the calls made so far, in order; equal ones count once each.

    Returns:
        Gold calls in their order; empty when all have been made, so that an answer in text is right.
    """
    done = Counter(call_key(call, task.tools) for call in made)
    left = []
    for number, gold in enumerate(task.gold, start=1):
        key = call_key(gold.call, task.tools)
        if done[key]:
            done[key] -= 1
        else:
            left.append((number, gold))
    if task.ordered and not any(gold.references for gold in task.gold):
        return tuple(gold for _, gold in left[:1])
    waiting = {f"${number}" for number, _ in left}
    return tuple(gold for _, gold in left if not waiting & set(gold.references.values()))


def is_on_track(task: Task, made: Sequence[ToolCall]) -> bool:
    """Return whether the calls made so far are gold calls, each once: else no later one can make the episode a success.

    Of a task without gold calls that is judged by its outcome nobody can tell: True.
    """
    if not task.gold and task.outcome is not None and task.outcome.needs_tools:
        return True
    done = Counter(call_key(call, task.tools) for call in made)
    return done <= Counter(call_key(gold.call, task.tools) for gold in task.gold)


def gold_turns(task: Task) -> list[tuple[GoldCall, ...]]:
    """The gold calls turn by turn: each turn's are made together, once those of the turns before have been answered."""
    turns: list[tuple[GoldCall, ...]] = []
    made: list[ToolCall] = []
    while turn := next_calls(task, made):
        turns.append(turn)
        made += [gold.call for gold in turn]
    return turns
