"""Endless stream of ToolWorld tasks."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from random import Random
from typing import Any

from cahl_pl.toolworld import wording
from cahl_pl.toolworld.kinds import CITY, PERSON
from cahl_pl.toolworld.offers import offer, toolkit
from cahl_pl.toolworld.registry import MissingEntryError, Parameter, Scalar, State, Tool, ToolError
from cahl_pl.toolworld.tools import TOOLS
from cahl_pl.toolworld.wording import Call
from cahl_pl.types import GoldCall, Message, Outcome, Task, ToolSpec

SPLITS = ("train", "test", "test_unseen_tools")
PROPORTIONS: Mapping[str, float] = {
    "none": 0.12,
    "single": 0.35,
    "parallel": 0.25,
    "nested": 0.20,
    "error": 0.08,
}
NO_TOOL = "None of my tools can do that."
SMALL_TALK = {
    "You are welcome.": (
        "Thank you so much, {person}!",
        "Thanks for all your help, {person}.",
        "That was very kind, {person}, thanks!",
        "Many thanks from {person} and me.",
    ),
    "Hello! How can I help?": (
        "Hello, my name is {person}.",
        "Hi there, I am {person} from {city}.",
        "Good morning, this is {person} here.",
        "Hey, {person} from {city} here!",
    ),
    "Goodbye!": (
        "Goodbye, see you tomorrow, {person}!",
        "Bye for now, I am off to {city}.",
        "I have to leave now, bye {person}.",
        "Good night, and greetings from {person}.",
    ),
    NO_TOOL: (
        "Play a song by {person}.",
        "Can you draw a picture of {city}?",
        "Please write a poem about {person}.",
        "Book a table in {city} for tonight.",
        "Who won the match in {city}?",
        "Translate my speech for {person}, please.",
        "Show me a video of {city}.",
        "Find a good restaurant in {city}.",
    ),
}
WORDS = (5, 35)
TEST_SHARE = 0.25


def generate_tasks(
    split: str, seed: int, start: int = 0, proportions: Mapping[str, float] = PROPORTIONS
) -> Iterator[Task]:
    """Return an endless stream of tasks. Task i depends only on the split, the seed, the proportions and i.

    Args:
        split: `train`; `test`: other requests for the same tools; `test_unseen_tools`: every task has a tool
            that the other two never offer, in its gold calls if it has any.
        seed: seed of the stream.
        start: index of the first task, to resume at any position.
        proportions: relative weight of each kind of task: `none` (no call is right), `single`, `parallel`
            (2 to 4 independent calls), `nested` (an argument is another call's result), `error` (the last
            call fails).

    Raises:
        ValueError: no such split or kind, or weights that are negative or all zero.
    """
    if split not in SPLITS:
        raise ValueError(f"Unknown ToolWorld split {split!r}: use one of {', '.join(SPLITS)}.")
    if unknown := set(proportions) - set(PROPORTIONS):
        raise ValueError(f"Unknown kinds of tasks {sorted(unknown)}: use some of {', '.join(PROPORTIONS)}.")
    if min(proportions.values(), default=0) < 0 or sum(proportions.values()) <= 0:
        raise ValueError(f"Proportions {dict(proportions)} cannot be drawn from: give weights >= 0, not all zero.")
    return (_task(split, seed, index, proportions) for index in itertools.count(start))


def split_of(request: str) -> str:
    """Return the split, `train` or `test`, that a request may be in, as decided by a hash of its text."""
    digest = hashlib.sha256(request.lower().encode()).digest()
    return "test" if digest[0] < TEST_SHARE * 256 else "train"


def _task(split: str, seed: int, index: int, proportions: Mapping[str, float]) -> Task:
    rng = Random(f"{split}/{seed}/{index}")
    kind = rng.choices(list(proportions), weights=list(proportions.values()))[0]
    fails = rng.choices(("missing", "refused"), weights=(65, 35))[0] if kind == "error" else None
    # Draws that do not fit the split or do not run as intended are repeated; the kind is kept.
    while True:
        task = without_calls(split, rng) if kind == "none" else _with_calls(split, kind, fails, rng)
        if task is None or not WORDS[0] <= len(task.request.split()) <= WORDS[1]:
            continue
        if split_of(task.request) == ("train" if split == "train" else "test"):
            tags = {"kind": kind, "calls": str(len(task.gold))}
            return replace(task, id=f"{split}-{seed}-{index}", tags=tags)


def without_calls(split: str, rng: Random) -> Task | None:
    """Return small talk, or a request that no offered tool can serve."""
    if rng.random() < 0.5:
        answer = rng.choice(list(SMALL_TALK))
        request = rng.choice(SMALL_TALK[answer]).format(person=PERSON.sample(rng), city=CITY.sample(rng))
        offered = with_distractors([], split, rng)
    else:
        # Arithmetic, units and spelling are left out: other tools could be combined into the missing one.
        missing = pick(split, rng, lambda tool: tool.stateful and not tool.broad)
        answer = NO_TOOL
        request = wording.request([Call(missing, literals(missing, rng, set()))], rng)
        offered = with_distractors([], split, rng, missing)
    if split == "test_unseen_tools" and not any(tool.unseen for tool in offered):
        return None
    specs, _, state = offers(offered, rng)
    return Task("", (Message("user", request),), specs, answer=answer, state=state, outcome=Outcome())


def _with_calls(split: str, kind: str, fails: str | None, rng: Random) -> Task | None:
    """Return a request for at least one call, or None if the calls drawn do not run as the kind of task requires.

    `fails` says how the last call must fail: an entry is `missing`, or the tool has `refused` the values.
    """
    shape = kind
    if fails is not None:
        shape = rng.choices(("single", "parallel", "nested"), weights=(60, 20, 20))[0]
    trees = _trees(shape, split, rng)
    calls = [call for tree in trees for call in tree.chain()]
    tools = list({call.tool.id: call.tool for call in calls}.values())
    if clash(trees) or len(calls) > 4:
        return None
    # Known without trying: a tool that only looks up refuses nothing.
    if fails == "refused" and calls[-1].tool.asks:
        return None
    if split == "test_unseen_tools" and not any(tool.unseen for tool in tools):
        return None
    specs, names, state = offers(with_distractors(tools, split, rng), rng)
    try:
        gold = solve(calls, names, state, fails, rng)
    except ToolError:
        return None
    request = wording.request(trees, rng)
    ordered = any(call.references for call in gold)
    after = outcome(trees, calls, gold, state)
    return Task("", (Message("user", request),), specs, tuple(gold), ordered, state=state, outcome=after)


def outcome(trees: list[Call], calls: list[Call], gold: list[GoldCall], state: State) -> Outcome:
    """Return the state that the request leads to, and the results to report: those of calls that change nothing."""
    after = _copy(state)
    tools = toolkit(after)
    results = {}
    for call, made in zip(calls, gold, strict=True):
        before = _copy(after)
        with contextlib.suppress(ToolError):
            tools[made.name](**made.arguments)
        if call.tool.asks or after == before:
            results[id(call)] = made.result
    return Outcome(tuple(results[id(tree)] for tree in trees if id(tree) in results), None if after == state else after)


def _trees(shape: str, split: str, rng: Random) -> list[Call]:
    used: set[str] = set()
    if shape == "nested":
        depth = rng.choices((2, 3), weights=(70, 30))[0]
        trees = [_tree(depth, split, rng, used)]
        return [*trees, _tree(1, split, rng, used)] if rng.random() < 0.2 else trees
    count = 1 if shape == "single" else rng.choices((2, 3, 4), weights=(60, 28, 12))[0]
    if count > 1 and rng.random() < 0.3:  # one tool, called for several things
        tool = pick(split, rng)
        return [Call(tool, literals(tool, rng, used)) for _ in range(count)]
    return [_tree(1, split, rng, used) for _ in range(count)]


def _tree(depth: int, split: str, rng: Random, used: set[str]) -> Call:
    """Return a call whose argument is another call's result, and so on, `depth` calls in all."""
    if depth == 1:
        tool = pick(split, rng)
        return Call(tool, literals(tool, rng, used))
    tool = pick(split, rng, lambda tool: bool(open_parameters(tool)))
    return _grown(tool, depth, split, rng, used)


