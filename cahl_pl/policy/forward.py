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
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cahl_pl.policy.kv_cache import Mask, PassCache, Places, run_layers
from cahl_pl.policy.packing import PackedRow

if TYPE_CHECKING:
    from cahl_pl.policy.policy import Policy

SHORTEST_TRUNK = 64
"""Tokens; a shorter trunk is run with the rest: what its attention spares is less than another pass over the layers costs."""


@dataclass
class Pass:
    """Output of one forward pass.

    Attributes:
        hidden: last hidden states of the rows' bodies behind their trunks, [R, B, H], padded on the right.
        columns: for each row, where in the cache the keys and values of its tokens lie.
        width: columns of the tokens that are not in `hidden`; the place there of one that is is its column minus `width`.
        cache: keys and values of all tokens, if asked for.
    """

    hidden: Tensor
    columns: list[Places]
    width: int
    cache: PassCache


def run(policy: Policy, rows: Sequence[PackedRow], keep_cache: bool = False) -> Pass:
    """Run rows under the policy's active adapter; gradients flow through their bodies.

    Args:
        policy: with the right adapter active.
        rows: of `packing.pack`.
        keep_cache: give back keys and values too (they are kept in any case where tokens are frozen).
    """
    frozen = [np.flatnonzero(row.frozen) for row in rows]
    cache = PassCache(policy.causal_lm.config.get_text_config().num_hidden_layers)
    columns = [np.zeros(len(row.ids), np.int64) for row in rows]
    width = _run_frozen(policy, rows, frozen, cache, columns) if any(map(len, frozen)) else 0
    body = [np.flatnonzero(~np.asarray(row.frozen, bool)) for row in rows]
    for places, own in zip(columns, body, strict=True):
        places[own] = width + np.arange(len(own))
    # a trunk's keys and values are handed on in a cache, which models leave alone while they recompute activations
    trunk = 0 if width or policy.recomputes or not policy.shares_rows else min(row.trunk() for row in rows)
    if trunk >= SHORTEST_TRUNK:
        _fill(policy, rows, [own[:trunk] for own in body], columns, 0, cache)
        width, body = trunk, [own[trunk:] for own in body]
    hidden = _forward(policy, rows, body, columns, width, cache if width or keep_cache else None)
    return Pass(hidden, columns, width, cache)


def _run_frozen(
    policy: Policy, rows: Sequence[PackedRow], frozen: Sequence[Places], cache: PassCache, columns: Sequence[Places]
) -> int:
    """Fill the cache with the frozen tokens; returns how many columns they take."""
    chains = [_chain(row, own) for row, own in zip(rows, frozen, strict=True)]
    found = [policy.prefixes.find(policy.prefix_owner, chain) for chain in chains]
    start = max(length for length, _ in found)
    if start:
        cache.lay_out(found, start)
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
    for r, (chain, (length, _)) in enumerate(zip(chains, found, strict=True)):
        if len(chain) > length:
            kept = cache.read(r, columns[r][frozen[r][: len(chain)]])
            policy.prefixes.keep(policy.prefix_owner, chain, kept)
    return start + longest


def _chain(row: PackedRow, frozen: Places) -> Places:
    """Return the ids of the frozen tokens up to the first branch."""
    straight = np.asarray(row.depths)[frozen] == np.arange(len(frozen))
    length = len(frozen) if straight.all() else int(straight.argmin())
    return np.asarray(row.ids)[frozen[:length]]


def _fill(
    policy: Policy,
    rows: Sequence[PackedRow],
    chosen: Sequence[Places],
    columns: Sequence[Places],
    before: int,
    cache: PassCache,
) -> None:
    """Put keys and values of the chosen tokens of each row behind `before` columns of the cache."""
    with cache.stop_when_full():
        _forward(policy, rows, chosen, columns, before, cache)


def _forward(
    policy: Policy,
    rows: Sequence[PackedRow],
    chosen: Sequence[Places],
    columns: Sequence[Places],
    before: int,
    cache: PassCache | None,
) -> Tensor:
    """Run the chosen tokens of each row behind `before` columns of the cache; hidden states [R, N, H]."""
    longest, device = max(map(len, chosen)), policy.device
    ids = np.full((len(rows), longest), policy.tokenizer.pad_token_id)
    depths = [np.asarray(row.depths)[own] for row, own in zip(rows, chosen, strict=True)]
    # where every token sees all before it and no other, the model's own causal attention does, and padding is behind
    causal = before == 0 and all((own == np.arange(len(own))).all() for own in depths)
    # elsewhere padding has a position that every base knows: a row can be longer than any sequence of it
    positions = np.tile(np.arange(longest) if causal else np.zeros(longest, np.int64), (len(rows), 1))
    for r, (row, own) in enumerate(zip(rows, chosen, strict=True)):
        ids[r, : len(own)], positions[r, : len(own)] = np.asarray(row.ids)[own], depths[r]
    ids_, positions_ = (torch.from_numpy(x).to(device) for x in (ids, positions))
    mask: Mask = None
    if not causal:
        visible, keys = (torch.from_numpy(x).to(device) for x in _visible(rows, chosen, columns, before, positions))
        mask = policy.attention_mask(visible, positions_, keys)
    return run_layers(policy.decoder, ids_, mask, positions_, cache)


def _visible(
    rows: Sequence[PackedRow], chosen: Sequence[Places], columns: Sequence[Places], before: int, positions: Places
) -> tuple[NDArray[np.bool_], Places]:
    """Return whether the chosen tokens of each row see a column, [R, N, K], and the columns' positions, [R, K].

    K is `before` + N.

    Args:
        rows: see `run`.
        chosen: tokens of each row that are run now.
        columns: of the tokens of each row.
        before: columns that have been run.
        positions: of the chosen tokens, padded, [R, N].
    """
    count, longest = positions.shape
    visible = np.zeros((count, longest, before + longest), bool)
    # padding sees itself: a token that sees nothing has no attention
    visible[:, range(longest), range(before, before + longest)] = True
    keys = np.concatenate([np.zeros((count, before), np.int64), positions], axis=1)
    for r, (row, own) in enumerate(zip(rows, chosen, strict=True)):
        sees, places, depths = row.visible()[own], columns[r], np.asarray(row.depths)
        # what a token sees has been run, or is run now: it has its column
        for i, seen in enumerate(sees):
            visible[r, i, places[seen]] = True
        any_sees = sees.any(0)
        keys[r, places[any_sees]] = depths[any_sees]
    return visible, keys
