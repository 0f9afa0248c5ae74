"""Keys and values of tokens that have been read: all code that depends on how transformers stores them.

We use more of its caches than the library promises: their layers' tensors, a layer of our own, and that a model adds a
layer's keys and values with `update`. tests/test_foreign_symbols.py lists these.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from cahl_pl.policy.prefix_store import Layers, Places

Mask = Any
"""In the form that a model's attention takes, a tensor or a `BlockMask`; by layer type if its layers do not all see the
same; None: causal."""


class Piece(NamedTuple):
    """Kept tokens of a store, from `start` up to `stop`, for the columns of a row from `column` on."""

    row: int
    column: int
    layers: Layers
    start: int
    stop: int


def run_layers(model: nn.Module, ids: Tensor, mask: Mask, positions: Tensor, cache: DynamicCache | None) -> Tensor:
    """Run a model without its output layer on top of a cache, which takes the new keys and values.

    Args:
        model: a model of transformers, without an output layer.
        ids: [R, N].
        mask: mask of `Policy.attention_mask`; None: each token sees all before it.
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

    The signature decides, not the version: code that comes with a model may keep using the old name.
    """
    return "cache" if "cache" in inspect.signature(kind.forward).parameters else "past_key_values"


class StopAfterLastKV(Exception):
    """End of a pass whose last layer has made its keys and values, the only output needed."""


class PassCache(DynamicCache):
    """Keys and values of a pass over packed rows.

    Args:
        num_layers: number of the model's layers.
    """

    layers: list[Any]

    def __init__(self, num_layers: int) -> None:
        super().__init__()
        self._last = num_layers - 1
        self._stop_when_full = False

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Add the keys and values of a layer.

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
            with contextlib.suppress(StopAfterLastKV):  # not raised if the last layers use another layer's
                yield
        finally:
            self._stop_when_full = False

    def lay_out(self, pieces: Sequence[Piece], rows: int, width: int) -> None:
        """Fill an empty cache with kept prefixes, padded on the right.

        Args:
            pieces: what to copy where; at least one.
            rows: number of the pass's rows.
            width: columns; the most that a row takes.
        """
        for i, pair in enumerate(pieces[0].layers):
            filled = [x.new_zeros(rows, x.shape[0], width, x.shape[2]) for x in pair]
            for piece in pieces:
                to = slice(piece.column, piece.column + piece.stop - piece.start)
                for buffer, tensor in zip(filled, piece.layers[i], strict=True):
                    buffer[piece.row, :, to] = tensor[:, piece.start : piece.stop]
            keys, values = filled
            self.update(keys, values, i)

    def reader(self, row: int, columns: Places) -> Callable[[int, int], Layers]:
        """Return a function that copies the keys and values of some tokens of one row, from a start up to a stop.

        Args:
            row: index of the pass's row.
            columns: columns of the tokens.
        """

        def read(start: int, stop: int) -> Layers:
            chosen = columns[start:stop]
            if (np.diff(chosen) == 1).all():  # side by side: no indices need to go to the device
                at: Any = slice(int(chosen[0]), int(chosen[-1]) + 1)
                return [(layer.keys[row, :, at].clone(), layer.values[row, :, at].clone()) for layer in self.layers]
            at = torch.from_numpy(chosen).to(self.layers[0].keys.device, non_blocking=True)
            return [(layer.keys[row, :, at], layer.values[row, :, at]) for layer in self.layers]

        return read


class SampleCache(DynamicCache):
    """Keys and values of prompts and of the samples that continue them, in buffers of their final length.

    Args:
        count: number of prompts; each has one row.
        used: columns that the longest prompt takes.
        length: length of the buffers.
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
            places: indices of the prompt's tokens in it, [N, P].
        """
        for i, layer in enumerate(packed.layers):
            if i == len(self.layers):
                self.layers.append(BufferedLayer(layer.keys, layer.values, *self._size))
            self.layers[i].lay_out(first, layer.keys, layer.values, rows, places)

    def keep_rows(self, indices: Tensor) -> None:
        """Keep `len(indices)` rows; where `indices[i] != i`, row i is overwritten by row `indices[i]`.

        Args:
            indices: indices on the CPU, so that no layer waits for a device.
        """
        to, source = moves(indices, self.layers[0].keys.device)
        for layer in self.layers:
            layer.keep_rows(len(indices), to, source)


class BufferedLayer(DynamicLayer):
    """One layer of a `SampleCache`; `cat` at every token would copy all keys and values each time.

    Args:
        like_keys: keys of the layer, for their kind and shape [rows, heads, tokens, d].
        like_values: values of the layer, likewise.
        count: number of rows.
        used: columns taken at the start.
        length: length of the buffers.
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
        """Write the new keys and values after the old ones."""
        used = self.keys.shape[-2]
        new = used + key_states.shape[-2]
        self._keys[:, :, used:new], self._values[:, :, used:new] = key_states, value_states
        self._view(new)
        return self.keys, self.values

    def keep_rows(self, count: int, to: Tensor, source: Tensor) -> None:
        """Keep `count` rows; rows `to` are overwritten by rows `source` (`moves`)."""
        used = self.keys.shape[-2]
        if len(to):
            for buffer in (self._keys, self._values):
                buffer[to, :, :used] = buffer[source, :, :used]
        self._keys, self._values = self._keys[:count], self._values[:count]
        self._view(used)


def moves(indices: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return, on a device, the rows that change when row i becomes what row `indices[i]` was, and their sources.

    Args:
        indices: indices on the CPU.
        device: target device.
    """
    to = (indices != torch.arange(len(indices))).nonzero().squeeze(1)
    return to.to(device, non_blocking=True), indices[to].to(device, non_blocking=True)
