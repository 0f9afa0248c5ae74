"""One pass of the model over packed rows, and the prefixes that need not be run again.

A row's frozen tokens, a closed part of its tree from the root on, are run first, without gradient: with activated LoRA
they are what comes before the role's own words, which the bare base reads; while sampling they are the common start of
a row's members, and what has been read before. Keys and values can be kept (`PrefixStore`) until the weights that made
them change. The rest of the row, its body, is run on top of them. A long common start of the body's members, its trunk,
goes first there: its tokens see just what comes before them, for which attention kernels need no mask and half the work.

Frozen tokens and trunks only need keys and values: their last layer stops once these are computed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cahl_pl.policy.kv_cache import Mask, PassCache, Piece, run_layers
from cahl_pl.policy.masks import Intervals
from cahl_pl.policy.packing import PackedRow
from cahl_pl.policy.prefix_store import Places

if TYPE_CHECKING:
    from cahl_pl.policy.policy import Policy

SHORTEST_TRUNK = 64
"""Tokens; a shorter trunk is run with the rest: its attention saves less than another pass over the layers costs."""


@dataclass
class Pass:
    """Output of one forward pass.

    Attributes:
        hidden: last hidden states of the rows' bodies after their trunks, [R, B, H], padded on the right.
        columns: for each row, the cache columns of its tokens' keys and values.
        width: columns of the tokens that are not in `hidden`; the index there of one that is equals its column minus `width`.
        cache: keys and values of all tokens, if requested.
    """

    hidden: Tensor
    columns: list[Places]
    width: int
    cache: PassCache


def run(policy: Policy, rows: Sequence[PackedRow], keep_cache: bool = False) -> Pass:
    """Run rows under the policy's active adapter; gradients flow through their bodies.

    Args:
        policy: the policy, with the right adapter active.
        rows: rows of `packing.pack`.
        keep_cache: whether to return keys and values too (they are kept in any case if tokens are frozen).
    """
    frozen = [np.flatnonzero(row.frozen) for row in rows]
    cache = PassCache(policy.causal_lm.config.get_text_config().num_hidden_layers)
    columns = [np.full(len(row.ids), -1) for row in rows]  # -1: not run yet
    width = _run_frozen(policy, rows, frozen, cache, columns) if any(map(len, frozen)) else 0
    body = [np.flatnonzero(~np.asarray(row.frozen, bool)) for row in rows]
    for places, own in zip(columns, body, strict=True):
        places[own] = width + np.arange(len(own))
    # a trunk's keys and values are passed on in a cache, which models do not use while they recompute activations;
    # and with a sharded base, all processes run one pass
    apart = width or policy.recomputes or not policy.shares_rows or policy.shards > 1
    trunk = 0 if apart else min(row.trunk() for row in rows)
    if trunk >= SHORTEST_TRUNK:
        _fill(policy, rows, [own[:trunk] for own in body], columns, 0, cache)
        width, body = trunk, [own[trunk:] for own in body]
    hidden = _forward(policy, rows, body, columns, width, cache if width or keep_cache else None)
    return Pass(hidden, columns, width, cache)


def _run_frozen(
    policy: Policy, rows: Sequence[PackedRow], frozen: Sequence[Places], cache: PassCache, columns: Sequence[Places]
) -> int:
    """Fill the cache with the frozen tokens; return the number of columns they take."""
    pieces = [piece for r, row in enumerate(rows) for piece in _kept_pieces(policy, r, row, columns[r])]
    start = max((piece.column + piece.stop - piece.start for piece in pieces), default=0)
    if start:
        cache.lay_out(pieces, len(rows), start)
    rest = [own[places[own] < 0] for own, places in zip(frozen, columns, strict=True)]
    for places, new in zip(columns, rest, strict=True):
        places[new] = start + np.arange(len(new))
    longest = max(map(len, rest))
    if longest == 0:
        return start
    bare = policy.without_adapters() if policy.config.adapter == "alora" else contextlib.nullcontext()
    with torch.no_grad(), bare:
        _fill(policy, rows, rest, columns, start, cache)
    keep_prefixes(policy, rows, columns, cache, [[_frozen_tokens(row, path) for path in row.paths] for row in rows])
    return start + longest


def _kept_pieces(policy: Policy, r: int, row: PackedRow, columns: Places) -> Iterator[Piece]:
    """Assign columns to the row's frozen tokens that are kept, and yield what is to be copied there."""
    ids, used = np.asarray(row.ids), 0
    for path in row.paths:
        at = 0
        for length, layers in policy.prefixes.find(policy.prefix_owner, ids[path[: _frozen_tokens(row, path)]]):
            own = path[at : at + length]
            first = int((columns[own] >= 0).sum())  # those shared with earlier members
            if first < length:
                columns[own[first:]] = used + np.arange(length - first)
                yield Piece(r, used, layers, first, length)
                used += length - first
            at += length


