"""Keys and values of tokens that have been read: all that knows how transformers keeps them.

Of its caches we use more than the library promises: their layers' tensors, a layer of our own, and that a model adds a
layer's keys and values with `update`. tests/test_foreign_symbols.py names what that is.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

Places = NDArray[np.int64]

Mask = Tensor | dict[str, Tensor] | None
"""In the form that a model's attention takes; by layer type where its layers do not all see the same; None: causal."""

Layers = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer, [heads, tokens, d]."""


def run_layers(model: nn.Module, ids: Tensor, mask: Mask, positions: Tensor, cache: DynamicCache | None) -> Tensor:
    """Run a model without its output layer on top of a cache, which takes the new keys and values.

    Args:
        model: of transformers, without an output layer.
        ids: [R, N].
        mask: of `Policy.attention_mask`; None: each token sees all before it.
        positions: [R, N].
        cache: None: keys and values are not kept.

    Returns:
        The last hidden states, [R, N, H].
    """
    kind: Any = type(model)
    hidden: Tensor = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        use_cache=cache is not None,
        **{_cache_argument(kind): cache},
    ).last_hidden_state
    return hidden


@functools.cache
def _cache_argument(kind: Any) -> str:
    """Return the argument by which a class of models takes its cache: `cache` since 5.24, `past_key_values` before.

    The signature decides, not the version: code that comes with a model may use the old name for longer.
    """
    return "cache" if "cache" in inspect.signature(kind.forward).parameters else "past_key_values"


class StopAfterLastKV(Exception):
    """The last layer has made its keys and values, and nothing else of the pass is needed."""


class PassCache(DynamicCache):
    """Keys and values of a pass over packed rows.

    Args:
        num_layers: of the model.
    """

    layers: list[Any]

    def __init__(self, num_layers: int) -> None:
        super().__init__()
        self._last = num_layers - 1
        self._stop_when_full = False

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Add keys and values of a layer.

        Raises:
            StopAfterLastKV: it was the last layer's, within `stop_when_full`.
        """
        result = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        if self._stop_when_full and layer_idx == self._last:
            raise StopAfterLastKV
        return result

    @contextlib.contextmanager
    def stop_when_full(self) -> Iterator[None]:
        """End the pass that runs within as soon as the last layer has made its keys and values."""
        self._stop_when_full = True
        try:
            with contextlib.suppress(StopAfterLastKV):  # not raised where the last layers take another layer's
                yield
        finally:
            self._stop_when_full = False

    def lay_out(self, found: Sequence[tuple[int, Layers]], width: int) -> None:
        """Fill an empty cache with kept prefixes side by side, padded on the right.

        Args:
            found: for each row how many tokens of a prefix to take, and the prefix (none where there are 0 tokens).
            width: the most tokens of a row.
        """
        layers = next(layers for length, layers in found if length)
        for i, pair in enumerate(layers):
            filled = [x.new_zeros(len(found), x.shape[0], width, x.shape[2]) for x in pair]
            for r, (length, kept) in enumerate(found):
                for buffer, tensor in zip(filled, kept[i] if length else (), strict=bool(length)):
                    buffer[r, :, :length] = tensor[:, :length]
            keys, values = filled
            self.update(keys, values, i)

    def read(self, row: int, columns: Places) -> Layers:
        """Copy the keys and values of one row's columns."""
        at = torch.from_numpy(columns)
        return [(layer.keys[row, :, at], layer.values[row, :, at]) for layer in self.layers]


