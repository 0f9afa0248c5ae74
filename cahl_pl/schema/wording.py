"""Values and texts within messages, of readable length and in JSON's words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_WORDS: Final[Mapping[type, str]] = {
    str: "text",
    bool: "true or false",
    int: "an integer",
    float: "a number",
    list: "a list",
    tuple: "a list",
    dict: "an object",
    type(None): "null",
}


def word_for(kind: type) -> str:
    """Return the JSON name of a Python type, with its article: `an integer`, `an object`, `text`, `null`."""
    named = next((word for known, word in _WORDS.items() if issubclass(kind, known)), None)
    return named or f"a value of Python's type {kind.__name__!r}, which JSON does not have"


def kind_word(value: Any) -> str:
    """Return the JSON name of a value's type, with its article; for a flag its value, `true` or `false`."""
    return str(value).lower() if isinstance(value, bool) else word_for(type(value))


def show(value: Any) -> str:
    """Return a value of any kind as Python would write it, or its type if that fails."""
    try:
        return shorten(repr(value))
    except Exception:  # an int of 5,000 digits, great depth
        return kind_word(value)


def shorten(text: str, length: int = 240) -> str:
    """Return the text, without its middle if it is long: messages name the value first and the fault last."""
    half = length // 2
    return text if len(text) <= length else f"{text[:half]} ... {text[-half:]}"
