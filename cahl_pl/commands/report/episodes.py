"""Episode in the explorer of a report: plan, calls and feedback side by side, differences from gold marked."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from cahl_pl.parsing import parse_plan
from cahl_pl.rewards.alignment import align
from cahl_pl.rewards.similarity import similarity_matrix
from cahl_pl.schema import canonical
from cahl_pl.types import ToolCall

Episode: TypeAlias = dict[str, Any]
"""JSON values returned by `view`."""

_NUMBER = re.compile(r"[+-]?\d{1,300}(\.\d{1,300})?", re.ASCII)


def view(record: Any, kind: str) -> Episode:
    """Return the page's view of one line of `trajectories.jsonl` or `predictions.jsonl`.

    Calls are compared with the gold calls most similar to them. Values count as equal if only their JSON type
    differs (`"3"` and `3`): a record does not say which type a tool expects. Nothing is marked in a success, or
    without gold calls.

    Args:
        record: the parsed line, from `cahl_pl.runs.records.record`, with `step` and `reward` if known.
        kind: `training` or `prediction`.

    Raises:
        ValueError: it is not such a record.
    """
    try:
        steps = [_step(step) for step in _list(record["steps"])]
        gold = [_call(call) for call in _list(record["gold"])]
        plan, error = _text(record["plan"]), record["plan_error"]
        planned = parse_plan(plan).subtasks if error is None else ()
        episode = {
            "kind": kind,
            "step": _number(record.get("step")),
            "reward": _number(record.get("reward")),
            "id": str(record["id"]),
            "request": _text(record["request"]),
            "success": bool(record["success"]),
            "plan": plan,
            "plan_error": None if error is None else str(error),
            "steps": steps,
            "planned": [{"name": s.tool, "parameters": _parameters(s.parameters)} for s in planned],
        }
        calls = [step["call"] for step in steps]
        compared = bool(gold) and not episode["success"]
        pairs = _pairs(calls, gold) if compared else {}
        for i, call in enumerate(calls):
            if call is not None:
                steps[i]["call"] = _shown(call)
                if compared:
                    _mark(steps[i]["call"], call, gold[pairs[i]] if i in pairs else None)
        episode["gold"] = [
            {**_shown(call), "mark": "missing" if compared and i not in pairs.values() else None}
            for i, call in enumerate(gold)
        ]
        names = [c.name for c in [*calls, *gold] if c is not None] + [s.tool for s in planned if s.tool is not None]
        episode["tools"] = sorted(set(names))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a record of an episode: {error}") from None
    return episode


def _step(step: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "task": _text(step["task"]),
        "output": _text(step["output"]),
        "call": None if step["call"] is None else _call(step["call"]),
        "answer": None if step["answer"] is None else _text(step["answer"]),
        "feedback": None if step["feedback"] is None else _text(step["feedback"]),
        "error": None if step["error"] is None else _text(step["error"]),
    }


def _call(call: Mapping[str, Any]) -> ToolCall:
    return ToolCall(_text(call["name"]), dict(call["parameters"].items()))


def _pairs(calls: Sequence[ToolCall | None], gold: Sequence[ToolCall]) -> dict[int, int]:
    """Return the gold call that each call is paired with; calls to other tools have none."""
    loose = [None if call is None else _loose_call(call) for call in calls]
    similarities = similarity_matrix(loose, [_loose_call(call) for call in gold], ())
    return {row: column for row, column in align(similarities) if similarities[row, column] > 0}


def _shown(call: ToolCall) -> dict[str, Any]:
    return {"name": call.name, "parameters": _parameters(call.arguments)}


def _mark(shown: dict[str, Any], call: ToolCall, gold: ToolCall | None) -> None:
    """Mark what differs from the gold call; without one the whole call is surplus."""
    if gold is None:
        shown["mark"] = "surplus"
        return
    for parameter in shown["parameters"]:
        name = parameter["name"]
        if name not in gold.arguments:
            parameter["mark"] = "surplus"
        elif canonical(_loose(call.arguments[name])) != canonical(_loose(gold.arguments[name])):
            parameter |= {"mark": "wrong", "gold": _value(gold.arguments[name])}
    for name, value in gold.arguments.items():
        if name not in call.arguments:
            shown["parameters"].append({"name": name, "mark": "missing", "gold": _value(value)})


def _loose_call(call: ToolCall) -> ToolCall:
    return ToolCall(call.name, {name: _loose(value) for name, value in call.arguments.items()})


def _loose(value: Any) -> Any:
    """Return a number or truth value written as text as the value it means."""
    text = value.strip() if isinstance(value, str) else ""
    if _NUMBER.fullmatch(text):
        return float(text) if "." in text else int(text)
    return {"true": True, "false": False}.get(text.lower(), value)


def _parameters(arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"name": name, "value": _value(value)} for name, value in arguments.items()]


def _value(value: Any) -> str:
    # as text: a browser would round long integers
    return json.dumps(value, ensure_ascii=False)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a text is expected")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError("a list is expected")
    return value


def _number(value: Any) -> float | None:
    """Return the number in a form that JSON allows."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value - value != 0:
        raise TypeError("a finite number is expected")
    return value
