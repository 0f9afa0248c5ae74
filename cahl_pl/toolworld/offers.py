"""Tools as offered by a task: a ToolSpec to read and a callable to run, both under the task's own names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from cahl_pl.toolworld.compounds import CODE, find_tool, is_coded, with_code
from cahl_pl.toolworld.registry import Parameter, Scalar, State, Tool, ToolError
from cahl_pl.types import ToolSpec

JSON_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean"}
USUAL = 0.85  # share of names and descriptions that are the first of their list; the others must be read
LIMIT = 10**12  # keeps the arithmetic on a model's numbers cheap and finite


def offer(tool: Tool, rng: Random) -> tuple[ToolSpec, dict[str, Any]]:
    """Draw names and a description for a tool.

    Returns:
        The ToolSpec, and its entry for `state["aliases"]`: `{"tool": id, "parameters": {alias: parameter}}`, and the `code`
        of a compound that needs one.
    """
    aliases = {_draw(parameter.aliases, rng): name for name, parameter in tool.parameters.items()}
    properties = {alias: json_schema(tool.parameters[name]) for alias, name in aliases.items()}
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    code = {}
    if is_coded(tool):
        code = {"code": "".join(rng.choices("BDFGKMPRTVXZ", k=2)) + str(rng.randint(10, 99))}
        schema = with_code(schema, code["code"])
    spec = ToolSpec(_draw(tool.names, rng), _draw(tool.descriptions, rng), schema)
    return spec, {"tool": tool.id, "parameters": aliases, **code}


def _draw(names: tuple[str, ...], rng: Random) -> str:
    return names[0] if rng.random() < USUAL else rng.choice(names)


def json_schema(parameter: Parameter) -> dict[str, Any]:
    """Return the JSON Schema of a parameter's values."""
    schema: dict[str, Any] = {"type": JSON_TYPES[parameter.type]}
    return schema | {"enum": list(parameter.choices)} if parameter.choices else schema


def toolkit(state: Mapping[str, Any] | None) -> dict[str, Callable[..., Scalar]]:
    """Return the tools of a task, ready to run on its state, which they share and change.

    Args:
        state: `Task.state`; `state["aliases"]` says which tools are offered under which names, and `state["refused"]`, if
            present, which calls are answered with which errors. With None there are no tools.

    Returns:
        Tool name as offered -> callable, which takes the parameters as offered, by keyword, and returns one
        scalar. Whatever the arguments, it raises no error but `ToolError`.
    """
    if state is None:
        return {}
    own: State = state  # type: ignore[assignment]  # each session starts with its own copy
    return {
        name: _bind(name, find_tool(alias["tool"]), alias["parameters"], own, alias.get("code"))
        for name, alias in state["aliases"].items()
    }


def _bind(name: str, tool: Tool, aliases: Mapping[str, str], state: State, code: str | None) -> Callable[..., Scalar]:
    def call(**arguments: Any) -> Scalar:
        for alias in aliases:
            if alias not in arguments:
                raise ToolError(f"missing {alias}")
        for alias in arguments:
            if alias not in aliases:
                raise ToolError(f"unknown {alias}")
        if code is not None and arguments[CODE] != code:
            raise ToolError(f"wrong {CODE}")
        given = {alias: _checked(tool.parameters[own], alias, arguments[alias]) for alias, own in aliases.items()}
        for refused in state.get("refused", ()):
            if refused["tool"] == name and refused["arguments"] == given:
                raise ToolError(refused["error"])
        values = {own: given[alias] for alias, own in aliases.items()}
        return tool.function(state, **values) if tool.stateful else tool.function(**values)

    return call


def _checked(parameter: Parameter, alias: str, value: Any) -> Any:
    """Return the value if the tool accepts it: it must fit the JSON Schema and the limits."""
    kind = JSON_TYPES[parameter.type]
    if parameter.type in (int, float):
        # As in JSON Schema, a boolean is not a number and 3.0 is an integer; Python differs in both.
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ToolError(f"{alias} must be a {kind}")
        if not -LIMIT <= value <= LIMIT:  # also catches NaN
            raise ToolError(f"{alias} is out of range")
        if parameter.type is int and value != int(value):
            raise ToolError(f"{alias} must be a {kind}")
        return parameter.type(value)
    if not isinstance(value, parameter.type):
        raise ToolError(f"{alias} must be a {kind}")
    if parameter.choices and value not in parameter.choices:
        raise ToolError(f"{alias} must be one of {', '.join(parameter.choices)}")
    return value
