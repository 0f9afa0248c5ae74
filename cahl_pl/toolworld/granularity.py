"""Tasks that can be done in several ways: by one call of a compound, or by the chain of calls that it stands for.

The planner reads what tools are for, the executor how the chosen one is called. Neither's prompt tells which way is
better: a compound may need a code that is only in its schema, a chain needs values that only its own results provide, and
either may be beyond an executor.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any, Literal, NamedTuple, TypeAlias

from cahl_pl.toolworld import wording
from cahl_pl.toolworld.compounds import CODE, Link, compound_id, find_tool, is_coded, links, places
from cahl_pl.toolworld.generate import (
    WORDS,
    clash,
    literals,
    offers,
    outcome,
    pick,
    solve,
    split_of,
    with_distractors,
    without_calls,
)
from cahl_pl.toolworld.registry import State, Tool, ToolError
from cahl_pl.toolworld.wording import Call
from cahl_pl.types import GoldCall, Message, Task

PROPORTIONS_2: Mapping[str, float] = {"none": 0.08, "single": 0.17, "chain": 0.5, "pair": 0.25}

Habit: TypeAlias = Literal["none", "no_codes", "literal_references", "unsure"]
"""Mistakes of a task's gold calls: they leave out codes, write "$1" where the result of the first call belongs, or
(`unsure`) always leave out codes and write "$1" in a share `SPOILT` of the possible places."""

SPOILT = 0.6


class _Want(NamedTuple):
    """One thing that a request asks for: the result of the last call of a chain."""

    tree: Call
    chain: tuple[Link, ...]
    calls: tuple[Call, ...]


def generate_choices(
    split: str, seed: int, start: int = 0, proportions: Mapping[str, float] = PROPORTIONS_2, habit: Habit = "none"
) -> Iterator[Task]:
    """Return an endless stream of ToolWorld 2 tasks. Task i depends only on the arguments and i.

    Args:
        split: as for `generate_tasks`.
        seed: seed of the stream.
        start: index of the first task.
        proportions: relative weight of each kind of task: `none` (no call is right), `single` (one call, one way), `chain`
            (two or three calls, or fewer of compounds), `pair` (a chain of two and a single call).
        habit: mistakes of the gold calls, for a warm start that leaves an executor unable to do something.

    Raises:
        ValueError: no such kind of task.
    """
    if unknown := set(proportions) - set(PROPORTIONS_2):
        raise ValueError(f"Unknown kinds of tasks {sorted(unknown)}: use some of {', '.join(PROPORTIONS_2)}.")
    return (_task(split, seed, index, proportions, habit) for index in itertools.count(start))


def _task(split: str, seed: int, index: int, proportions: Mapping[str, float], habit: Habit) -> Task:
    rng = Random(f"2/{split}/{seed}/{index}")
    kind = rng.choices(list(proportions), weights=list(proportions.values()))[0]
    depths = {"single": (1,), "chain": rng.choices(((2,), (3,)), weights=(70, 30))[0], "pair": (2, 1), "none": ()}[kind]
    while True:
        task = without_calls(split, rng) if kind == "none" else _with_ways(split, depths, habit, rng)
        if task is None or not WORDS[0] <= len(task.request.split()) <= WORDS[1]:
            continue
        if split_of(task.request) == ("train" if split == "train" else "test"):
            tags = {
                "kind": f"chain of {depths[0]}" if kind == "chain" else kind,
                "ways": str(1 + len(task.alternatives)),
            }
            return replace(task, id=f"2-{split}-{seed}-{index}", tags=tags)


def _with_ways(split: str, depths: Sequence[int], habit: Habit, rng: Random) -> Task | None:
    """Return a request for chains of these depths, or None if the draw does not run, or names are ambiguous."""
    used: set[str] = set()
    wants = [_want(depth, split, rng, used) for depth in depths]
    rng.shuffle(wants)
    trees = [want.tree for want in wants]
    calls = [call for want in wants for call in want.calls]
    if clash(trees) or len({call.tool.id for call in calls}) < len(calls):
        return None
    if split == "test_unseen_tools" and not any(call.tool.unseen for call in calls):
        return None
    compounds = [find_tool(compound_id(part)) for want in wants for part in _parts(want.chain) if len(part) > 1]
    offered = _offered([call.tool for call in calls], compounds, split, rng)
    specs, names, state = offers(offered, rng)
    if len({spec.name for spec in specs}) < len(offered):
        return None
    try:
        fine = solve(calls, names, state, None, rng)
    except ToolError:
        return None
    results = {id(call): gold.result for call, gold in zip(calls, fine, strict=True)}
    spoils = _Spoils(habit, Random(f"{sorted(names.items())}"))  # separate: the same requests with every habit
    ways = [
        _way(segments, names, state, results, spoils)
        for segments in itertools.product(*(list(_segmentations(want)) for want in wants))
    ]
    rng.shuffle(ways)
    request = wording.request(trees, rng)
    after = outcome(trees, calls, fine, state)
    messages = (Message("user", request),)
    return Task("", messages, specs, ways[0], state=state, outcome=after, alternatives=tuple(ways[1:]))


class _Spoils:
    """Mistakes of a habit, drawn for one place after another."""

    def __init__(self, habit: Habit, rng: Random) -> None:
        self._habit, self._rng = habit, rng

    def code(self) -> bool:
        return self._habit in ("no_codes", "unsure")

    def reference(self) -> bool:
        return self._habit == "literal_references" or (self._habit == "unsure" and self._rng.random() < SPOILT)


def _want(depth: int, split: str, rng: Random, used: set[str]) -> _Want:
    """Return a chain of `depth` calls, drawn from its end, where each domain of the last tool is equally likely."""
    usable = [pair for pair in links() if split == "test_unseen_tools" or not (pair[0].unseen or pair[1].tool.unseen)]
    if depth == 1:
        tool = pick(split, rng)
        call = Call(tool, literals(tool, rng, used))
        return _Want(call, (Link(tool),), (call,))
    while True:
        domain = rng.choice(sorted({link.tool.domain for _, link in usable}))
        producer, last = rng.choice([pair for pair in usable if pair[1].tool.domain == domain])
        chain: tuple[Link, ...] = (Link(producer), last)
        while len(chain) < depth:
            before = [pair for pair in usable if pair[1].tool is chain[0].tool]
            if not before:
                break
            producer, link = rng.choice(before)
            chain = (Link(producer), link, *chain[1:])
        if len(chain) == depth and len({link.tool.id for link in chain}) == depth:
            break
    calls: list[Call] = []
    for link in chain:
        arguments = literals(link.tool, rng, used)
        if calls:
            arguments[str(link.feeds)] = calls[-1]
        calls.append(Call(link.tool, arguments))
    return _Want(calls[-1], chain, tuple(calls))


def _parts(chain: tuple[Link, ...]) -> Iterator[tuple[Link, ...]]:
    """Yield all runs of neighbouring links."""
    for i, j in itertools.combinations(range(len(chain) + 1), 2):
        yield chain[i:j]


def _segmentations(want: _Want) -> Iterator[list[tuple[tuple[Link, ...], tuple[Call, ...]]]]:
    """Yield each way to cut a chain into runs of links, with their calls."""
    count = len(want.chain)
    for cuts in itertools.product((False, True), repeat=count - 1):
        edges = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), count]
        yield [(want.chain[i:j], want.calls[i:j]) for i, j in itertools.pairwise(edges)]


def _offered(fine: list[Tool], compounds: list[Tool], split: str, rng: Random) -> list[Tool]:
    """Return the tools offered: those of all ways, distractors, and, in half of the cases, an unneeded compound."""
    tools = with_distractors(fine, split, rng)
    others = [find_tool(compound_id((Link(producer), link))) for producer, link in links()]
    names = {tool.names[0] for tool in compounds}
    others = [
        tool for tool in others if tool.names[0] not in names and (split == "test_unseen_tools" or not tool.unseen)
    ]
    # never one that does what is requested: it would be another way
    ends = {tool.id.rpartition("+")[2].partition(":")[0] for tool in (*fine, *compounds)}
    others = [tool for tool in others if tool.id.rpartition("+")[2].partition(":")[0] not in ends]
    tools = [*tools, *compounds, *rng.sample(others, rng.random() < 0.5)]
    rng.shuffle(tools)
    return tools


def _way(
    wants: Sequence[Sequence[tuple[tuple[Link, ...], tuple[Call, ...]]]],
    names: Mapping[str, str],
    state: State,
    results: Mapping[int, Any],
    spoils: _Spoils,
) -> tuple[GoldCall, ...]:
    gold: list[GoldCall] = []
    for segments in wants:
        for number, (chain, calls) in enumerate(segments):
            tool = chain[0].tool if len(chain) == 1 else find_tool(compound_id(chain))
            alias = state["aliases"][names[tool.id]]
            where = {own: (at, name) for own, at, name in places(chain)} if len(chain) > 1 else {}
            arguments: dict[str, Any] = {}
            references = {}
            for offered, parameter in alias["parameters"].items():
                if parameter == CODE and is_coded(tool):
                    if not spoils.code():
                        arguments[offered] = alias["code"]
                    continue
                at, name = where.get(parameter, (0, parameter))
                value = calls[at].arguments[name]
                if isinstance(value, Call):
                    references[offered] = f"${len(gold)}"
                    value = references[offered] if spoils.reference() else results[id(value)]
                arguments[offered] = value
            fed = {id(calls[0].arguments[chain[0].feeds or ""]): f"${len(gold)}"} if number else {}
            words = wording.instruction(calls[-1], fed)
            gold.append(GoldCall(names[tool.id], arguments, results[id(calls[-1])], references, words))
    return tuple(gold)
