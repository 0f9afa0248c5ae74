"""One pass of the model over packed rows, and the prefixes that need not be run again.

A row's frozen tokens, a closed part of its tree from the root on, are run first, without gradient: with activated LoRA
they are what comes before the role's own words, which the bare base reads; while sampling they are what all members of
a row start with. Their keys and values can be kept (`PrefixStore`) until the weights that made them change. The rest of
the row, its body, is run on top of them. A long part of the body that all its members start with, its trunk, goes first
there: its tokens see just what comes before them, for which attention kernels need no mask and half of the work.

Of frozen tokens and of trunks nothing but keys and values is needed: their last layer ends where these are there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

from cahl_pl.packing import Row

if TYPE_CHECKING:
    from cahl_pl.policy import Policy

Places = NDArray[np.int64]

SHORTEST_TRUNK = 64
"""Tokens; a shorter trunk is run with the rest: what its attention spares is less than another pass over the layers costs."""


@dataclass
class Pass:
    """What a pass gives.

    Attributes:
        hidden: last hidden states of the rows' bodies behind their trunks, [R, B, H], padded on the right.
        columns: for each row, where in the cache the keys and values of its tokens lie.
        width: columns of the tokens that are not in `hidden`; the place there of one that is is its column minus `width`.
        cache: keys and values of all tokens, if asked for.
    """

    hidden: Tensor
    columns: list[Places]
    width: int
    cache: DynamicCache


@dataclass
class PrefixStore:
    """Keys and values of prefixes, kept for as long as the weights that made them hold.

    Attributes:
        max_tokens: how many tokens to keep in all.
    """

    max_tokens: int
    entries: list[tuple[str, Places, list[tuple[Tensor, Tensor]]]] = field(default_factory=list)

    def find(self, maker: str, ids: Places) -> tuple[int, list[tuple[Tensor, Tensor]]]:
        """The most tokens of `ids` that a kept prefix starts with, and that prefix's keys and values [heads, n, d]."""
        best, found = 0, []
        for made_by, kept, layers in self.entries:
            if made_by == maker:
                length = min(len(kept), len(ids))
                same = kept[:length] == ids[:length]
                shared = length if same.all() else int(same.argmin())
                if shared > best:
                    best, found = shared, layers
        return best, found

    def keep(self, maker: str, ids: Places, layers: list[tuple[Tensor, Tensor]]) -> None:
        """Keep a prefix, if there is room."""
        if sum(len(kept) for _, kept, _ in self.entries) + len(ids) <= self.max_tokens:
            self.entries.append((maker, ids, layers))

    def forget(self) -> None:
        """Forget everything: the weights are about to change, or the tasks."""
        self.entries = []


def run(policy: Policy, rows: Sequence[Row], keep_cache: bool = False) -> Pass:
    """Run rows under the policy's active adapter; gradients flow through their bodies.

    Args:
        policy: with the right adapter active.
        rows: of `packing.pack`.
        keep_cache: give back keys and values too (they are kept in any case where tokens are frozen).
    """
    frozen = [np.flatnonzero(row.frozen) for row in rows]
    cache = _Cache(policy)
    columns = [np.zeros(len(row.ids), np.int64) for row in rows]
    width = _run_frozen(policy, rows, frozen, cache, columns) if any(map(len, frozen)) else 0
    body = [np.flatnonzero(~np.asarray(row.frozen, bool)) for row in rows]
    for places, own in zip(columns, body, strict=True):
        places[own] = width + np.arange(len(own))
    # a trunk's keys and values are handed on in a cache, which models leave alone while they recompute activations
    trunk = 0 if width or policy.lm.training else min(row.trunk() for row in rows)
    if trunk >= SHORTEST_TRUNK:
        _fill(policy, rows, [own[:trunk] for own in body], columns, 0, cache)
        width, body = trunk, [own[trunk:] for own in body]
    hidden = _forward(policy, rows, body, columns, width, cache if width or keep_cache else None)
    return Pass(hidden, columns, width, cache)


class _Filled(Exception):
    """The last layer has made its keys and values."""


class _Cache(DynamicCache):
    """A cache that can end a pass as soon as it has all keys and values.

    Attributes:
        is_goal: nothing else of the pass is needed.
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.is_goal = False
        self._last = policy.causal_lm.config.get_text_config().num_hidden_layers - 1

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Add keys and values of a layer.

        Raises:
            _Filled: it was the last layer's, and they are all that the pass is for.
        """
        result = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        if self.is_goal and layer_idx == self._last:
            raise _Filled
        return result


