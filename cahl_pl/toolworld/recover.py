"""Tasks that a first plan cannot complete: a call fails, and its error says what to do instead.

Whether it fails cannot be predicted from the request or the tools: each request has two tasks, one that is completed by its
first call and one that is not. What the error points to is found nowhere else: a name or a number drawn at random, or one of
several tools that take the same values. So no blind plan is certain to do the rest, and one that tries does too
much if the first call was enough.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from random import Random
from typing import Any, Final

from cahl_pl.toolworld import wording
from cahl_pl.toolworld.generate import WORDS, literals, offers, outcome, pick, solve, split_of, with_distractors
from cahl_pl.toolworld.registry import Tool, ToolError
from cahl_pl.toolworld.tools import TOOLS
from cahl_pl.toolworld.wording import Call
from cahl_pl.types import Message, Task

PROPORTIONS_RECOVER: Mapping[str, float] = {"recover": 0.5, "direct": 0.5}

_DETOURS: Final = ("name", "tool", "number")
_NAMES: Final = ("person", "city", "event", "account", "item", "device")
_NUMBERS: Final = ("money", "quantity", "level")
_OTHERS: Final = 3
"""Minimum number of tools that a `tool` detour might lead to, so that a plan that guesses is mostly wrong."""


def generate_recoveries(
    split: str, seed: int, start: int = 0, proportions: Mapping[str, float] = PROPORTIONS_RECOVER
) -> Iterator[Task]:
    """Return an endless stream of tasks of two kinds that look alike. Task i depends only on the arguments and i.

    The `detour` among a task's tags says what the error of a `recover` task points to, and would point to in a `direct` one:
    `name`: there is no entry for the name in the request, and the error gives the name that has one; `tool`: another of the
    tools offered has the entry, and the error names it; `number`: the number is refused, and the error gives one that is not.

    Args:
        split: as for `generate_tasks`.
        seed: seed of the stream.
        start: index of the first task.
        proportions: relative weight of `recover` (the first call fails, a second one is needed) and `direct` (the first call
            is enough). Request and tools of task i are the same in both cases.

    Raises:
        ValueError: no such kind of task.
    """
    if unknown := set(proportions) - set(PROPORTIONS_RECOVER):
        raise ValueError(f"Unknown kinds of tasks {sorted(unknown)}: use some of {', '.join(PROPORTIONS_RECOVER)}.")
    return (_task(split, seed, index, proportions) for index in itertools.count(start))


def _task(split: str, seed: int, index: int, proportions: Mapping[str, float]) -> Task:
    rng = Random(f"recover/{split}/{seed}/{index}")
    toss = Random(f"recover/{split}/{seed}/{index}/kind")  # separate: the request must not reveal the outcome
    kind = toss.choices(list(proportions), weights=list(proportions.values()))[0]
    detour = rng.choice(_DETOURS)
    while True:
        pair = _pair(split, detour, rng)
        if pair is None or not WORDS[0] <= len(pair["direct"].request.split()) <= WORDS[1]:
            continue
        if split_of(pair["direct"].request) == ("train" if split == "train" else "test"):
            task = pair[kind]
            tags = {"kind": kind, "detour": detour, "calls": str(len(task.gold))}
            return replace(task, id=f"recover-{split}-{seed}-{index}", tags=tags)


def _pair(split: str, detour: str, rng: Random) -> dict[str, Task] | None:
    """Return both tasks of one request by kind, or None if the draw cannot be carried out."""
    tool = pick(split, rng, lambda tool: tool.stateful and bool(_turning(tool, detour, split)))
    if split == "test_unseen_tools" and not tool.unseen:
        return None
    used: set[str] = set()
    first = Call(tool, literals(tool, rng, used))
    others = _alike(tool, split)
    rng.shuffle(others)
    gold_tools = [tool, *others[:_OTHERS]] if detour == "tool" else [tool]
    specs, names, state = offers(with_distractors(gold_tools, split, rng), rng)
    if len({spec.name for spec in specs}) < len(specs):
        return None
    if detour == "tool":
        second = Call(others[0], dict(zip(others[0].parameters, first.arguments.values(), strict=True)))
        error = f"not listed here, use {names[others[0].id]}"
    else:
        changed = rng.choice(_turning(tool, detour, split))
        old, new = first.arguments[changed], literals(tool, rng, used)[changed]
        second = Call(tool, {**first.arguments, changed: new})
        error = f"no entry for {old}, see {new}" if detour == "name" else f"{old} is refused, use {new}"
    done = copy.deepcopy(state)
    try:
        (direct,) = solve([first], names, done, None, rng)
        state["refused"] = [{"tool": direct.name, "arguments": direct.arguments, "error": error}]
        (detoured,) = solve([second], names, state, None, rng)
    except ToolError:
        return None
    failing = replace(direct, result={"error": error})
    task = Task("", (Message("user", wording.request([first], rng)),), specs)
    return {
        "direct": replace(task, gold=(direct,), state=done, outcome=outcome([first], [first], [direct], done)),
        "recover": replace(
            task,
            gold=(failing, detoured),
            foreseen=1,
            ordered=True,  # for an executor that works alone too, the second call is due once the first has failed
            state=state,
            outcome=outcome([second], [first, second], [failing, detoured], state),
        ),
    }


def _turning(tool: Tool, detour: str, split: str) -> list[str]:
    """Return the parameters that a detour may change; for the detour `tool` all, if enough tools are alike."""
    if detour == "tool":
        return list(tool.parameters) if len(_alike(tool, split)) >= _OTHERS else []
    kinds = _NAMES if detour == "name" else _NUMBERS
    return [name for name, one in tool.parameters.items() if one.kind is not None and one.kind.name in kinds]


def _alike(tool: Tool, split: str) -> list[Tool]:
    """Return the other tools that take the same values, and that likewise only look up, or only act."""
    wanted = _taken(tool)
    allowed = (other for other in TOOLS.values() if split == "test_unseen_tools" or not other.unseen)
    return [other for other in allowed if other is not tool and _taken(other) == wanted]


def _taken(tool: Tool) -> tuple[Any, ...]:
    parameters = tool.parameters.values()
    return (
        bool(tool.asks),
        tool.stateful,
        *((one.type, one.choices, one.kind and one.kind.name) for one in parameters),
    )
