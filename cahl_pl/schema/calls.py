"""Calls checked against the tools offered: problems of a call, and the call with its arguments in their declared types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cahl_pl.schema.canonical import canonical
from cahl_pl.schema.coercion import coerce
from cahl_pl.schema.validator import OUT_OF_TIME, CompiledSchema, compile_schema, first_error, time_limit
from cahl_pl.schema.wording import shorten, show
from cahl_pl.types import FeedbackError, ToolCall, ToolSpec


class Problem(NamedTuple):
    """Problem of a call.

    Attributes:
        cause: `unknown_tool`, `missing`, `undeclared` or `type`.
        parameter: the parameter it is about; None when it is about the whole call.
        message: one short sentence, for the model and for logs.
        keyword: of a wrong value, the keyword of its schema that it breaks; None if it could not be checked.
    """

    cause: FeedbackError
    parameter: str | None
    message: str
    keyword: str | None = None


def find_problems(call: ToolCall, tools: Sequence[ToolSpec]) -> list[Problem]:
    """Return the problems of a call: an unknown tool, missing or undeclared parameters, values of a wrong type.

    Args:
        call: the call, as a model wrote it; values that can be read as their declared type pass.
        tools: the tools offered; the first one with the call's name counts.

    Returns:
        The problems, at most one per parameter, in the order missing, undeclared, type; empty for a valid call. A value
        whose check exceeds the time limit of the call is the last of them.
    """
    tool = _find(call.name, tools)
    if tool is None:
        offered = ", ".join(other.name for other in tools) or "none"
        return [Problem("unknown_tool", None, f"no tool is named {show(call.name)}; offered: {shorten(offered)}")]
    compiled = compile_schema(tool.parameters)
    arguments = call.arguments
    problems = [
        Problem("missing", name, f"missing required parameter {name!r} of {tool.name}")
        for name in compiled.required
        if name not in arguments
    ]
    if not compiled.open:
        declared = shorten(", ".join(compiled.properties) or "none")
        problems += [
            Problem("undeclared", name, f"{tool.name} has no parameter {show(name)}; declared: {declared}")
            for name in arguments
            if name not in compiled.properties
        ]
    values = _coerced(arguments, compiled)
    with time_limit():
        for name, value in values.items():
            validator = compiled.properties.get(name)
            error = None if validator is None else first_error(validator, value)
            if error is not None:
                problems.append(Problem("type", name, f"parameter {name!r} of {tool.name}: {error[0]}", error[1]))
                if error[0].startswith(OUT_OF_TIME):
                    return problems  # no time is left to check the others
        if compiled.whole is not None and not problems:
            error = first_error(compiled.whole, values)
            if error is not None:
                problems.append(Problem("type", None, f"arguments of {tool.name}: {error[0]}", error[1]))
    return problems


def coerce_call(call: ToolCall, tools: Sequence[ToolSpec]) -> ToolCall:
    """Return the call with each argument in its declared type if it can be read as one, and otherwise unchanged.

    Undeclared arguments, and calls of tools that are not offered, stay as they are.
    """
    tool = _find(call.name, tools)
    if tool is None:
        return call
    return ToolCall(call.name, _coerced(call.arguments, compile_schema(tool.parameters)))


def call_key(call: ToolCall, tools: Sequence[ToolSpec]) -> tuple[str, str]:
    """Return a hashable key of a call: two calls are the same, once coerced, iff their keys are equal."""
    return call.name, canonical(coerce_call(call, tools).arguments)


def _find(name: str, tools: Sequence[ToolSpec]) -> ToolSpec | None:
    return next((tool for tool in tools if tool.name == name), None)


def _coerced(arguments: Mapping[str, Any], compiled: CompiledSchema) -> dict[str, Any]:
    return {
        name: _read_as(value, compiled, name) if name in compiled.properties else value for name, value in arguments.items()
    }


def _read_as(value: Any, compiled: CompiledSchema, name: str) -> Any:
    try:
        return coerce(value, compiled.properties[name].schema, compiled.source)
    except RecursionError:  # a deep value when the caller's stack is already deep
        return value
