"""Who attends to whom, in the form that a model takes it: one mask, or one for each type of its layers.

Layers with a sliding window see a token's nearest predecessors alone, chunked ones those of its own chunk. Both are
counted by positions in the sequence: where several sequences share a row, columns say nothing of the distance.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

MASKED = {"full_attention", "sliding_attention", "chunked_attention"}
"""Types of layers that attend, and take a mask of who sees whom."""


def layer_types(config: Any) -> list[str]:
    """Return the types of a model's layers, as transformers names them, each once.

    Args:
        config: of the text model. Where it does not list its layers' types, all are of the one that its window or chunk
            size tells.
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
        config: of the text model.
        visible: whether a token may see another, [R, Q, K].
        queries: positions of the tokens that see in their sequences, [R, Q].
        keys: positions of the tokens that are seen, [R, K]; any number where none sees a token.
    """
    from transformers.masking_utils import chunked_overlay, sliding_window_overlay

    by_type = {}
    at, of = queries[:, :, None], keys[:, None, :]
    # layers that carry states take no mask
    for kind in MASKED.intersection(layer_types(config)) or ("full_attention",):
        if kind == "sliding_attention" and config.sliding_window is not None:
            by_type[kind] = visible & sliding_window_overlay(config.sliding_window)(0, 0, at, of)
        elif kind == "chunked_attention" and config.attention_chunk_size is not None:
            no_padding = torch.zeros(1, dtype=torch.long, device=visible.device)
            by_type[kind] = visible & chunked_overlay(config.attention_chunk_size, no_padding)(0, 0, at, of)
        else:
            by_type[kind] = visible
    return by_type


def as_bias(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a mask to add to attention scores: 0 where a token sees another, the least number of `dtype` elsewhere."""
    hidden = torch.finfo(dtype).min
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill(~visible, hidden)
