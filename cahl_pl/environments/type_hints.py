"""Type hints as JSON Schema: what a model reads of a tool must not depend on the version of a library."""

from __future__ import annotations

import types
from typing import Any, Literal, Union, get_args, get_origin

SCALARS: dict[type, str] = {int: "integer", float: "number", str: "string", bool: "boolean", type(None): "null"}
PLAIN: dict[type, str] = {**SCALARS, list: "array", tuple: "array", dict: "object"}


def schema_of(hint: Any) -> dict[str, Any]:
    """Return the JSON Schema of a type hint.

    Raises:
        TypeError: it has none; the message is a sentence without a full stop.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return {}
    if isinstance(hint, type) and hint in PLAIN:
        return {"type": PLAIN[hint]}
    if hint is None:
        return {"type": "null"}
    if origin is Literal and all(type(value) in SCALARS for value in arguments):
        return {"type": _one_or_many([SCALARS[type(value)] for value in arguments]), "enum": list(arguments)}
    if origin in (Union, types.UnionType):
        schema = _any_of([schema_of(argument) for argument in arguments if argument is not type(None)])
        return _or_null(schema) if type(None) in arguments else schema
    if origin is list:
        return {"type": "array", "items": schema_of(arguments[0])}
    if origin is tuple and Ellipsis not in arguments:
        return {"type": "array", "prefixItems": [schema_of(argument) for argument in arguments]}
    if origin is dict and arguments[0] is str:  # the names in a JSON object are strings
        return {"type": "object", "additionalProperties": schema_of(arguments[1])}
    name = hint.__name__ if isinstance(hint, type) else str(hint)
    raise TypeError(f"the type hint {name} has no JSON Schema")


def _any_of(schemas: list[dict[str, Any]]) -> dict[str, Any]:
    if len(schemas) == 1:
        return schemas[0]
    if all(schema.keys() == {"type"} for schema in schemas):
        return {"type": _one_or_many(sorted(schema["type"] for schema in schemas))}
    return {"anyOf": schemas}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    if "anyOf" in schema:
        return {"anyOf": [*schema["anyOf"], {"type": "null"}]}
    out = dict(schema)
    if "type" in schema:
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        out["type"] = [*kinds, "null"]
    if "enum" in schema:
        out["enum"] = [*schema["enum"], None]
    return out


def _one_or_many(kinds: list[str]) -> str | list[str]:
    different = list(dict.fromkeys(kinds))
    return different[0] if len(different) == 1 else different
