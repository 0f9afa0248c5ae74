"""Keys, values and states of sequences with one row each, for bases whose layers carry a state.

A state cannot be masked, so that sequences cannot share a row, but it can be copied: the samples of a prompt all start
from the states that one pass over the prompt has left. Transformers' own storage of states is used here
(tests/test_foreign_symbols.py names it).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, cache_utils
from transformers.cache_utils import DynamicLayer

from cahl_pl.policy.kv_cache import BufferedLayer, moves

STATES_ARE_KNOWN = hasattr(cache_utils, "LinearAttentionCacheLayerMixin")
"""True if transformers is new enough to store the states of all models in one kind of layer."""


def own_cache(config: Any) -> DynamicCache:
    """Return an empty cache of the kinds of layers that a model has; those with a window keep what comes before it too."""
    cache = DynamicCache(config=config)
    cache.layers = [
        DynamicLayer() if type(layer).__name__ == "DynamicSlidingWindowLayer" else layer for layer in cache.layers
    ]
    return cache


class RowCache(DynamicCache):
    """Cache from which prompts that were read in several passes are continued, each copied for its samples.

    Args:
        parts: caches of passes over prompts of one length each, without padding; they are consumed.
        samples: copies of each prompt, side by side.
        used: columns that the longest prompt takes.
        length: the most columns of prompt and completion.
    """

    layers: list[Any]

    def __init__(self, parts: Sequence[DynamicCache], samples: int, used: int, length: int) -> None:
        super().__init__()
        self.layers = [
            _joined(layers, samples, used, length) for layers in zip(*(part.layers for part in parts), strict=True)
        ]

    def keep_rows(self, indices: Tensor) -> None:
        """Keep `len(indices)` rows: row i becomes what row `indices[i]` was.

        Args:
            indices: indices on the CPU.
        """
        device = next(d for layer in self.layers if (d := _device_of(layer)) is not None)
        to, source = moves(indices, device)
        count, indices = len(indices), indices.to(device, non_blocking=True)
        for layer in self.layers:
            if isinstance(layer, BufferedLayer):
                layer.keep_rows(count, to, source)
                continue
            for states in _states(layer):
                for i, state in states.items():
                    states[i] = None if state is None else state[indices]
            if getattr(layer, "keys", None) is not None:
                layer.keys, layer.values = layer.keys[indices], layer.values[indices]


def _joined(layers: Sequence[Any], samples: int, used: int, length: int) -> Any:
    """Return one layer of all rows."""
    first = layers[0]
    if not any(True for _ in _states(first)):
        if getattr(first, "keys", None) is None:
            return first  # it keeps nothing
        count = samples * sum(len(layer.keys) for layer in layers)
        joined = BufferedLayer(first.keys, first.values, count, used, length)
        at = 0
        for layer in layers:
            keys, values = (x.repeat_interleave(samples, 0) for x in (layer.keys, layer.values))
            joined.write(at, keys, values)
            at += len(keys)
        return joined
    for n, states in enumerate(_states(first)):
        for i, state in states.items():
            if state is not None:
                all_ = torch.cat([list(_states(layer))[n][i] for layer in layers])
                states[i] = all_.repeat_interleave(samples, 0)
    if getattr(first, "keys", None) is not None:
        first.keys, first.values = (
            torch.cat([_padded(getattr(layer, name), used) for layer in layers]).repeat_interleave(samples, 0)
            for name in ("keys", "values")
        )
    return first


def _padded(x: Tensor, used: int) -> Tensor:
    """Return keys or values [R, heads, tokens, d] padded up to `used` with columns that no token sees."""
    return torch.nn.functional.pad(x, (0, 0, 0, used - x.shape[-2]))


def _device_of(layer: Any) -> torch.device | None:
    """Return the device of a layer's tensors; None if it has none."""
    keys = getattr(layer, "keys", None)
    found = [keys, *(state for states in _states(layer) for state in states.values())]
    return next((x.device for x in found if x is not None), None)


def _states(layer: Any) -> list[dict[int, Any]]:
    """Return the states of a layer by their index, as transformers stores them: of its convolution and of its recurrence."""
    return [getattr(layer, name) for name in ("conv_states", "recurrent_states") if hasattr(layer, name)]
