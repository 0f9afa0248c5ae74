"""Samples of conversations that may continue, so that their next request finds their episode as it was."""

from __future__ import annotations

import hashlib
import threading
from array import array
from collections import OrderedDict
from collections.abc import Sequence

from cahl_pl.engines.base import Completion
from cahl_pl.types import Role


class Memory:
    """Latest completions, by the prompt that they followed; the oldest are dropped.

    It only saves time: greedy sampling yields the same completion again, and otherwise the calls that the client
    sends back say what was done. Completions are stored under the episode's mark, which only its own client gets, and
    also under none, for clients that do not keep ids.

    Args:
        size: number of completions kept.
    """

    def __init__(self, size: int = 8192) -> None:
        self.size = size
        self._kept: OrderedDict[bytes, Completion] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, mark: str, role: Role, prompt: Sequence[int], number: int, completion: Completion) -> None:
        """Store the `number`-th completion (from 0) of a prompt in the episode with this mark."""
        with self._lock:
            for name in (mark, ""):
                key = _key(name, role, prompt, number)
                self._kept[key] = completion
                self._kept.move_to_end(key)
            while len(self._kept) > self.size:
                self._kept.popitem(last=False)

    def get(self, mark: str, role: Role, prompt: Sequence[int], number: int) -> Completion | None:
        """Return a stored completion, or None."""
        with self._lock:
            return self._kept.get(_key(mark, role, prompt, number))


def _key(mark: str, role: Role, prompt: Sequence[int], number: int) -> bytes:
    return hashlib.sha256(f"{mark} {role} {number} ".encode() + array("q", prompt).tobytes()).digest()
