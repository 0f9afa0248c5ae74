"""Whether the rows that tasks come from are those of before: what a checkpoint keeps of a data file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

_BYTES = 16


class Fingerprint:
    """A fingerprint of rows, made as they are read: a few bytes, however large the file.

    It holds one hash of the rows in their order and one that does not depend on it. How a row is spaced, and the order of its
    keys, do not count.
    """

    def __init__(self) -> None:
        self._number = 0
        self._ordered = hashlib.blake2b(digest_size=_BYTES)
        self._sum = 0

    def add(self, row: Any) -> None:
        """Take a row's value in."""
        text = json.dumps(row, sort_keys=True, default=str)
        digest = hashlib.blake2b(text.encode(), digest_size=_BYTES).digest()
        self._number += 1
        self._ordered.update(digest)
        self._sum = (self._sum + int.from_bytes(digest)) % 256**_BYTES

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds: the number of rows and both hashes."""
        return {"rows": self._number, "ordered": self._ordered.hexdigest(), "unordered": f"{self._sum:x}"}


def change(then: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Return what became of the rows between two states, to follow the name of the file; None where they are the same."""
    if then == now:
        return None
    if then["rows"] != now["rows"]:
        return f"has {now['rows']:,} rows that can be used, where it had {then['rows']:,}"
    if then["unordered"] == now["unordered"]:
        return "has the same rows in another order"
    return "has rows that were edited or replaced"
