"""Parts of tasks that several formats build in the same way."""

from __future__ import annotations

import difflib
import json
import operator
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from cahl_pl.datasets.text_formats import wrong_format
from cahl_pl.errors import DataError
from cahl_pl.schema import Problem, canonical, coerce_call, find_problems, is_time_up, time_limit
from cahl_pl.types import GoldCall, Task, ToolCall, ToolSpec

ROW_SECONDS = 5.0
"""Maximum processor time per row for pattern searches and for following references."""

MAX_GOLD_CALLS = 1000
"""Maximum number of gold calls of a task: fitting its tools to them takes quadratic time."""

_MORE_KEYS: Final = frozenset({"patternProperties", "$ref", "anyOf", "oneOf", "allOf", "if", "dependentSchemas"})
"""Keywords by which an object may have keys that its `properties` do not list."""

_RELAXED: Final = ("type", "anyOf", "oneOf", "required", None)
"""Keywords that are relaxed: those of types and required values; None: the value could not be checked, or not in time."""


def fit_tools(task: Task) -> tuple[Task, list[str]]:
    """Return the task with its tools relaxed where its gold breaks them, and what was relaxed, one sentence each.

    A parameter whose value cannot be read as its type, or takes too long to check, loses its constraints; a required
    parameter that gold leaves out is no longer required. Of tools of the same name the first stays. Gold values then have
    their declared types, `5` for `"5"`, true for 1: what is imitated, and compared as text, is what the tool accepts.
    Nothing is relaxed for alternatives.

    Raises:
        DataError: gold names a tool or a parameter that is not offered, misspells a key of an object, or has a value that its
            schema excludes for another reason than its type: that is a mistake of the row, which relaxing would train on. Or
            an alternative breaks a schema, or the checks of all values take longer than `ROW_SECONDS`.
    """
    with time_limit(ROW_SECONDS):
        return _fit(task)


def _fit(task: Task) -> tuple[Task, list[str]]:
    fitted, reasons = _fit_way(task)
    alternatives: list[tuple[GoldCall, ...]] = []
    for number, way in enumerate(task.alternatives, start=1):
        try:
            other, more = _fit_way(replace(fitted, gold=way))
        except DataError as error:
            raise DataError(f"alternative {number}: {error}") from None
        if more:
            raise DataError(
                f"alternative {number}: {more[0]}; what is wrong in it would be paid as the gold is: correct it"
            )
        alternatives.append(other.gold)
    return (replace(fitted, alternatives=tuple(alternatives)) if alternatives else fitted), reasons


def _fit_way(task: Task) -> tuple[Task, list[str]]:
    """Apply `fit_tools` to the gold calls alone."""
    tools: dict[str, ToolSpec] = {}
    reasons = []
    for tool in task.tools:
        if tool.name in tools:
            reasons.append(f"tool {tool.name!r} is offered twice, the first is kept")
        tools.setdefault(tool.name, tool)
    flagged = tuple(_with_flags(gold, tools) for gold in task.gold)
    task = task if all(map(operator.is_, flagged, task.gold)) else replace(task, gold=flagged)
    for number, gold in enumerate(task.gold, start=1):
        _refuse_misspelt(number, gold, tools)
        _refuse_format(number, gold, tools)
        while problems := find_problems(gold.call, tuple(tools.values())):
            for problem in problems:
                if is_time_up():
                    raise DataError(
                        f"gold call {number}: the checks of this row take more than {ROW_SECONDS:g} seconds; simplify the "
                        "patterns and references of its tools' schemas"
                    )
                declared = tools.get(gold.name)
                if declared is None or not _can_be_relaxed(problem):
                    raise DataError(f"gold call {number}: {problem.message}{_nearest(problem, gold, tools)}")
                tools[gold.name] = _relaxed(declared, problem)
                reasons.append(f"gold call {number}: {problem.message}")
    fitted = replace(task, tools=tuple(tools.values())) if reasons else task
    calls = [coerce_call(gold.call, fitted.tools).arguments for gold in task.gold]
    if any(canonical(call) != canonical(gold.arguments) for call, gold in zip(calls, task.gold, strict=True)):
        typed = tuple(replace(gold, arguments=call) for call, gold in zip(calls, task.gold, strict=True))
        fitted = replace(fitted, gold=typed)
    return fitted, reasons


def _with_flags(gold: GoldCall, tools: Mapping[str, ToolSpec]) -> GoldCall:
    """Return the call with true for 1 and false for 0, as databases write them, if a parameter is declared as a boolean."""
    properties = tools[gold.name].parameters.get("properties", {}) if gold.name in tools else {}
    flags = {
        name: bool(value)
        for name, value in gold.arguments.items()
        if type(value) is int and value in (0, 1) and _is_flag(properties.get(name))
    }
    return replace(gold, arguments=dict(gold.arguments) | flags) if flags else gold


def _is_flag(schema: Any) -> bool:
    kinds = schema.get("type") if isinstance(schema, Mapping) else None
    return kinds == "boolean" or (isinstance(kinds, list) and "boolean" in kinds and set(kinds) <= {"boolean", "null"})


