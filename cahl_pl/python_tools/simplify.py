"""JSON Schemas of pydantic in the form that models read best."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_PREFIX = "#/$defs/"


def is_finite(value: Any) -> bool:
    """Return whether there is no NaN and no infinity in a value, at any depth."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Mapping):
        return all(map(is_finite, value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(is_finite, value))
    fields = getattr(value, "__dataclass_fields__", None) or getattr(type(value), "model_fields", None)
    return isinstance(value, type) or all(is_finite(getattr(value, name, None)) for name in fields or ())


def simplified(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema of pydantic without titles and references, and in few words.

    A reference is replaced by its target, unless that contains itself. `anyOf` of mere types becomes a list of types.
    """
    definitions = schema.get("$defs", {})
    kept: dict[str, Any] = {}
    out: dict[str, Any] = _simple({k: v for k, v in schema.items() if k != "$defs"}, definitions, (), kept)
    if kept:
        out["$defs"] = kept
    return out


def _simple(schema: Any, definitions: Mapping[str, Any], within: tuple[str, ...], kept: dict[str, Any]) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    schema = dict(schema)
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith(_PREFIX):
        name = reference.removeprefix(_PREFIX)
        if _contains(definitions, name, name):
            if name not in kept:
                kept[name] = {}  # before it is filled, for the references within
                kept[name] = _simple(definitions[name], definitions, within, kept)
        else:
            del schema["$ref"]
            schema = {**definitions[name], **schema}
    schema.pop("title", None)
    schema.pop("discriminator", None)  # its references are gone; each option contains its distinguishing value
    if "default" in schema and (schema["default"] is None or not is_finite(schema["default"])):
        del schema["default"]  # None says nothing: it can be left out; JSON has no infinities
    if "const" in schema:
        schema["enum"] = [schema.pop("const")]
    if isinstance(schema.get("additionalProperties"), bool):
        del schema["additionalProperties"]  # versions of pydantic differ in it; surplus keys are found when the value is read
    if schema.get("items") == {}:
        del schema["items"]
    for key in ("properties", "patternProperties"):
        if key in schema:
            parts = schema[key].items()
            schema[key] = {name: _simple(part, definitions, within, kept) for name, part in parts}
    for key in ("items", "additionalProperties", "not", "propertyNames"):
        if key in schema:
            schema[key] = _simple(schema[key], definitions, within, kept)
    for key in ("anyOf", "oneOf", "allOf", "prefixItems"):
        if key in schema:
            schema[key] = [_simple(part, definitions, within, kept) for part in schema[key]]
    if "anyOf" in schema:
        schema = _united(schema.pop("anyOf")) | schema
    first = {key: schema[key] for key in ("type", "enum") if key in schema}
    return first | schema


def _united(options: list[Any]) -> dict[str, Any]:
    """Return an `anyOf` as one schema if that is equivalent."""
    others = [option for option in options if option != {"type": "null"}]
    null = len(others) < len(options)
    if any(option == {} for option in others):
        return {}
    if len(others) > 1 and all(option.keys() == {"type"} for option in others):
        kinds = {kind for option in others for kind in _kinds(option)}
        return {"type": sorted(kinds) + (["null"] if null and "null" not in kinds else [])}
    if len(others) == 1 and null and "type" in others[0]:
        one = dict(others[0])
        one["type"] = [*_kinds(one), "null"]
        if "enum" in one:
            one["enum"] = [*one["enum"], None]
        return one
    return {"anyOf": [*others, *([{"type": "null"}] if null else [])]}


def _kinds(schema: Mapping[str, Any]) -> list[str]:
    return [schema["type"]] if isinstance(schema["type"], str) else list(schema["type"])


def _contains(definitions: Mapping[str, Any], start: str, name: str) -> bool:
    """Return whether references lead from a definition to another one."""
    seen: set[str] = set()
    stack: list[Any] = [definitions.get(start)]
    while stack:
        item = stack.pop()
        if isinstance(item, Mapping):
            reference = item.get("$ref")
            if isinstance(reference, str) and reference.startswith(_PREFIX):
                other = reference.removeprefix(_PREFIX)
                if other == name:
                    return True
                if other not in seen:
                    seen.add(other)
                    stack.append(definitions.get(other))
            stack += item.values()
        elif isinstance(item, list):
            stack += item
    return False
