"""JSON Schema of the type names that data sets write in free text."""

from __future__ import annotations

import difflib
from typing import Any, Final

from cahl_pl.errors import DataError

JSON_TYPES: Final = ("string", "integer", "number", "boolean", "array", "object", "null")

_TYPE_NAMES = {
    "str": "string",
    "string": "string",
    "text": "string",
    "int": "integer",
    "integer": "integer",
    "float": "number",
    "double": "number",
    "number": "number",
    "bool": "boolean",
    "boolean": "boolean",
    "list": "array",
    "array": "array",
    "tuple": "array",
    "set": "array",
    "sequence": "array",
    "dict": "object",
    "object": "object",
    "mapping": "object",
    "none": "null",
    "null": "null",
    "nonetype": "null",
}
_ANYTHING = ("any", "mixed", "")
_MAX_TYPE_DEPTH = 8


def named_type(text: str) -> dict[str, Any]:
    """Return the JSON Schema of a type that has to be known, such as `float`, `dict`, `List[int]`, `any`.

    Raises:
        DataError: it is not known; with the nearest name.
    """
    found = type_schema(text)
    if not found and text.strip().lower() not in _ANYTHING and text.partition("[")[0].strip().lower() != "union":
        near = difflib.get_close_matches(text.strip().lower(), _TYPE_NAMES, 1)
        hint = f'did you mean "{_TYPE_NAMES[near[0]]}"?' if near else f"use one of {', '.join(JSON_TYPES)}"
        raise DataError(f"there is no type {text!r}; {hint}")
    return found


def type_schema(text: Any, depth: int = 0) -> dict[str, Any]:
    """Return the JSON Schema of a type in free text; `{}` (no constraint) for anything that is not known for sure.

    `str`, `int, optional`, `List[float]`, `Dict[str, Any]`, `Optional[int]`, `Union[int, str]`, `Tuple[float,
    float]` (any number of floats), or a list of such names, which means any of them. The contents of
    a `Dict` or of a tuple of different types are not constrained.
    """
    if depth > _MAX_TYPE_DEPTH:
        return {}
    if isinstance(text, list):
        return _any_of([type_schema(item, depth + 1) for item in text])
    if not isinstance(text, str):
        return {}
    text = text.strip()
    if text.lower().endswith("optional") and "," in text:
        text = text[: text.rindex(",")].strip()
    head, bracket, rest = text.partition("[")
    name = head.strip().rpartition(".")[2].lower()
    inside = _split(rest[:-1]) if bracket and rest.endswith("]") else []
    if name in ("union", "optional"):
        options = [type_schema(item, depth + 1) for item in inside]
        return _any_of([*options, {"type": "null"}] if name == "optional" else options)
    kind = _TYPE_NAMES.get(name)
    if kind is None or (bracket and kind not in ("array", "object")):
        return {}
    items = [type_schema(item, depth + 1) for item in inside if item != "..."]
    if kind == "array" and items and items[0] and all(item == items[0] for item in items):
        return {"type": "array", "items": items[0]}
    return {"type": kind}


def _any_of(options: list[dict[str, Any]]) -> dict[str, Any]:
    if not options or {} in options:
        return {}
    if all(option.keys() == {"type"} and isinstance(option["type"], str) for option in options):
        return {"type": [option["type"] for option in options]}
    return {"anyOf": options}


def _split(text: str) -> list[str]:
    """Return the parts between commas outside brackets."""
    parts, depth, start = [], 0, 0
    for at, char in enumerate(text):
        depth += (char == "[") - (char == "]")
        if char == "," and depth == 0:
            parts.append(text[start:at].strip())
            start = at + 1
    return [*parts, text[start:].strip()]
