"""Return values of tools, as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections import deque
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from enum import Enum
from itertools import islice
from typing import Any, Final

MAX_ITEMS: Final = 1000
"""Maximum number of items of a generator to read; the rest is left in it and shown as "..."."""


def plain(value: Any) -> Any:
    """Return the value in JSON's types.

    Dataclasses, named tuples and pydantic models become objects, sets and generators lists, dates and decimal numbers
    texts, arrays of NumPy and torch lists. A set comes in the order of its items' JSON texts, since its own changes from
    process to process.

    Raises:
        TypeError: it contains something that JSON has no form for, such as an open file; a sentence without a full stop.
        RecursionError: it is nested too deeply, or contains itself.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int | float):
        return value
    if isinstance(value, Mapping):
        return {_key(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, list | tuple | deque):
        return [plain(item) for item in value]
    if isinstance(value, AbstractSet):
        return sorted(map(plain, value), key=lambda item: json.dumps(item, sort_keys=True))
    if isinstance(value, Iterator):
        items = [plain(item) for item in islice(value, MAX_ITEMS + 1)]
        return items if len(items) <= MAX_ITEMS else [*items[:MAX_ITEMS], "..."]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return _other(value)


def _other(value: Any) -> Any:
    from pydantic import TypeAdapter  # here: few results need it, and the import is slow

    for method in ("tolist", "to_dict"):  # arrays and scalars of NumPy and torch; tables of pandas
        if not isinstance(value, type) and callable(getattr(value, method, None)):
            return plain(getattr(value, method)())
    return TypeAdapter(Any).dump_python(value, mode="json", fallback=_text)


def _text(value: Any) -> str:
    """Return the text of an object whose class defines one on purpose, such as an address or a fraction."""
    of = value if isinstance(value, type) else type(value)
    if of is value or callable(value) or "__str__" not in {name for base in of.__mro__[:-1] for name in vars(base)}:
        raise TypeError(f"the tool's result holds something that JSON has no form for: {of.__name__}")
    return str(value)


def _key(key: Any) -> Any:
    key = plain(key)
    return key if key is None or isinstance(key, str | int | float) else json.dumps(key)


def json_text(value: Any) -> str:
    """Return the value as JSON text; lone surrogates, which no tokenizer accepts, are replaced.

    Raises:
        ValueError: it contains NaN or an infinity.
        TypeError, RecursionError: as `plain`.
    """
    text = json.dumps(plain(value), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "replace").decode("utf-8")


def result_text(value: Any) -> str:
    """Return a tool's answer as JSON text; a text that is already a JSON object or list stays as it is.

    Raises:
        ValueError, TypeError, RecursionError: as `json_text`.
    """
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            json.loads(value)
        except (ValueError, RecursionError):
            pass
        else:
            return value.strip().encode("utf-8", "replace").decode("utf-8")
    return json_text(value)
