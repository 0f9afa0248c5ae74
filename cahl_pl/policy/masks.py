"""Attention masks in the form that a model takes: one mask, or one for each type of its layers.

Packed rows are stored depth first, so that the tokens that see a token form an interval (`Intervals`): a mask is made of
three numbers per token, on the device, and FlexAttention takes these as they are. Layers with a sliding window see only a
token's nearest predecessors, chunked ones those of its own chunk. Both are counted by positions in the sequence: if several
sequences share a row, columns say nothing about distance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MASKED = {"full_attention", "sliding_attention", "chunked_attention"}
"""Types of layers that attend, and take an attention mask."""


BLOCK = 128
"""Tokens per block, the unit in which FlexAttention skips what no token sees."""

_FAR = 2**62


@dataclass(frozen=True)
class Intervals:
    """Visibility in packed rows: the token at index q sees that at index k if `k <= q < end of k`.

    Attributes:
        queries: indices of the query tokens in their rows, [R, Q].
        keys: indices of the tokens of all columns, [R, K].
        ends: for each column, the index after the last token that sees it, [R, K]; 0: none does.
    """

    queries: Tensor
    keys: Tensor
    ends: Tensor

    def visible(self) -> Tensor:
        """Return whether a token sees another, [R, Q, K]."""
        at = self.queries[:, :, None]
        seen = self.keys[:, None] <= at
        seen &= at < self.ends[:, None]
        return seen


def layer_types(config: Any) -> list[str]:
    """Return the types of a model's layers, as transformers names them, each once.

    Args:
        config: configuration of the text model. If it does not list its layers' types, all are of the one that its window
            or chunk size implies.
    """
    listed = getattr(config, "layer_types", None)
    if listed:
        return sorted(set(listed))
    if getattr(config, "sliding_window", None) is not None:
        return ["sliding_attention"]
    return ["chunked_attention" if getattr(config, "attention_chunk_size", None) is not None else "full_attention"]


def seen_by_type(config: Any, visible: Tensor, queries: Tensor, keys: Tensor) -> dict[str, Tensor]:
    """Return, for each type of attention layer, whether a token sees another, [R, Q, K].

    Args:
        config: configuration of the text model.
        visible: whether a token may see another, [R, Q, K].
        queries: positions of the query tokens in their sequences, [R, Q].
        keys: positions of the key tokens, [R, K]; any number for a key that no query sees.
    """
    at, of = queries[:, :, None], keys[:, None, :]
    near = {kind: _near(config, kind, visible.device) for kind in _masked_types(config)}
    return {kind: visible if overlay is None else visible & overlay(0, 0, at, of) for kind, overlay in near.items()}


def blocks_by_type(config: Any, seen: Intervals, queries: Tensor, keys: Tensor) -> dict[str, Any]:
    """Return, for each type of attention layer, the `BlockMask` of FlexAttention that equals the mask of `seen_by_type`.

    Blocks are found to be empty or full by the smallest and largest numbers in them: never wrongly, and without making
    anything of the size of a mask.

    Args:
        config: configuration of the text model.
        seen: the tokens that may see each other.
        queries: positions as in `seen_by_type`.
        keys: likewise.
    """
    from torch.nn.attention.flex_attention import BlockMask

    places = _Range(seen.queries)
    columns, ends = _Range(seen.keys), _Range(seen.ends)
    at, of = _Range(queries), _Range(keys)
    masks = {}
    for kind in _masked_types(config):
        overlay = _near(config, kind, queries.device)
        some = (columns.least[:, None] <= places.most[..., None]) & (places.least[..., None] < ends.most[:, None])
        every = (columns.most[:, None] <= places.least[..., None]) & (places.most[..., None] < ends.least[:, None])
        every &= places.whole[:, None] & columns.whole
        if overlay is not None and kind == "sliding_attention":
            some &= overlay(0, 0, at.least[..., None], of.most[:, None])
            every &= overlay(0, 0, at.most[..., None], of.least[:, None])
        elif overlay is not None:
            size = config.attention_chunk_size
            some &= (at.least[..., None] // size <= of.most[:, None] // size) & (
                of.least[:, None] // size <= at.most[..., None] // size
            )
            every &= overlay(0, 0, at.least[..., None], of.most[:, None]) & overlay(
                0, 0, at.most[..., None], of.least[:, None]
            )
        partial, full = (_ordered(blocks[:, None]) for blocks in (some & ~every, every))
        masks[kind] = BlockMask.from_kv_blocks(
            *partial,
            *full,
            BLOCK_SIZE=BLOCK,
            mask_mod=_mask_mod(seen, queries, keys, overlay),
            seq_lengths=(queries.shape[1], keys.shape[1]),
        )
    return masks


def _mask_mod(
    seen: Intervals, queries: Tensor, keys: Tensor, overlay: Callable[..., Any] | None
) -> Callable[..., Tensor]:
    """Return FlexAttention's function for whether query q of row r sees column k."""

    def sees(r: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        at = seen.queries[r, q]
        found = (seen.keys[r, k] <= at) & (at < seen.ends[r, k])
        return found if overlay is None else found & overlay(r, head, queries[r, q], keys[r, k])

    return sees


class _Range:
    """Smallest and largest number of each block of numbers [R, N], [R, blocks]; `whole`: blocks of full length."""

    def __init__(self, numbers: Tensor) -> None:
        left = -numbers.shape[1] % BLOCK
        pad = torch.nn.functional.pad
        self.least = pad(numbers, (0, left), value=_FAR).view(len(numbers), -1, BLOCK).amin(-1)
        self.most = pad(numbers, (0, left), value=-_FAR).view(len(numbers), -1, BLOCK).amax(-1)
        self.whole = torch.ones(self.least.shape[1], dtype=torch.bool, device=numbers.device)
        if left:
            self.whole[-1] = False


def _ordered(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Return the number of chosen blocks of each row, and all blocks, the chosen ones first."""
    order = blocks.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(-1, dtype=torch.int32), order.to(torch.int32)


def _masked_types(config: Any) -> list[str]:
    """Return the types of a model's layers that take a mask; those that carry states take none."""
    return sorted(MASKED.intersection(layer_types(config))) or ["full_attention"]


def _near(config: Any, kind: str, device: torch.device) -> Callable[..., Any] | None:
    """Return transformers' mask function by positions for a type of layers; None if all is seen."""
    from transformers.masking_utils import chunked_overlay, sliding_window_overlay

    if kind == "sliding_attention" and config.sliding_window is not None:
        return sliding_window_overlay(config.sliding_window)
    if kind == "chunked_attention" and config.attention_chunk_size is not None:
        no_padding = torch.zeros(1, dtype=torch.long, device=device)
        return lambda r, head, at, of: chunked_overlay(config.attention_chunk_size, no_padding)(0, head, at, of)
    return None


def as_bias(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a mask to add to attention scores: 0 where a token sees another, the smallest number of `dtype` elsewhere."""
    hidden = torch.finfo(dtype).min
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill(~visible, hidden)
