"""Arguments given as bare text between tags, read as the types that their tool declares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cahl_pl.datasets.call_text import literal
from cahl_pl.datasets.rows import NOT_JSON, parse_json
from cahl_pl.errors import DataError
from cahl_pl.schema.coercion import types_of
from cahl_pl.types import ToolCall, ToolSpec


def read_value(text: str) -> Any:
    """Return the value of a JSON text, or of Python's notation of one, which data sets mix.

    Raises:
        DataError: it is neither.
    """
    try:
        return parse_json(text)
    except DataError as error:
        if not str(error).startswith(NOT_JSON):  # such as a duplicate key
            raise
        try:
            return literal(text)
        except DataError:
            raise error from None


def as_declared(call: ToolCall, tools: Sequence[ToolSpec]) -> ToolCall:
    """Return a call of text arguments with those declared as other types read as JSON, or in Python's notation.

    A text stays as it is if the parameter may be text, if its type is not declared and it is not a list or object, or if it
    cannot be read: values are checked against the tool later.
    """
    tool = next((tool for tool in tools if tool.name == call.name), None)
    properties = {} if tool is None else tool.parameters.get("properties", {})
    root = {} if tool is None else tool.parameters
    return ToolCall(call.name, {key: _value(item, properties.get(key), root) for key, item in call.arguments.items()})


def _value(text: Any, schema: Any, root: Mapping[str, Any]) -> Any:
    if not isinstance(text, str):
        return text
    kinds = types_of(schema, root)
    stripped = text.strip()
    if "null" in kinds and stripped in ("null", "None"):
        return None
    if "string" in kinds or (not kinds and stripped[:1] not in ("[", "{")):
        return text
    try:
        return read_value(stripped)
    except DataError:
        return text
