"""Schemas as older drafts and other programs write them, in the form that is read here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cahl_pl.schema.coercion import dereference
from cahl_pl.schema.merging import declared
from cahl_pl.schema.tools import NAMED, VALUES


def modernised(schema: Any) -> Any:
    """Return a schema, and what stands in it, as JSON Schema writes it since 2020; see `modernise`.

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
    """Put lists of items and exclusive bounds, as drafts before 2020 and 2016 wrote them, as JSON Schema writes them now."""
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
    """Return a schema whose parameters stand at its top, where those within its `$ref`, `allOf`, `anyOf` or `oneOf` do not."""
    properties, required = declared(schema)
    if properties.keys() == schema.get("properties", {}).keys() and len(required) == len(schema.get("required", ())):
        return schema
    made = {**dereference(schema, schema), "properties": properties}
    return made | ({"required": list(required)} if required else {})