class SampleCache(DynamicCache):
    """Keys and values of prompts and of the samples that continue them, in buffers of their final length.

    Args:
        count: of prompts; each has one row.
        used: columns that the longest prompt takes.
        length: of the buffers.
    """

    layers: list[Any]

    def __init__(self, count: int, used: int, length: int) -> None:
        super().__init__()
        self._size = count, used, length

    def lay_out(self, first: int, packed: PassCache, rows: Tensor, places: Tensor) -> None:
        """Copy the keys and values of N prompts, the first of which is prompt `first`.

        Args:
            first: index of a prompt.
            packed: keys and values of packed rows.
            rows: the packed row of each prompt, [N].
            places: where in it the prompt's tokens stand, [N, P].
        """
        for i, layer in enumerate(packed.layers):
            if i == len(self.layers):
                self.layers.append(BufferedLayer(layer.keys, layer.values, *self._size))
            self.layers[i].lay_out(first, layer.keys, layer.values, rows, places)

    def keep_rows(self, indices: Tensor) -> None:
        """Keep `len(indices)` rows; where `indices[i] != i`, row i is overwritten by row `indices[i]`."""
        for layer in self.layers:
            layer.keep_rows(indices)


class BufferedLayer(DynamicLayer):
    """One layer of a `SampleCache`; `cat` at every token would copy all keys and values each time.

    Args:
        like_keys: of the layer, for their kind and shape [rows, heads, tokens, d].
        like_values: likewise.
        count: of rows.
        used: columns taken at the start.
        length: of the buffers.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, like_keys: Tensor, like_values: Tensor, count: int, used: int, length: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.is_initialized = True
        self._keys, self._values = (
            x.new_zeros(count, x.shape[1], length, x.shape[3]) for x in (like_keys, like_values)
        )
        self._view(used)

    def lay_out(self, first: int, keys: Tensor, values: Tensor, rows: Tensor, places: Tensor) -> None:
        """Copy keys and values of packed rows; see `SampleCache.lay_out`."""
        count, used = places.shape
        for buffer, packed in ((self._keys, keys), (self._values, values)):
            buffer[first : first + count, :, :used] = packed.transpose(1, 2)[rows[:, None], places].transpose(1, 2)

    def write(self, first: int, keys: Tensor, values: Tensor) -> None:
        """Put the keys and values of prompts [R, heads, tokens, d] into the rows from `first` on."""
        for buffer, new in ((self._keys, keys), (self._values, values)):
            buffer[first : first + len(new), :, : new.shape[-2]] = new

    def _view(self, used: int) -> None:
        self.keys, self.values = self._keys[:, :, :used], self._values[:, :, :used]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the new keys and values behind the old ones."""
        used = self.keys.shape[-2]
        new = used + key_states.shape[-2]
        self._keys[:, :, used:new], self._values[:, :, used:new] = key_states, value_states
        self._view(new)
        return self.keys, self.values

    def keep_rows(self, indices: Tensor) -> None:
        """Keep `len(indices)` rows; see `SampleCache.keep_rows`."""
        used = self.keys.shape[-2]
        to = (indices != torch.arange(len(indices), device=indices.device)).nonzero().squeeze(1)
        for buffer in (self._keys, self._values):
            buffer[to, :, :used] = buffer[indices[to], :, :used]
        self._keys, self._values = self._keys[: len(indices)], self._values[: len(indices)]
        self._view(used)


@dataclass
class PrefixStore:
    """Keys and values of prefixes, kept for as long as the weights that made them hold.

    Attributes:
        max_tokens: how many tokens to keep in all.
        entries: who made them (`Policy.prefix_owner`), the tokens' ids, and their keys and values.
    """

    max_tokens: int
    entries: list[tuple[str, Places, Layers]] = field(default_factory=list)

    def find(self, owner: str, ids: Places) -> tuple[int, Layers]:
        """Return the most tokens of `ids` that a kept prefix of the owner starts with, and that prefix."""
        best, found = 0, []
        for kept_by, kept, layers in self.entries:
            if kept_by == owner:
                length = min(len(kept), len(ids))
                same = kept[:length] == ids[:length]
                shared = length if same.all() else int(same.argmin())
                if shared > best:
                    best, found = shared, layers
        return best, found

    def keep(self, owner: str, ids: Places, layers: Layers) -> None:
        """Keep a prefix, if there is room."""
        if sum(len(kept) for _, kept, _ in self.entries) + len(ids) <= self.max_tokens:
            self.entries.append((owner, ids, layers))

    def forget(self) -> None:
        """Forget everything: the weights are about to change, or the tasks."""
        self.entries = []