def _grown(tool: Tool, depth: int, split: str, rng: Random, used: set[str]) -> Call:
    arguments = literals(tool, rng, used)
    if depth > 1 and (names := open_parameters(tool)):
        name = rng.choice(names)
        kind = tool.parameters[name].kind
        assert kind is not None
        accepts = kind.accepts
        producer = pick(split, rng, lambda tool: bool(tool.asks) and tool.result.name in accepts)
        arguments[name] = _grown(producer, depth - 1, split, rng, used)
    return Call(tool, arguments)


def open_parameters(tool: Tool) -> list[str]:
    """Return the parameters that may take the result of another call."""
    return [name for name, parameter in tool.parameters.items() if parameter.kind and parameter.kind.accepts]


def pick(split: str, rng: Random, wanted: Callable[[Tool], bool] = lambda tool: True) -> Tool:
    """Draw a tool; if unseen ones are offered, one of them with probability 1/2."""
    tools = [tool for tool in _pool(split) if wanted(tool)]
    unseen = [tool for tool in tools if tool.unseen]
    return rng.choice(unseen if unseen and rng.random() < 0.5 else tools)


def _pool(split: str) -> list[Tool]:
    return [tool for tool in TOOLS.values() if split == "test_unseen_tools" or not tool.unseen]


def literals(tool: Tool, rng: Random, used: set[str]) -> dict[str, Any]:
    """Return a value for each parameter, different from the values used before in the request."""
    return {name: _literal(parameter, rng, used) for name, parameter in tool.parameters.items()}


