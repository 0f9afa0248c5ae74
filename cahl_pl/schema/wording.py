"""Values and texts within messages, of a length that can be read."""

from __future__ import annotations

from typing import Any


def show(value: Any) -> str:
    """Return a value of any kind as Python would write it, or its type where that fails."""
    try:
        return shorten(repr(value))
    except Exception:  # an int of 5,000 digits, great depth
        return f"a {type(value).__name__}"


def shorten(text: str, length: int = 240) -> str:
    """Return the text, without its middle where it is long: messages name the value first and the fault last."""
    half = length // 2
    return text if len(text) <= length else f"{text[:half]} ... {text[-half:]}"
