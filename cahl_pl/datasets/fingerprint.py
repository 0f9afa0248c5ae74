"""Fingerprints of data files, kept in checkpoints to notice rows that have changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

_BYTES = 16


class Fingerprint:
    """Fingerprint of rows, computed as they are read: a few bytes, however large the file.

    It consists of one hash of the rows in order and one that ignores the order. Whitespace in a row and the order of its
    keys do not count.
    """

    def __init__(self) -> None:
        self._number = 0
        self._ordered = hashlib.blake2b(digest_size=_BYTES)
        self._sum = 0

    def add(self, row: Any) -> None:
        """Add a row's value."""
        text = json.dumps(row, sort_keys=True, default=str)
        digest = hashlib.blake2b(text.encode(), digest_size=_BYTES).digest()
        self._number += 1
        self._ordered.update(digest)
        self._sum = (self._sum + int.from_bytes(digest)) % 256**_BYTES

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint: the number of rows and both hashes."""
        return {"rows": self._number, "ordered": self._ordered.hexdigest(), "unordered": f"{self._sum:x}"}


def change(then: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Return how the rows changed between two states, to follow the name of the file; None if they are the same."""
    if then == now:
        return None
    if then["rows"] != now["rows"]:
        return f"has {now['rows']:,} rows that can be used, where it had {then['rows']:,}"
    if then["unordered"] == now["unordered"]:
        return "has the same rows in another order"
    return "has rows that were edited or replaced"
