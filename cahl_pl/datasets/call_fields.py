"""Fields of a message that are not read: one that contains a call is a fault, since the call would be lost."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from cahl_pl.datasets.call_values import called_in
from cahl_pl.errors import DataError
from cahl_pl.schema.references import read_text
from cahl_pl.types import ToolSpec

_FIELDS: Final = ("role", "content", "tool_calls", "tool_call_id", "name", "function_call")
_READ: Final = frozenset({*_FIELDS, "from", "value"})
_TOOLISH: Final = re.compile(r"tool|function|(?<!re)call(?!back)|invo(?:ke|cation)", re.IGNORECASE)
_NO_CALL: Final = re.compile(
    r"(?:available|offered)?_?(?:tools|functions)|.*(?:id|ids|choice|plan|count|counts|tokens|details|reason|usage)",
    re.IGNORECASE,
)
"""Keys that mention tools but contain no call."""
_THOUGHTS: Final = frozenset({"reasoning", "reasoning_content", "reasoning_details", "thinking", "thoughts", "thought"})
_SOURCES: Final = frozenset({"citations", "annotations", "sources"})
"""Keys for sources of an answer, which may quote a tool's answer."""
_KINDS: Final = frozenset({"type", "block_type", "kind"})
_MOST: Final = 10_000
"""Maximum number of values of a field to examine."""


def check_fields(row: dict[str, Any], calls: bool) -> None:
    """Refuse a field that nearly matches one that is read, or may contain calls: its content would be lost.

    Args:
        row: the message.
        calls: whether it is an assistant message.

    Raises:
        DataError: naming the field.
    """
    for key, value in row.items():
        if key in _READ or not _says(value):
            continue  # nothing is lost
        near = difflib.get_close_matches(key, _FIELDS, 1, cutoff=0.8)
        if near and near[0] not in row:
            raise DataError(f"there is no field {key!r} of a message; did you mean {near[0]!r}?")
        if _is_toolish(key) if calls else "call" in key.lower():
            raise DataError(f"there is no field {key!r} of a message; calls stand in 'tool_calls'")


def lost_call(row: Any, tools: Sequence[ToolSpec]) -> str | None:
    """Return the fault of an assistant message from which no call was read, although one of its fields contains one.

    Such a field says so by its key or its type, or contains, at any depth, an object that names an offered tool. Programs
    write such fields next to the text: `toolInvocations`, `parts` or `additional_kwargs`.
    """
    if not isinstance(row, dict):
        return None
    fields = [(key, value) for key, value in row.items() if key not in _READ]
    content = row.get("content")
    if isinstance(content, list):  # only the text of a part is read
        parts = [part for part in content if isinstance(part, dict)]
        fields += [("content", {key: value for key, value in part.items() if key not in ("type", "text")}) for part in parts]
    for key, value in fields:
        if key in _THOUGHTS or key in _SOURCES:
            continue
        value = read_text(value) if isinstance(value, str) and value.lstrip()[:1] in ("{", "[") else value
        path = key if _holds(key, value) else next(_within(key, value), None)
        if path is None and isinstance(value, dict | list) and (name := called_in(value, tools)) is not None:
            path = f"{key}' with the tool '{name}"
        if path is not None:
            return f"the field '{path}' holds a call, and calls are read in 'tool_calls' alone: write it there"
    return None


def _says(value: Any) -> bool:
    """Return whether a value may contain a call: numbers, booleans and empty values cannot."""
    return isinstance(value, str | dict | list) and bool(value)


def _is_toolish(key: str) -> bool:
    return _TOOLISH.search(key) is not None and _NO_CALL.fullmatch(key) is None


def _holds(key: Any, value: Any) -> bool:
    """Return whether a key and its value are those of a call."""
    if not _says(value):
        return False
    if str(key).lower() in _KINDS:
        return isinstance(value, str) and _TOOLISH.search(value) is not None and not value.endswith(("result", "response"))
    return _is_toolish(str(key))


def _within(path: str, value: Any) -> Iterator[str]:
    """Yield the paths of fields within a value that are those of a call; iterative, since the depth is unbounded."""
    stack, seen = [(path, value)], 0
    while stack and seen < _MOST:
        path, item = stack.pop()
        seen += 1
        if isinstance(item, list):
            stack += [(path, one) for one in reversed(item)]
        elif isinstance(item, dict):
            for key, one in item.items():
                if _holds(key, one):
                    yield f"{path}.{key}"
                stack.append((f"{path}.{key}", one))
