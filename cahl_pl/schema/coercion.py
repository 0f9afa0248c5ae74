"""Values read as the types that a schema declares."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from cahl_pl.parsing import read_json

_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)


def coerce(value: Any, schema: Any) -> Any:
    """Return the value read as the schema's type, or as it is. Recurses into the schema, so no deeper than the schema is."""
    if not isinstance(schema, Mapping):
        return value
    options = [option for option in _options(schema) if isinstance(option, Mapping)]
    for read_as in (_is, _read):  # a type that the value has already goes before any that it can be read as
        for option in options:
            for kind in _types(option):
                read = read_as(value, kind)
                if read is not _UNREADABLE:
                    return _inside(read, option)
    return value


def _inside(value: Any, schema: Mapping[str, Any]) -> Any:
    if isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        return [coerce(item, schema["items"]) for item in value]
    if isinstance(value, dict) and isinstance(schema.get("properties"), Mapping):
        known = schema["properties"]
        return {key: coerce(item, known[key]) if key in known else item for key, item in value.items()}
    return value


def _options(schema: Mapping[str, Any]) -> list[Any]:
    return schema.get("anyOf") or schema.get("oneOf") or [schema]


def _types(schema: Mapping[str, Any]) -> Sequence[str]:
    kinds = schema.get("type", ())
    return (kinds,) if isinstance(kinds, str) else kinds


_UNREADABLE = object()
_PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}


def _is(value: Any, kind: str) -> Any:
    if isinstance(value, bool) and kind != "boolean":
        return _UNREADABLE
    return value if isinstance(value, _PYTHON_TYPES.get(kind, ())) else _UNREADABLE


def _read(value: Any, kind: str) -> Any:
    """Return the value as a value of that type, or `_UNREADABLE`."""
    try:
        if kind == "string" and isinstance(value, bool | int | float):
            return json.dumps(value)
        if kind == "integer" and isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, str):
            return _read_text(value.strip(), kind)
    except (ValueError, OverflowError, RecursionError):  # digits or brackets without end
        pass
    return _UNREADABLE


def _read_text(text: str, kind: str) -> Any:
    if kind in ("integer", "number") and _INTEGER.fullmatch(text):
        return int(text)
    if kind in ("integer", "number") and _NUMBER.fullmatch(text):
        number = float(text)
        if kind == "integer":
            return int(number) if number.is_integer() else _UNREADABLE
        return number if number - number == 0 else _UNREADABLE  # not an infinity
    if kind == "boolean" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if kind in ("array", "object") and text[:1] == ("[" if kind == "array" else "{"):
        return read_json(text)
    return _UNREADABLE
