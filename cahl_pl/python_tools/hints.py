"""Type hints of parameters: those of the signature, or what a docstring says in their place."""

from __future__ import annotations

import datetime
import decimal
import pathlib
import re
import types
import typing
import uuid
from collections.abc import Mapping
from typing import Any, Literal, get_type_hints

_IN_DOCSTRINGS = {
    **vars(typing),
    **{"string": str, "integer": int, "boolean": bool, "number": float, "double": float, "array": list, "object": dict},
    **{"dictionary": dict, "date": datetime.date, "datetime": datetime.datetime, "any": Any, "none": None},
    **{"Decimal": decimal.Decimal, "Path": pathlib.Path, "UUID": uuid.UUID},
}
_TYPE_TEXT = re.compile(r"[\w.\[\], |]+")  # names and brackets: nothing that could be called
_VALUES_TEXT = re.compile(r"\{(.+)\}|one of (.+)", re.IGNORECASE)
_REST = re.compile(r"(?:,\s*|\s+)(?:optional|defaults?|required)\b.*", re.IGNORECASE)


def resolved(hint: Any, scope: Mapping[str, Any]) -> Any:
    """Return a hint with its texts replaced by what they name in a function's globals.

    Raises:
        Exception: whatever evaluating the module's own text raises.
    """
    holder = types.SimpleNamespace(__annotations__={"x": hint})
    return get_type_hints(holder, dict(scope), include_extras=True)["x"]


def hint_in_docstring(text: str, scope: Mapping[str, Any]) -> Any:
    """Return the type that a docstring names, such as `str, optional`, `list of int` or `{'a', 'b'}`; None if it is none."""
    if values := _VALUES_TEXT.match(text.strip()):
        found = re.findall(r"'([^']*)'|\"([^\"]*)\"", values[1] or values[2])
        return Literal[tuple(a or b for a, b in found)] if found else None
    text = _REST.sub("", text.strip())
    text = re.sub(r"\b(list|array|sequence|set|tuple)s? of (\w+?)s?\b", r"list[\2]", text, flags=re.IGNORECASE)
    text = re.sub(r"\s+or\s+", " | ", text)
    if not _TYPE_TEXT.fullmatch(text):
        return None
    try:
        return resolved(text.strip(), {**_IN_DOCSTRINGS, **scope})
    except Exception:  # a word that names nothing
        return None
