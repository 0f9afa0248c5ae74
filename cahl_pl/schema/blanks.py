"""Texts that show nothing, although they have characters."""

from __future__ import annotations

import unicodedata
from typing import Final

_EMPTY: Final = frozenset("\u115f\u1160\u2800\u3164\uffa0")
"""Letters and symbols without ink: the fillers of Hangul, and Braille without a dot."""


def is_blank(text: str) -> bool:
    """Return whether a text has only space, control characters and those without width, such as U+200B or a byte order mark."""
    return all(one.isspace() or one in _EMPTY or unicodedata.category(one) in ("Cc", "Cf", "Mn") for one in text)
