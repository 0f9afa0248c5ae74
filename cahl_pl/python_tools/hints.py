"""Type hints of parameters: those of the signature, or a docstring's instead."""

from __future__ import annotations

import datetime
import decimal
import pathlib
import re
import typing
import uuid
from collections.abc import Mapping
from typing import Any, ClassVar, Final, Literal, get_args, get_origin, get_type_hints

import typing_extensions

from cahl_pl.python_tools.recursive import closed

_IN_DOCSTRINGS = {
    **vars(typing),
    **{"string": str, "integer": int, "boolean": bool, "number": float, "double": float, "array": list, "object": dict},
    **{"dictionary": dict, "date": datetime.date, "datetime": datetime.datetime, "any": Any, "none": None},
    **{"Decimal": decimal.Decimal, "Path": pathlib.Path, "UUID": uuid.UUID, "bytes": str},
    **{"array_like": list, "ndarray": list, "iterable": list, "sequence": list, "scalar": float},
    **{f"float{bits}": float for bits in ("", 16, 32, 64)},
    **{f"{sign}int{bits}": int for sign in ("", "u") for bits in ("", 8, 16, 32, 64)},
}
_MARKS: Final = (Final, ClassVar, typing.Required, typing.NotRequired, typing_extensions.ReadOnly)
"""Qualifiers around a type that say nothing about its values."""
_TYPE_TEXT = re.compile(r"[\w.\[\], |]+")  # names and brackets: nothing that could be called
_VALUES_TEXT = re.compile(r"\{(.+)\}|one of (.+)", re.IGNORECASE)
_ARRAY = re.compile(
    r"\b(?:array[-_ ]like|(?:np|numpy)\.(?:nd)?array)\b(?:\s+of shape\s*\([^)]*\))?", re.IGNORECASE
)
_REST = re.compile(r"(?:,\s*|\s+)(?:optional|defaults?|required)\b.*", re.IGNORECASE)


def resolved(hint: Any, scope: Mapping[str, Any]) -> Any:
    """Return a hint with its texts replaced by the objects that they name in a function's globals.

    Raises:
        Exception: anything that evaluating the module's own text raises.
    """
    holder = type("Holder", (), {"__annotations__": {"x": hint}})  # a class, where Final and ClassVar are allowed
    found = get_type_hints(holder, dict(scope), include_extras=True)["x"]
    while get_origin(found) in _MARKS:
        (found,) = get_args(found)
    if found in _MARKS:
        raise TypeError(f"{found} does not say which type it is")
    return closed(found, scope)


def hint_in_docstring(text: str, scope: Mapping[str, Any]) -> Any:
    """Return the type that a docstring names, such as `str, optional`, `list of int` or `{'a', 'b'}`; None if it is none."""
    if values := _VALUES_TEXT.match(text.strip()):
        return _literal(values[1] or values[2])
    text = _REST.sub("", text.strip())
    text = _ARRAY.sub("array_like", text)
    text = re.sub(r"\b(list|dict|tuple|set)\(([^()]*)\)", r"\1[\2]", text, flags=re.IGNORECASE)  # list(str)
    text = re.sub(r"\b(list|array|sequence|set|tuple)s? of (\w+?)s?\b", r"list[\2]", text, flags=re.IGNORECASE)
    text = re.sub(r"\s+or\s+", " | ", text)
    if not _TYPE_TEXT.fullmatch(text):
        return None
    try:
        return resolved(text.strip(), {**_IN_DOCSTRINGS, **scope})
    except Exception:  # a word that names nothing
        return None


def _literal(text: str) -> Any:
    """Return the values that a docstring lists, `'a', 'b'` or `1, 2`; None for anything else."""
    found = re.findall(r"'([^']*)'|\"([^\"]*)\"", text)
    if found:
        return Literal[tuple(a or b for a, b in found)]
    parts = [part.strip() for part in re.split(r",|\bor\b", text)]
    if all(re.fullmatch(r"[-+]?\d{1,18}", part) for part in parts):
        return Literal[tuple(map(int, parts))]
    known = {"True": True, "False": False, "None": None}
    return Literal[tuple(known[part] for part in parts)] if all(part in known for part in parts) else None