def _literal(parameter: Parameter, rng: Random, used: set[str]) -> Any:
    if parameter.type is bool:
        return rng.random() < 0.5
    if parameter.kind is None:
        return rng.choice(parameter.choices)
    while str(value := parameter.kind.sample(rng)) in used:
        pass
    used.add(str(value))
    return value


def clash(trees: list[Call]) -> bool:
    """Return whether a tool is called twice on the same thing (two levels for one light) or fed its own result."""
    if any(len({call.tool.id for call in tree.chain()}) < len(tree.chain()) for tree in trees):
        return True
    subjects = [(tree.tool.id, str(next(iter(tree.arguments.values())))) for tree in trees]
    return len(set(subjects)) < len(subjects)


def with_distractors(gold: list[Tool], split: str, rng: Random, missing: Tool | None = None) -> list[Tool]:
    """Return the gold tools among 4 to 6 tools, half of the others from the same domains, in any order.

    A `missing` tool is left out, together with any tool that might seem to do its work.
    """
    others = [tool for tool in _pool(split) if tool not in gold and tool is not missing]
    domains = {tool.domain for tool in gold}
    if missing is not None:
        others = [tool for tool in others if not (tool.broad and tool.domain == missing.domain)]
        domains = {missing.domain}
    rng.shuffle(others)
    count = rng.randint(max(4, len(gold) + 1), 6) - len(gold)
    siblings = [tool for tool in others if tool.domain in domains][: (count + 1) // 2]
    strangers = [tool for tool in others if tool not in siblings]
    offered = gold + (siblings + strangers)[:count]
    rng.shuffle(offered)
    return offered


def offers(tools: list[Tool], rng: Random) -> tuple[tuple[ToolSpec, ...], dict[str, str], State]:
    """Return the ToolSpecs, tool id -> name as offered, and a state with only the aliases."""
    offers = [offer(tool, rng) for tool in tools]
    aliases = {spec.name: alias for spec, alias in offers}
    names = {alias["tool"]: name for name, alias in aliases.items()}
    return tuple(spec for spec, _ in offers), names, {"aliases": aliases}


def solve(calls: list[Call], names: Mapping[str, str], state: State, fails: str | None, rng: Random) -> list[GoldCall]:
    """Execute the calls, after adding to `state` the entries that they need to succeed.

    Raises:
        ToolError: a call that should succeed fails, or the last one does not fail as it should.
    """
    while True:
        try:
            return _execute(calls, names, state, fails)
        except MissingEntryError as missing:
            state.setdefault(missing.table, {})[missing.key] = missing.kind.sample(rng)


def _copy(state: State) -> State:
    """Return a state whose tables may be changed; the aliases, most of the content, never are."""
    return {name: table if name == "aliases" else copy.deepcopy(table) for name, table in state.items()}


def _execute(calls: list[Call], names: Mapping[str, str], state: State, fails: str | None) -> list[GoldCall]:
    tools = toolkit(_copy(state))
    position = {id(call): index for index, call in enumerate(calls)}
    gold: list[GoldCall] = []
    for call in calls:
        name = names[call.tool.id]
        arguments, references = {}, {}
        for alias, parameter in state["aliases"][name]["parameters"].items():
            value = call.arguments[parameter]
            if isinstance(value, Call):
                references[alias] = f"${position[id(value)] + 1}"
                value = gold[position[id(value)]].result
            arguments[alias] = value
        result: Scalar | dict[str, str]
        must_fail = fails is not None and call is calls[-1]
        try:
            result = tools[name](**arguments)
        except ToolError as error:
            if not must_fail or isinstance(error, MissingEntryError) != (fails == "missing"):
                raise
            result = {"error": str(error)}
        else:
            if must_fail:
                raise ToolError("the last call should have failed")
        gold.append(GoldCall(name, arguments, result, references))
    return gold
