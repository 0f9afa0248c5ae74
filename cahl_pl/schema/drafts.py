"""Conversion of schemas of older drafts and other programs to the form that is read here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cahl_pl.schema.coercion import dereference
from cahl_pl.schema.merging import declared
from cahl_pl.schema.tools import NAMED, VALUES


def modernised(schema: Any) -> Any:
    """Return a schema and its parts in JSON Schema's form since 2020; see `modernise`.

    Raises:
        RecursionError: it is nested too deeply.
    """
    if isinstance(schema, list):
        return [modernised(one) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    made = dict(schema)
    modernise(made)
    for key, value in made.items():
        if key in NAMED and isinstance(value, Mapping):
            made[key] = {name: modernised(one) for name, one in value.items()}
        elif key not in VALUES:
            made[key] = modernised(value)
    return made


def modernise(made: dict[str, Any]) -> None:
    """Convert lists of items and exclusive bounds from the form of drafts before 2020 and 2016 to JSON Schema's current one."""
    items = made.get("items")
    if isinstance(items, list) and all(isinstance(one, dict | bool) for one in items) and "prefixItems" not in made:
        made["prefixItems"] = made.pop("items")
        if "additionalItems" in made:
            made["items"] = made.pop("additionalItems")
    for exclusive, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(made.get(exclusive), bool):
            is_exclusive = made.pop(exclusive)
            if is_exclusive and bound in made:
                made[exclusive] = made.pop(bound)


def with_parameters_on_top(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a schema whose parameters are at its top, including those from its `$ref`, `allOf`, `anyOf` or `oneOf`."""
    properties, required = declared(schema)
    if properties.keys() == schema.get("properties", {}).keys() and len(required) == len(schema.get("required", ())):
        return schema
    made = {**dereference(schema, schema), "properties": properties}
    return made | ({"required": list(required)} if required else {})
