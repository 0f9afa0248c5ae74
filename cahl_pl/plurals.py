"""Numbers with their nouns."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return the number with its noun: `1 row`, `2 rows`, `1,500 rows`.

    Args:
        number: how many.
        noun: what one of them is called.
        plural: what several are called; None for the noun with an s.
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
