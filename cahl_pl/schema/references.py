"""References to results of earlier calls, as in plans and gold calls: `$1`, `$1.city`, `$2.items[0].id`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from cahl_pl.parsing import read_json

_STEP: Final = r"\.[^\W\d][\w-]*|\[\d{1,6}\]|\[\"[^\"\]]*\"\]"
REFERENCE: Final = re.compile(rf"\$(?P<call>[1-9]\d{{0,3}})(?P<path>(?:{_STEP})*)")
"""`$` and the number of a call, from 1, and the path into its result: `.field`, `["any field"]`, `[element, from 0]`."""
_PART: Final = re.compile(r"\.(?P<field>[^\[.]+)|\[(?P<index>\d+)\]|\[\"(?P<quoted>[^\"\]]*)\"\]")


class Reference(NamedTuple):
    """Reference to the result of an earlier call.

    Attributes:
        call: the number of the call, from 1.
        path: fields and elements that lead to the value within that result; empty for all of it.
    """

    call: int
    path: tuple[str | int, ...]

    def leads_to(self, other: Reference) -> bool:
        """Return whether the other reference is to the same value or to a part of it."""
        return self.call == other.call and self.path == other.path[: len(self.path)]


def read_reference(value: Any) -> Reference | None:
    """Return the reference that a value is; None for any other value. "$1.50" and "costs $1" are text."""
    found = REFERENCE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return None
    path = tuple(
        int(part["index"]) if part["index"] is not None else (part["field"] or part["quoted"])
        for part in _PART.finditer(found["path"])
    )
    return Reference(int(found["call"]), path)


def leaves(value: Any) -> Iterator[Any]:
    """Return the parts of a value, at any depth, that are not lists or objects."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, Mapping):
            stack += item.values()
        elif isinstance(item, list):
            stack += item
        else:
            yield item


def references_in(value: Any) -> Iterator[Reference]:
    """Return the references in a value, at any depth."""
    found = (read_reference(item) for item in leaves(value))
    return (reference for reference in found if reference is not None)


def replace_references(value: Any, put: Callable[[Reference, str], Any]) -> Any:
    """Return the value with each reference in it, at any depth, replaced by `put(reference, its text)`.

    Recurses: the value was read with bounded depth.
    """
    if isinstance(value, Mapping):
        return {key: replace_references(item, put) for key, item in value.items()}
    if isinstance(value, list):
        return [replace_references(item, put) for item in value]
    reference = read_reference(value)
    return value if reference is None else put(reference, value)


def look_up(result: Any, path: tuple[str | int, ...]) -> Any:
    """Return the value at a path of a result, also within JSON text.

    Raises:
        LookupError: there is none; the message gives the place where the path ends.
    """
    for i, part in enumerate(path):
        if isinstance(result, str):
            result = read_text(result)
        if isinstance(part, int) and isinstance(result, list):
            if part >= len(result):
                raise LookupError(f"{_show(path[:i])} has {len(result)} elements, and no [{part}] counted from 0")
            result = result[part]
        elif isinstance(part, str) and isinstance(result, Mapping):
            if part not in result:
                known = ", ".join(map(str, list(result)[:8])) or "none"
                raise LookupError(f"{_show(path[:i])} has no field {part!r}; its fields are: {known}")
            result = result[part]
        else:
            kind = (
                "a list"
                if isinstance(result, list)
                else "an object"
                if isinstance(result, Mapping)
                else "a single value"
            )
            raise LookupError(f"{_show(path[:i])} is {kind}, which has no {_show((part,))}")
    return result


def read_text(text: str) -> Any:
    """Return the content of a tool's answer: its value if it is JSON, else the text itself."""
    try:
        return read_json(text)
    except ValueError:
        return text


def _show(path: tuple[str | int, ...]) -> str:
    shown = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return shown or "the result"