def _run_frozen(
    policy: Policy, rows: Sequence[Row], frozen: Sequence[Places], cache: _Cache, columns: Sequence[Places]
) -> int:
    """Fill the cache with the frozen tokens; returns how many columns they take."""
    chains = [_chain(row, own) for row, own in zip(rows, frozen, strict=True)]
    found = [policy.prefixes.find(policy.maker, chain) for chain in chains]
    start = max(length for length, _ in found)
    if start:
        _lay_out(cache, found, start)
    rest = [own[length:] for own, (length, _) in zip(frozen, found, strict=True)]
    for places, own, new, (length, _) in zip(columns, frozen, rest, found, strict=True):
        places[own[:length]] = np.arange(length)
        places[new] = start + np.arange(len(new))
    longest = max(map(len, rest))
    if longest == 0:
        return start
    bare = policy.without_adapters() if policy.config.adapter == "alora" else contextlib.nullcontext()
    with torch.no_grad(), bare:
        _fill(policy, rows, rest, columns, start, cache)
    cached: list[Any] = cache.layers
    for r, (chain, (length, _)) in enumerate(zip(chains, found, strict=True)):
        if len(chain) > length:
            at = torch.from_numpy(columns[r][frozen[r][: len(chain)]])
            layers = [(layer.keys[r, :, at], layer.values[r, :, at]) for layer in cached]
            policy.prefixes.keep(policy.maker, chain, layers)
    return start + longest


def _chain(row: Row, frozen: Places) -> Places:
    """The ids of the frozen tokens up to the first branch."""
    straight = np.asarray(row.depths)[frozen] == np.arange(len(frozen))
    length = len(frozen) if straight.all() else int(straight.argmin())
    return np.asarray(row.ids)[frozen[:length]]


def _lay_out(cache: DynamicCache, found: Sequence[tuple[int, list[tuple[Tensor, Tensor]]]], width: int) -> None:
    """Lay kept keys and values side by side, padded on the right."""
    layers = next(layers for length, layers in found if length)
    for i, pair in enumerate(layers):
        filled = [x.new_zeros(len(found), x.shape[0], width, x.shape[2]) for x in pair]
        for r, (length, kept) in enumerate(found):
            for buffer, tensor in zip(filled, kept[i] if length else (), strict=bool(length)):
                buffer[r, :, :length] = tensor[:, :length]
        keys, values = filled
        cache.update(keys, values, i)


def _fill(
    policy: Policy,
    rows: Sequence[Row],
    chosen: Sequence[Places],
    columns: Sequence[Places],
    before: int,
    cache: _Cache,
) -> None:
    """Put keys and values of the chosen tokens of each row behind `before` columns of the cache."""
    cache.is_goal = True
    with contextlib.suppress(_Filled):  # not raised where the last layers take another layer's keys and values
        _forward(policy, rows, chosen, columns, before, cache)
    cache.is_goal = False


def _forward(
    policy: Policy,
    rows: Sequence[Row],
    chosen: Sequence[Places],
    columns: Sequence[Places],
    before: int,
    cache: _Cache | None,
) -> Tensor:
    """Run the chosen tokens of each row behind `before` columns of the cache; hidden states [R, N, H]."""
    longest, device = max(map(len, chosen)), policy.device
    ids = np.full((len(rows), longest), policy.tokenizer.pad_token_id)
    positions = np.tile(np.arange(longest), (len(rows), 1))
    for r, (row, own) in enumerate(zip(rows, chosen, strict=True)):
        ids[r, : len(own)], positions[r, : len(own)] = np.asarray(row.ids)[own], np.asarray(row.depths)[own]
    # where every token sees all before it and no other, the model's own causal attention does, and padding is behind
    causal = before == 0 and (positions == np.arange(longest)).all()
    mask = None if causal else policy.attention_mask(_visible(rows, chosen, columns, before, longest).to(device))
    hidden: Tensor = policy.causal_lm.base_model(
        input_ids=torch.from_numpy(ids).to(device),
        attention_mask=mask,
        position_ids=torch.from_numpy(positions).to(device),
        past_key_values=cache,
        use_cache=cache is not None,
    ).last_hidden_state
    return hidden


def _visible(
    rows: Sequence[Row], chosen: Sequence[Places], columns: Sequence[Places], before: int, longest: int
) -> Tensor:
    """Whether the chosen tokens of each row see a column, [R, N, before + N]."""
    visible = np.zeros((len(rows), longest, before + longest), bool)
    # padding sees itself: a token that sees nothing has no attention
    visible[:, range(longest), range(before, before + longest)] = True
    for r, (row, own) in enumerate(zip(rows, chosen, strict=True)):
        sees, places = row.visible()[own], columns[r]
        # what a token sees has been run, or is run now: it has its column
        for i, seen in enumerate(sees):
            visible[r, i, places[seen]] = True
    return torch.from_numpy(visible)
