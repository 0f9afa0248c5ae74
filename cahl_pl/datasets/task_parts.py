"""Parts of tasks that several formats make the same way."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from cahl_pl.schema import Problem, find_problems
from cahl_pl.types import GoldCall, Task, ToolCall, ToolSpec

MAX_GOLD_CALLS = 1000
"""Gold calls that a task may have: fitting its tools to them takes quadratic time."""


def fit_tools(task: Task) -> tuple[Task, list[str]]:
    """Return the task with its tools relaxed where its gold breaks them, and what was relaxed, one sentence each.

    An undeclared tool is added with an open schema, an undeclared parameter without a type; a parameter whose
    value cannot be read as its type loses its constraints; a required parameter that gold leaves out is no
    longer required. Of tools of the same name the first stays.
    """
    tools: dict[str, ToolSpec] = {}
    reasons = []
    for tool in task.tools:
        if tool.name in tools:
            reasons.append(f"tool {tool.name!r} is offered twice, the first is kept")
        tools.setdefault(tool.name, tool)
    for number, gold in enumerate(task.gold, start=1):
        while problems := find_problems(gold.call, tuple(tools.values())):
            for problem in problems:
                tools[gold.name] = _relaxed(tools.get(gold.name), gold, problem)
                reasons.append(f"gold call {number}: {problem.message}")
    return (replace(task, tools=tuple(tools.values())), reasons) if reasons else (task, [])


def _relaxed(tool: ToolSpec | None, gold: GoldCall, problem: Problem) -> ToolSpec:
    if tool is None:
        return ToolSpec(gold.name, "", {"type": "object", "properties": {}, "additionalProperties": True})
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
    """Return the used tools and others drawn besides them, in a drawn order; a used tool that is unknown is left out."""
    used, names = list(dict.fromkeys(used)), list(tools)
    drawn = draw.sample(names, min(len(names), distractors + len(used)))
    others = [name for name in drawn if name not in used][:distractors]
    offered = [tools[name] for name in used + others if name in tools]
    draw.shuffle(offered)
    return tuple(offered)


def history_text(calls: Iterable[ToolCall]) -> str:
    """Return calls of an earlier turn as they stand in an assistant's message of a dialogue: one JSON object a line."""
    lines = [json.dumps({"name": call.name, "parameters": dict(call.arguments)}, ensure_ascii=False) for call in calls]
    return "\n".join(["<tool_call>", *lines, "</tool_call>"])