def _frozen_tokens(row: PackedRow, path: Places) -> int:
    return int(np.asarray(row.frozen)[path].sum())


def keep_prefixes(
    policy: Policy,
    rows: Sequence[PackedRow],
    columns: Sequence[Places],
    cache: PassCache,
    lengths: Sequence[Sequence[int]],
) -> None:
    """Keep the first tokens of rows' members, so that the active adapter need not read them again.

    Args:
        policy: the policy whose adapter, or bare base, has read them.
        rows: rows that have been run.
        columns: columns of a `Pass`.
        cache: cache of the same `Pass`.
        lengths: for each row, the number of tokens of each member.
    """
    for r, row in enumerate(rows):
        ids = np.asarray(row.ids)
        for path, length in zip(row.paths, lengths[r], strict=True):
            own = path[:length]
            policy.prefixes.keep(policy.prefix_owner, ids[own], cache.reader(r, columns[r][own]))


def _fill(
    policy: Policy,
    rows: Sequence[PackedRow],
    chosen: Sequence[Places],
    columns: Sequence[Places],
    before: int,
    cache: PassCache,
) -> None:
    """Put keys and values of the chosen tokens of each row after `before` columns of the cache."""
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
    """Run the chosen tokens of each row after `before` columns of the cache; return hidden states [R, N, H]."""
    longest = max(map(len, chosen))
    depths = [np.asarray(row.depths)[own] for row, own in zip(rows, chosen, strict=True)]
    # if every token sees exactly those before it, the model's own causal attention suffices, and padding comes after
    causal = before == 0 and all((own == np.arange(len(own))).all() for own in depths)
    causal &= policy.config.attention != "flex_attention"  # transformers would make a dense mask for it first
    ids = np.full((len(rows), longest), policy.tokenizer.pad_token_id)
    # otherwise padding has a position that every base knows: a row can be longer than any of its sequences
    positions = np.tile(np.arange(longest) if causal else np.zeros(longest, np.int64), (len(rows), 1))
    for r, (row, own) in enumerate(zip(rows, chosen, strict=True)):
        ids[r, : len(own)], positions[r, : len(own)] = np.asarray(row.ids)[own], depths[r]
    parts = [ids, positions]
    if not causal:
        parts += _intervals(rows, chosen, columns, before, positions)
    # one copy to the device for all of them
    on_device = torch.from_numpy(np.concatenate(parts, axis=1)).to(policy.device, non_blocking=True)
    ids_, positions_, *others = torch.split(on_device, [part.shape[1] for part in parts], dim=1)
    mask: Mask = None
    if not causal:
        places, at, ends, keys = others
        mask = policy.attention_mask(Intervals(places, at, ends), positions_, keys)
    return run_layers(policy.decoder, ids_, mask, positions_, cache)


def _intervals(
    rows: Sequence[PackedRow], chosen: Sequence[Places], columns: Sequence[Places], before: int, positions: Places
) -> list[Places]:
    """Return the three parts of `Intervals` for the chosen tokens of each row, and the columns' positions, [R, K].

    K is `before` + N.

    Args:
        rows: see `run`.
        chosen: tokens of each row that are run now; whatever they see has been run, or is run now, and has its column.
        columns: columns of the tokens of each row.
        before: number of columns that have been run.
        positions: positions of the chosen tokens, padded, [R, N].
    """
    count, longest = positions.shape
    # padding comes after the row, and sees itself: a token that sees nothing has no attention
    last = np.array([[len(row.ids)] for row in rows])
    queries = last + np.arange(longest)
    keys = np.concatenate([np.zeros((count, before), np.int64), queries], axis=1)
    ends = np.concatenate([np.zeros((count, before), np.int64), queries + 1], axis=1)
    of = np.concatenate([np.zeros((count, before), np.int64), positions], axis=1)
    for r, (row, own) in enumerate(zip(rows, chosen, strict=True)):
        queries[r, : len(own)] = own
        there = (columns[r] >= 0) & (columns[r] < before)
        there[own] = True
        tokens = np.flatnonzero(there)
        places = columns[r][tokens]
        keys[r, places], ends[r, places] = tokens, row.ends()[tokens]
        of[r, places] = np.asarray(row.depths)[tokens]
    return [queries, keys, ends, of]
