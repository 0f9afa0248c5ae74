"""Conversion of calls to English: a tree of calls becomes a request."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from cahl_pl.toolworld.registry import Parameter, Tool

VERBS = ("find", "get", "tell me", "look up", "check", "give me")
WHETHER_VERBS = ("tell me", "check", "find out")
FRAMES = ("{}.", "{}.", "Please {}.", "Can you {}?", "Could you {}?", "I need you to {}.")
ASK_FRAMES = ("What is {}?", "I need {}.", "{}, please.", "I want to know {}.", "Do you know {}?")
JOINS = (" and ", " and then ", ", then ", "; after that, ", ", and also ", ". Also, ", ". Then ", "; next, ")
THEN_JOINS = (" and then ", ", then ", "; after that, ", ". Then ", " and ", "; next, ")


@dataclass(frozen=True, slots=True)
class Call:
    """Call to make; an argument is a value, or the call whose result it is."""

    tool: Tool
    arguments: dict[str, Any]

    def chain(self) -> list[Call]:
        """Return the calls of this tree in the order of execution, this one last."""
        inner = [value for value in self.arguments.values() if isinstance(value, Call)]
        return [call for tree in inner for call in tree.chain()] + [self]


def request(calls: list[Call], rng: Random) -> str:
    """Return one request for some independent calls, each with the calls that it depends on."""
    # In a list, "A and 5 times B and C" would be unclear: only look-ups are listed.
    listable = len(calls) == 1 or all(call.tool.stateful for call in calls)
    if listable and all(_is_noun(call) and not _is_ambiguous(call) for call in calls) and rng.random() < 0.4:
        return _sentence(_listed([_noun(call, rng) for call in calls]), ASK_FRAMES, rng)
    first, *rest = calls
    # Only the first call may use "it": after other calls the word might mean their results.
    clauses = _steps(first, rng) if _is_ambiguous(first) or rng.random() < 0.5 else _clause(first, rng)
    for call in rest:
        clauses += rng.choice(JOINS) + _clause(call, rng)
    return _sentence(clauses, FRAMES, rng)


def instruction(call: Call, known: Mapping[int, str]) -> str:
    """Return a plan's instruction for a call, including the calls that it depends on, in the first of its phrases.

    Args:
        call: the call.
        known: text for each call that has been made before, by its `id`.
    """
    values = {}
    for name, value in call.arguments.items():
        if isinstance(value, Call):
            values[name] = known.get(id(value)) or instruction(value, known)
        else:
            values[name] = _literal(call.tool.parameters[name], value)
    return (call.tool.asks or call.tool.orders)[0].format(**values)


def _sentence(text: str, frames: tuple[str, ...], rng: Random) -> str:
    frame = rng.choice(frames)
    if ". " in text or "; " in text:  # too much for one question
        frame = rng.choice(("{}.", "Please {}."))
    text = frame.format(text)
    return re.sub(r"(^|\. )(\w)", lambda start: start.group(1) + start.group(2).upper(), text)


def _listed(nouns: list[str]) -> str:
    return " and ".join([", ".join(nouns[:-1]), nouns[-1]] if len(nouns) > 1 else nouns)


def _steps(call: Call, rng: Random) -> str:
    """Return the chain described step by step: "find Bero's city, then check the weather in that city"."""
    inner = next((value for value in call.arguments.values() if isinstance(value, Call)), None)
    if inner is None:
        return _clause(call, rng)
    return _steps(inner, rng) + rng.choice(THEN_JOINS) + _clause(call, rng, pronouns=True)


def _clause(call: Call, rng: Random, pronouns: bool = False) -> str:
    """Return an imperative clause. Results of other calls appear as pronouns or as noun phrases."""
    orders = call.tool.orders
    if call.tool.asks and (not orders or rng.random() < 0.5):
        verbs = VERBS if _is_noun(call) else WHETHER_VERBS
        return f"{rng.choice(verbs)} {_noun(call, rng, pronouns)}"
    return _filled(orders, call, rng, pronouns)


def _noun(call: Call, rng: Random, pronouns: bool = False) -> str:
    return _filled(call.tool.asks, call, rng, pronouns)


def _is_noun(call: Call) -> bool:
    return bool(call.tool.asks) and not call.tool.asks[0].startswith("whether")


def _is_ambiguous(call: Call) -> bool:
    """Return whether one phrase cannot tell the order of the calls, as in "5 plus 6 times 7"."""
    inner = [value for value in call.arguments.values() if isinstance(value, Call)]
    return any(value.tool.domain == call.tool.domain or _is_ambiguous(value) for value in inner)


def _filled(phrases: tuple[str, ...], call: Call, rng: Random, pronouns: bool) -> str:
    phrase = rng.choice(phrases)
    values = {
        name: _written(call.tool.parameters[name], value, rng, pronouns) for name, value in call.arguments.items()
    }
    for name, value in call.arguments.items():
        # "the host of the Zuma event's email" would be hard to read.
        if isinstance(value, Call) and f"{{{name}}}'s" in phrase and values[name].startswith("the "):
            return _filled(phrases, call, rng, pronouns)
    return phrase.format(**values)


def _written(parameter: Parameter, value: Any, rng: Random, pronouns: bool) -> str:
    if not isinstance(value, Call):
        return _literal(parameter, value)
    assert parameter.kind is not None  # choices take no results
    return rng.choice(parameter.kind.pronouns) if pronouns else _noun(value, rng)


def _literal(parameter: Parameter, value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value) if parameter.kind is None else parameter.kind.literal.format(value)
