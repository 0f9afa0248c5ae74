"""Values read as the types that a schema declares."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from cahl_pl.parsing import read_json

_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)


MAX_REFERENCES = 16
"""Maximum number of references followed in a row, without a step into the value: some lead back to themselves."""


MAX_LOOKS = 10_000
"""Maximum number of parts of a value to examine, in total, to find which of several schemas they have."""


def coerce(value: Any, schema: Any, root: Mapping[str, Any], looks: list[int] | None = None) -> Any:
    """Return the value read as the schema's type, or unchanged.

    Recurses into the value along the schema: no deeper than the schema is or, if that contains itself, than the value.

    Args:
        value: any value.
        schema: its schema.
        root: the schema in which references are looked up.
        looks: as in `_holds`; None: `MAX_LOOKS`.
    """
    looks = [MAX_LOOKS] if looks is None else looks
    options = [option for option in _options(dereference(schema, root), root) if isinstance(option, Mapping)]
    if any(not _types(option) and _lists(option, value) for option in options):
        return value
    if len(options) > 1 and isinstance(
        value, list | dict
    ):  # a match at all depths goes before one at the top
        options.sort(key=lambda option: (not _holds(value, option, root, looks), not _is_told(value, option)))
    for read_as in (_is, _read):  # a type that the value already has goes before any that it can be read as
        for option in options:
            for kind in _types(option):
                read = read_as(value, kind)
                if read is not _UNREADABLE:
                    return _inside(read, option, root, looks)
    return value


def _holds(value: Any, schema: Any, root: Mapping[str, Any], looks: list[int]) -> bool:
    """Return whether a value has a schema's types, keys and listed values at any depth, without being read as another type.

    Args:
        value: the value.
        schema: the schema.
        root: the schema in which references are looked up.
        looks: list of one item, the number of parts that may still be examined: some schemas branch without end.
    """
    looks[0] -= 1
    if looks[0] < 0:
        return False
    options = _options(dereference(schema, root), root)
    return not options or any(_holds_one(value, option, root, looks) for option in options)


def _holds_one(value: Any, schema: Any, root: Mapping[str, Any], looks: list[int]) -> bool:
    if not isinstance(schema, Mapping):
        return True
    if value not in _listed(schema, [value]):
        return False
    kinds = _types(schema)
    if kinds and all(_is(value, kind) is _UNREADABLE for kind in kinds):
        return False
    if isinstance(value, dict):
        required, known, other = schema.get("required"), schema.get("properties"), schema.get("additionalProperties")
        if isinstance(required, list) and any(name not in value for name in required):
            return False
        known = known if isinstance(known, Mapping) else {}
        return all(_holds(item, known.get(key, other), root, looks) for key, item in value.items())
    if isinstance(value, list):
        return all(_holds(item, kind, root, looks) for item, kind in zip(value, _of_items(value, schema), strict=False))
    return True


def _is_told(value: Any, schema: Mapping[str, Any]) -> bool:
    """Return whether an object has a schema's required keys, and a listed value for each key whose values are listed."""
    if not isinstance(value, dict):
        return False
    required, known = schema.get("required"), schema.get("properties")
    if isinstance(required, list) and any(name not in value for name in required):
        return False
    parts = [(value[key], part) for key, part in known.items() if key in value] if isinstance(known, Mapping) else []
    return all(item in _listed(part, [item]) for item, part in parts)


def _listed(schema: Any, others: list[Any]) -> list[Any]:
    """Return the values that a schema lists; `others` if it lists none."""
    if not isinstance(schema, Mapping):
        return others
    listed = [schema["const"]] if "const" in schema else schema.get("enum")
    return listed if isinstance(listed, list) else others


def dereference(schema: Any, root: Mapping[str, Any]) -> Any:
    """Return the target of `$ref` at the top of a schema within `root`, with the keywords next to it."""
    for _ in range(MAX_REFERENCES):
        if not isinstance(schema, Mapping) or not isinstance(schema.get("$ref"), str):
            return schema
        found = _target(schema["$ref"], root)
        if not isinstance(found, Mapping):
            return schema
        schema = {**found, **{key: item for key, item in schema.items() if key != "$ref"}}
    return schema


def _lists(schema: Mapping[str, Any], value: Any) -> bool:
    """Return whether a schema names a value itself, as a constant or in an enum."""
    return any(type(one) is type(value) and one == value for one in _listed(schema, []))


def _target(reference: str, root: Any) -> Any:
    """Return the target of a pointer such as `#/$defs/tree`; None if there is none, or it is a name and not a pointer."""
    if reference != "#" and not reference.startswith("#/"):
        return None
    found = root
    for part in reference.split("/")[1:]:
        name = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping):
            found = found.get(name)
        else:
            is_place = isinstance(found, list) and name.isdecimal() and int(name) < len(found)
            found = found[int(name)] if is_place else None
    return found


def _inside(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], looks: list[int]) -> Any:
    if isinstance(value, list):
        return [coerce(item, kind, root, looks) for item, kind in zip(value, _of_items(value, schema), strict=False)]
    if isinstance(value, dict):
        known, other = schema.get("properties"), schema.get("additionalProperties")
        known = known if isinstance(known, Mapping) else {}
        return {key: coerce(item, known.get(key, other), root, looks) for key, item in value.items()}
    return value


def _of_items(value: Sequence[Any], schema: Mapping[str, Any]) -> list[Any]:
    """Return the schema of each item of a list."""
    first = schema.get("prefixItems")
    first = first if isinstance(first, list) else []
    return [*first, *[schema.get("items")] * (len(value) - len(first))]


def _options(schema: Any, root: Mapping[str, Any]) -> list[Any]:
    if not isinstance(schema, Mapping):
        return []
    options = schema.get("anyOf") or schema.get("oneOf")
    # a reference may lead to something other than a schema, such as a default, which no check of the tool has seen
    return [dereference(option, root) for option in options] if options and isinstance(options, list) else [schema]


def _types(schema: Mapping[str, Any]) -> Sequence[str]:
    given = schema.get("type")
    kinds = [kind for kind in (given if isinstance(given, list | tuple) else [given]) if isinstance(kind, str)]
    return (*kinds, "null") if is_nullable(schema) else kinds


def types_of(schema: Any, root: Mapping[str, Any]) -> frozenset[str]:
    """Return the types that a schema allows, those of its options included; empty if it names none.

    Args:
        schema: the schema.
        root: the schema in which references are looked up.
    """
    options = _options(dereference(schema, root), root)
    return frozenset(kind for option in options if isinstance(option, Mapping) for kind in _types(option))


def is_nullable(schema: Any) -> bool:
    """Return whether a schema says `nullable: true`, as in OpenAPI 3.0: null is allowed besides its type."""
    return isinstance(schema, Mapping) and schema.get("nullable") is True


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
    """Return the value read as that type, or `_UNREADABLE`."""
    try:
        if kind == "string" and isinstance(value, bool | int | float):
            return json.dumps(value)
        if kind == "integer" and isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, str):
            return _read_text(value.strip(), kind)
    except (ValueError, OverflowError, RecursionError):  # too many digits or brackets
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
