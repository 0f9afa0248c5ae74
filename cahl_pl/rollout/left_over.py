"""Remainder of a task once some calls have been made: the task that a further plan is made for and scored against."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from cahl_pl.prompts import dialogue
from cahl_pl.python_tools.results import json_text
from cahl_pl.schema import call_key
from cahl_pl.schema.references import REFERENCE, look_up, read_reference, references_in
from cahl_pl.types import NO_RESULT, GoldCall, Plan, Step, Task, ToolCall, Trajectory

_AMOUNT: Final = re.compile(r"[.,]?\d")  # what follows "$1" in $1.50, $1,000 and $12345


def after(task: Task, steps: Sequence[Step]) -> Task:
    """Return the task with its dialogue extended by the calls and their answers."""
    return replace(task, messages=(*task.messages, *dialogue(Trajectory(task, "", Plan(), tuple(steps)))))


def has_failed(step: Step) -> bool:
    """Return whether a step made a call that failed."""
    return step.action.call is not None and step.feedback is not None and step.feedback.error is not None


def left_over(task: Task, steps: Sequence[Step]) -> Task:
    """Return the task of a further plan, made after these steps.

    Its dialogue contains the calls made and their answers. Its gold calls, and those of each alternative way, are those not
    yet made (by `call_key`; equal calls count once each). A reference to the result of a call already made is replaced by the
    value itself; the others are renumbered. If all calls of a way have been made, nothing is left, and the right plan
    answers in text. Unforeseeable gold calls can be planned once a foreseeable one has failed, or all
    of these have been made.

    It has no outcome: what earlier calls achieved could not be told apart from what is left.

    Args:
        task: the original task, or one left over after an earlier plan.
        steps: steps taken since.
    """
    made = [call for step in steps if (call := step.action.call) is not None]
    ways = [_not_made(way, made, task) for way in task.ways]
    rests = [_renumbered(way, left) for way, left in zip(task.ways, ways, strict=True)]
    gold, *alternatives = rests if all(rests) else [()]
    foreseen = _foreseen(task, steps, ways[0]) if gold else None
    return replace(after(task, steps), gold=gold, alternatives=tuple(alternatives), foreseen=foreseen, outcome=None)


def _not_made(way: Sequence[GoldCall], made: Sequence[ToolCall], task: Task) -> list[int]:
    """Return the indices, from 0, of a way's calls that have not been made."""
    done = Counter(call_key(call, task.tools) for call in made)
    left = []
    for i, gold in enumerate(way):
        key = call_key(gold.call, task.tools)
        if done[key]:
            done[key] -= 1
        else:
            left.append(i)
    return left


def _foreseen(task: Task, steps: Sequence[Step], left: Sequence[int]) -> int | None:
    """Return how many of the remaining gold calls can be planned now; None for all."""
    if task.foreseen is None:
        return None
    first = {call_key(gold.call, task.tools) for gold in task.foreseeable.gold}
    failed = (step.action.call for step in steps if has_failed(step))
    if any(call is not None and call_key(call, task.tools) in first for call in failed):
        return None
    return sum(i < task.foreseen for i in left) or None


def _renumbered(way: Sequence[GoldCall], left: Sequence[int]) -> tuple[GoldCall, ...]:
    """Return the remaining calls, without references to the others."""
    numbers = {i + 1: new for new, i in enumerate(left, start=1)}
    calls = []
    for i in left:
        gold = way[i]
        filled = {name: _filled(written, gold.arguments[name], numbers) for name, written in gold.references.items()}
        references = {name: written for name, written in filled.items() if any(True for _ in references_in(written))}
        calls.append(replace(gold, references=references, instruction=_said(gold, way, numbers)))
    return tuple(calls)


def _filled(written: Any, value: Any, numbers: Mapping[int, int]) -> Any:
    """Return what a planner now writes for a value, given what it wrote before any call was made."""
    if isinstance(written, Mapping) and isinstance(value, Mapping) and written.keys() == value.keys():
        return {key: _filled(item, value[key], numbers) for key, item in written.items()}
    if isinstance(written, list) and isinstance(value, list) and len(written) == len(value):
        return [_filled(*pair, numbers) for pair in zip(written, value, strict=True)]
    reference = read_reference(written)
    if reference is None or reference.call not in numbers:
        return value
    return f"${numbers[reference.call]}{written.removeprefix(f'${reference.call}')}"


def _said(gold: GoldCall, way: Sequence[GoldCall], numbers: Mapping[int, int]) -> str:
    """Return the call's instruction with known results filled in and the other references renumbered."""
    wanted = {one.call for one in references_in(gold.references)}  # "$5" may be an amount

    def put(found: re.Match[str]) -> str:
        reference = read_reference(found[0])
        is_amount = not found["path"] and _AMOUNT.match(gold.instruction, found.end())
        if reference is None or reference.call not in wanted or is_amount:
            return found[0]
        if reference.call in numbers:
            return f"${numbers[reference.call]}{found['path']}"
        result = way[reference.call - 1].result
        try:
            value = None if result is NO_RESULT else look_up(result, reference.path)
        except LookupError:
            value = None
        return found[0] if value is None else value if isinstance(value, str) else json_text(value)

    return REFERENCE.sub(put, gold.instruction)