def _refuse_misspelt(number: int, gold: GoldCall, tools: Mapping[str, ToolSpec]) -> None:
    """Refuse an undeclared key within an argument that nearly matches a declared key that is left out.

    Other undeclared keys within arguments pass, as in JSON Schema, unless `additionalProperties` is false.
    """
    properties = tools[gold.name].parameters.get("properties", {}) if gold.name in tools else {}
    stack = [(name, properties.get(name), value) for name, value in gold.arguments.items()]
    while stack:
        place, schema, value = stack.pop()
        if not isinstance(schema, Mapping):
            continue
        if isinstance(value, list):
            stack += [(f"{place}[{i}]", schema.get("items"), item) for i, item in enumerate(value)]
        declared = schema.get("properties")
        if not isinstance(value, Mapping) or not isinstance(declared, Mapping):
            continue
        stack += [(f"{place}.{key}", declared.get(key), item) for key, item in value.items()]
        if schema.get("additionalProperties") or schema.keys() & _MORE_KEYS:
            continue
        for key in (key for key in value if key not in declared):
            near = difflib.get_close_matches(key, [one for one in declared if one not in value], 1, cutoff=0.75)
            if near:
                raise DataError(
                    f"gold call {number}: {place!r} of {gold.name} has no {key!r}; did you mean {near[0]!r}?"
                )


def _refuse_format(number: int, gold: GoldCall, tools: Mapping[str, ToolSpec]) -> None:
    """Refuse text that does not have its declared format, such as "tomorrow" for a date: the tool would."""
    schema = tools[gold.name].parameters if gold.name in tools else {}
    for name, declared in schema.get("properties", {}).items():
        if name in gold.arguments and (fault := wrong_format(gold.arguments[name], declared, schema, name)):
            raise DataError(f"gold call {number}: {gold.name}, {fault}; correct the value or the schema")


def _can_be_relaxed(problem: Problem) -> bool:
    return problem.cause == "missing" or (problem.cause == "type" and problem.keyword in _RELAXED)


def _nearest(problem: Problem, gold: GoldCall, tools: Mapping[str, ToolSpec]) -> str:
    """Return what may have been meant, as the end of a sentence."""
    if problem.cause == "unknown_tool":
        near = difflib.get_close_matches(gold.name, tools, 1, cutoff=0.5)
        return f"; did you mean {near[0]!r}?" if near else "; correct the name, or offer the tool"
    properties = tools[gold.name].parameters.get("properties", {})
    if problem.cause == "undeclared":
        near = difflib.get_close_matches(str(problem.parameter), properties, 1, cutoff=0.5)
        return f"; did you mean {near[0]!r}?" if near else "; correct the name, or declare the parameter"
    if problem.keyword == "enum":
        declared = properties.get(problem.parameter)
        options = declared.get("enum") if isinstance(declared, Mapping) else None
        texts = [option for option in options or () if isinstance(option, str)]
        near = difflib.get_close_matches(str(gold.arguments.get(problem.parameter or "")), texts, 1)
        return f"; did you mean {near[0]!r}?" if near else "; correct the value or the schema"
    return "; correct the value or the schema"


def _relaxed(tool: ToolSpec, problem: Problem) -> ToolSpec:
    schema = dict(tool.parameters)
    properties = dict(schema.get("properties", {}))
    name = problem.parameter
    if name is None:  # a keyword about all arguments together
        schema = {key: schema[key] for key in ("type", "properties", "required") if key in schema}
    elif problem.cause == "missing":
        schema["required"] = [other for other in schema["required"] if other != name]
    else:
        declared = properties.get(name, {})
        properties[name] = {key: declared[key] for key in ("description", "default") if key in declared}
        schema["properties"] = properties
    return replace(tool, parameters=schema)


def kind_of_gold(gold: Sequence[GoldCall]) -> str:
    """Return a tag to group results by: `none`, `single`, `multiple`, or `nested` (a call takes a result)."""
    if any(call.references for call in gold):
        return "nested"
    return ("none", "single", "multiple")[min(len(gold), 2)]


def object_schema(properties: Mapping[str, Any], required: Sequence[str] = ()) -> dict[str, Any]:
    """Return a JSON Schema of type object."""
    schema: dict[str, Any] = {"type": "object", "properties": dict(properties)}
    return {**schema, "required": list(required)} if required else schema


def offer_tools(
    tools: Mapping[str, ToolSpec], used: Iterable[str], distractors: int, draw: random.Random
) -> tuple[ToolSpec, ...]:
    """Return the used tools and others drawn in addition, in a random order; a used tool that is unknown is left out."""
    used, names = list(dict.fromkeys(used)), list(tools)
    drawn = draw.sample(names, min(len(names), distractors + len(used)))
    others = [name for name in drawn if name not in used][:distractors]
    offered = [tools[name] for name in used + others if name in tools]
    draw.shuffle(offered)
    return tuple(offered)


def history_text(calls: Iterable[ToolCall]) -> str:
    """Return calls of an earlier turn as written in an assistant's message: one JSON object per line."""
    lines = [json.dumps({"name": call.name, "parameters": dict(call.arguments)}, ensure_ascii=False) for call in calls]
    return "\n".join(["<tool_call>", *lines, "</tool_call>"])
