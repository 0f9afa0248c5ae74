"""Calls as objects in rows: `{"name", "arguments"}`, alone or in OpenAI's `{"id", "type", "function"}`."""

from __future__ import annotations

import difflib
from typing import Any, Final, NamedTuple

from cahl_pl.datasets.declared_values import read_value
from cahl_pl.datasets.rows import get_field
from cahl_pl.errors import DataError
from cahl_pl.types import ToolCall

ARGUMENTS: Final = ("arguments", "parameters", "args")
"""Keys of a call's arguments; the last one is LangChain's."""
_BESIDE: Final = frozenset(
    {"name", "id", "index", "call_id", "tool_call_id", "requestor", "namespace", "caller", "created_by"}
    | {"cache_control", "thought_signature", "extra_content", "result", "references", "instruction"}
)
"""Keys of a call that say nothing about its arguments."""
_OF_APIS: Final = {
    "type": ("function", "function_call", "tool_call", "tool_use", "tool", "call"),
    "status": ("completed", "in_progress", "incomplete", "success", "error"),
}
"""Keys that say nothing about the arguments if they have one of these values; any other value is an argument."""
_GIVEN: Final = frozenset(
    {"input", "inputs", "params", "param", "kwargs", "arg", "body", "payload", "tool_input", "action_input"}
)
"""Keys that other programs use for arguments, which are not read."""


class Call(NamedTuple):
    """Call of a dialogue, and the id by which its answer is found; None if it has none.

    `untyped`: its arguments are raw texts from between tags, to be read as the types that the tool declares.
    """

    call: ToolCall
    id: str | None = None
    untyped: bool = False


def read_call(row: Any) -> Call:
    """Return a call of `tool_calls`: `{"id", "type": "function", "function": {"name", "arguments"}}`, or its inner object.

    Raises:
        DataError: naming the field.
    """
    function = row
    if isinstance(row, dict) and (row.get("type") == "custom" or "custom" in row) and "function" not in row:
        raise DataError(
            "it is a call of a 'custom' tool, which takes free text, so that no call of it can be learnt: leave the row out, "
            "or declare a function in its place and write what it is given in 'arguments'"
        )
    if isinstance(row, dict) and "function" in row:
        function = get_field(row, "function", dict)
        beside = {key: value for key, value in row.items() if key != "function"}
        lost = next((key for key in ARGUMENTS if beside.get(key)), None)
        if lost is not None:
            raise DataError(f"the field {lost!r} stands beside 'function': arguments stand in it, in 'arguments'")
        function = beside | function
    identity = row.get("id") if isinstance(row, dict) else None
    return Call(read_function(function), identity if isinstance(identity, str) and identity else None)


def read_function(row: Any) -> ToolCall:
    """Return a call `{"name", "arguments"}`; arguments are an object or text of one, none if `""` or null.

    A call with only a name, and keys that say nothing about arguments, such as an id, has none. Arguments may also be in
    `parameters` or in LangChain's `args`; under any other key they would be lost, so such a key is a fault.

    Raises:
        DataError: naming the field.
    """
    name = get_field(row, "name", str)
    if not name.strip():
        raise DataError("the field 'name' is empty: it is to name a tool")
    keys = [key for key in ARGUMENTS if key in row and not (key == "args" and row[key] is None)]
    if len(keys) > 1:
        raise DataError(f"the fields {keys[0]!r} and {keys[1]!r} are both there: leave one of them out")
    unknown = next(
        (key for key in row if difflib.get_close_matches(key, ["arguments"], 1, 0.75) and key not in keys), None
    )
    if not keys and unknown is not None:
        raise DataError(f"there is no field {unknown!r} of a call; did you mean 'arguments'?")
    arguments = read_arguments(row.get(keys[0]), keys[0]) if keys else {}
    lost = None if arguments else _lost(row, bool(keys))
    if lost is not None:
        raise DataError(
            f"the field 'arguments' is {'empty' if keys else 'missing'}; a call without any has {{}}, and one with some has "
            f"them there, not in {lost!r}"
        )
    return ToolCall(name, arguments)


def _lost(row: dict[str, Any], given: bool) -> str | None:
    """Return the unread key that holds a call's arguments; if empty arguments are given, only a well-known key."""
    for key, value in row.items():
        if key in _BESIDE or key in ARGUMENTS or value in (None, "", [], {}) or value in _OF_APIS.get(key, ()):
            continue
        if not given or key.lower() in _GIVEN:
            return key
    return None


def read_arguments(value: Any, field: str = "arguments") -> dict[str, Any]:
    """Return arguments, an object or text of one, in JSON or in Python's notation; none if they are null or blank.

    Raises:
        DataError: naming the field.
    """
    if value is None:
        return {}
    if isinstance(value, str):
        if not value.strip():
            return {}
        try:
            value = read_value(value)
        except DataError as error:
            raise DataError(
                f"the field {field!r} is text that is {error}; give an object, or JSON text of one"
            ) from None
        if value is None:
            return {}
    return get_field({field: value}, field, dict)
