"""Merging of schemas that apply together: keywords next to `anyOf`, the parts of `allOf`, the target of a `$ref`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from cahl_pl.schema.canonical import canonical
from cahl_pl.schema.coercion import MAX_REFERENCES, dereference

MAX_PARTS: Final = 1000
"""Maximum number of parts to merge; a schema with more contains itself."""

_NARROWER: Final[dict[str, Callable[[Any, Any], Any]]] = {
    **dict.fromkeys(("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"), max),
    **dict.fromkeys(("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"), min),
}


class _Budget:
    """Budget of parts of a schema to examine: parts that lead back to themselves, or to many others, have no end."""

    def __init__(self) -> None:
        self.left = MAX_PARTS

    def parts(self, schema: Mapping[str, Any], key: str, depth: int) -> list[Any]:
        """Return the items of a list of schemas, as far as the budget allows."""
        found = parts(schema.get(key)) if depth <= MAX_REFERENCES else []
        self.left -= len(found)
        return found if self.left >= 0 else []


def merged(first: Mapping[str, Any], second: Any) -> dict[str, Any]:
    """Return a schema whose values satisfy both; if two keywords cannot be merged, that of the second is kept.

    Args:
        first: a schema.
        second: another one; anything but an object, such as `true`, says nothing.
    """
    made = dict(first)
    for key, value in second.items() if isinstance(second, Mapping) else ():
        made[key] = _both(key, made[key], value) if key in made else value
    return made


def _both(key: str, one: Any, other: Any) -> Any:
    if key == "properties" and isinstance(one, Mapping) and isinstance(other, Mapping):
        return {
            **one,
            **{
                name: merged(one[name], item) if _are_objects(one.get(name), item) else item
                for name, item in other.items()
            },
        }
    if key == "required" and isinstance(one, list) and isinstance(other, list):
        return list(dict.fromkeys([*one, *other]))
    if key == "type":
        return _types(one, other)
    if key == "enum" and isinstance(one, list) and isinstance(other, list):
        known = {canonical(item) for item in one}
        return [item for item in other if canonical(item) in known] or other
    if key == "additionalProperties" and one is False:
        return False
    if key in _NARROWER and all(isinstance(value, int | float) for value in (one, other)):
        return _NARROWER[key](one, other)
    return other


def _are_objects(one: Any, other: Any) -> bool:
    return isinstance(one, Mapping) and isinstance(other, Mapping)


def _types(one: Any, other: Any) -> Any:
    first, second = (kinds if isinstance(kinds, list) else [kinds] for kinds in (one, other))
    shared = [kind for kind in second if kind in first or (kind == "integer" and "number" in first)]
    shared += [kind for kind in first if kind == "integer" and "number" in second and kind not in second]
    return other if not shared else shared[0] if len(shared) == 1 else shared


def parts(value: Any) -> list[Any]:
    """Return a list as it is, and an empty one for anything else."""
    return list(value) if isinstance(value, list | tuple) else []


def whole(schema: Any, root: Mapping[str, Any]) -> Any:
    """Return a schema with its `$ref` followed and its `allOf` merged with the keywords next to it.

    Args:
        schema: the schema.
        root: the schema in which references are looked up.
    """
    return _whole(schema, root, _Budget())


def _whole(schema: Any, root: Mapping[str, Any], budget: _Budget, depth: int = 0) -> Any:
    found = dereference(schema, root)
    if not isinstance(found, Mapping) or "allOf" not in found:
        return found
    made = {key: value for key, value in found.items() if key != "allOf"}
    for part in budget.parts(found, "allOf", depth):
        made = merged(made, _whole(part, root, budget, depth + 1))
    return made


def declared(root: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the parameters of a tool's schema, and the names of those that are required.

    They include those reached by a `$ref` at the top, or within its `allOf`, `anyOf` or `oneOf`. Those of the latter two are
    not required, and a parameter of several alternatives may have the value of any.

    Args:
        root: the schema.
    """
    return _declared(root, root, _Budget())


def _declared(
    schema: Any, root: Mapping[str, Any], budget: _Budget, depth: int = 0
) -> tuple[dict[str, Any], tuple[str, ...]]:
    found = dereference(schema, root)
    if not isinstance(found, Mapping):
        return {}, ()
    properties = dict(found["properties"]) if isinstance(found.get("properties"), Mapping) else {}
    required = parts(found.get("required"))
    for part in budget.parts(found, "allOf", depth):
        more, needed = _declared(part, root, budget, depth + 1)
        properties |= {name: one for name, one in more.items() if name not in properties}
        required += needed
    options: dict[str, list[Any]] = {}
    for branch in (*budget.parts(found, "anyOf", depth), *budget.parts(found, "oneOf", depth)):
        for name, one in _declared(branch, root, budget, depth + 1)[0].items():
            options.setdefault(name, []).append(one)
    for name, found_here in options.items():
        properties.setdefault(name, found_here[0] if len(found_here) == 1 else {"anyOf": found_here})
    return properties, tuple(dict.fromkeys(required))
