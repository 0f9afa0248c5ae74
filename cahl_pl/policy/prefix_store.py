"""Keys and values of prefixes that have been read, for reuse: a tree of segments, in which no token is stored twice.

Within a budget of tokens, the least recently used are evicted, ends first. Whatever the engine's current call uses or has
kept stays: it reads prompts in the same order each time, and if there are more than fit, the oldest would always be the
next one needed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

Places = NDArray[np.int64]

Layers = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of each layer, [heads, tokens, d]."""


@dataclass(eq=False)
class Segment:
    """Tokens that follow one another wherever the first of them follows the segments above.

    Attributes:
        ids: its tokens.
        layers: their keys and values.
        below: segments that have been read after it.
        used: the call that used it last.
    """

    ids: Places
    layers: Layers
    used: int
    below: list[Segment] = field(default_factory=list)


class PrefixStore:
    """Keys and values of prefixes, kept as long as the weights that made them are unchanged.

    Args:
        max_tokens: how many tokens to keep in all.

    Attributes:
        max_tokens: likewise.
        tokens: number of tokens kept now.
    """

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self.tokens = 0
        self._roots: dict[str, Segment] = {}
        self._call = 0

    def begin(self, owners: Collection[str]) -> None:
        """Begin a call: what earlier ones used may be evicted from now on.

        Args:
            owners: owners whose prefixes can still be of use; those of all others are forgotten.
        """
        self._call += 1
        for owner in self._roots.keys() - set(owners):
            self.tokens -= sum(len(segment.ids) for segment, _ in _walk(self._roots.pop(owner)))

    def find(self, owner: str, ids: Places) -> list[tuple[int, Layers]]:
        """Return the segments that `ids` starts with: for each, how many of its tokens, and all its keys and values."""
        return [(length, segment.layers) for segment, length in self._path(owner, ids)]

    def length(self, owner: str, ids: Places) -> int:
        """Return how many tokens of `ids` are kept; they stay for this call."""
        return sum(length for _, length in self._path(owner, ids))

    def keep(self, owner: str, ids: Places, read: Callable[[int, int], Layers]) -> None:
        """Keep a prefix, or as much of its beginning as there is room for.

        Args:
            owner: the weights that made it (`Policy.prefix_owner`).
            ids: its tokens.
            read: function that returns copies of the keys and values of its tokens from a start up to a stop.
        """
        path = self._path(owner, ids)
        known = sum(length for _, length in path)
        if known == len(ids) or self.max_tokens == 0:
            return
        last, length = path[-1] if path else (self._root(owner), 0)
        if length < len(last.ids):
            _split(last, length)
        while self.max_tokens - self.tokens < len(ids) - known and self._evict():
            pass
        end = min(len(ids), known + self.max_tokens - self.tokens)
        if end == known:
            return
        last.below.append(Segment(ids[known:end].copy(), read(known, end), self._call))
        self.tokens += end - known

    def forget(self) -> None:
        """Forget everything, because the weights or the tasks are about to change."""
        self._roots.clear()
        self.tokens = 0

    def _root(self, owner: str) -> Segment:
        return self._roots.setdefault(owner, Segment(np.empty(0, np.int64), [], self._call))

    def _path(self, owner: str, ids: Places) -> list[tuple[Segment, int]]:
        """Return the segments that `ids` starts with, and how many of their tokens; all of each counts as used."""
        path: list[tuple[Segment, int]] = []
        at, here = 0, self._roots.get(owner)
        while here is not None and at < len(ids):
            here = next((segment for segment in here.below if segment.ids[0] == ids[at]), None)
            if here is not None:
                here.used = self._call
                length = min(len(here.ids), len(ids) - at)
                same = here.ids[:length] == ids[at : at + length]
                shared = length if same.all() else int(same.argmin())
                path.append((here, shared))
                at += shared
                if shared < len(here.ids):
                    break
        return path

    def _evict(self) -> bool:
        """Forget the end that was used longest ago, before this call; return whether there was one."""
        ends = [
            (segment, above)
            for root in self._roots.values()
            for segment, above in _walk(root)
            if above is not None and not segment.below and segment.used < self._call
        ]
        if not ends:
            return False
        segment, above = min(ends, key=lambda end: end[0].used)
        above.below.remove(segment)
        self.tokens -= len(segment.ids)
        return True


def _walk(segment: Segment, above: Segment | None = None) -> Iterator[tuple[Segment, Segment | None]]:
    """Yield a segment and all below it, each with the one above."""
    stack = [(segment, above)]
    while stack:
        here, over = stack.pop()
        yield here, over
        stack += [(child, here) for child in here.below]


def _split(segment: Segment, length: int) -> None:
    """Split a segment after `length` of its tokens, copying layer by layer so that either part can be forgotten alone."""
    rest: Layers = []
    for i, (keys, values) in enumerate(segment.layers):
        rest.append((keys[:, length:].clone(), values[:, length:].clone()))
        segment.layers[i] = keys[:, :length].clone(), values[:, :length].clone()
    segment.below = [Segment(segment.ids[length:], rest, segment.used, segment.below)]
    segment.ids = segment.ids[:length]
