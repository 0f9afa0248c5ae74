"""Keys and values of tokens that have been read: all that knows how transformers keeps them.

Of its caches we use more than the library promises: their layers' tensors, a layer of our own, and that a model adds a
layer's keys and values with `update`. tests/test_foreign_symbols.py names what that is.
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
"""In the form that a model's attention takes, a tensor or a `BlockMask`; by layer type where its layers do not all see the
same; None: causal."""


class Piece(NamedTuple):
    """Tokens from `start` up to `stop` of what a store has kept, for the columns from `column` on of a row."""

    row: int
    column: int
    layers: Layers
    start: int
    stop: int


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

    def lay_out(self, pieces: Sequence[Piece], rows: int, width: int) -> None:
        """Fill an empty cache with kept prefixes, padded on the right.

        Args:
            pieces: what to copy where; at least one.
            rows: of the pass.
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
        """Return what copies the keys and values of some tokens of one row, from one on and up to another.

        Args:
            row: of the pass.
            columns: of the tokens.
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
        """Keep `len(indices)` rows; where `indices[i] != i`, row i is overwritten by row `indices[i]`.

        Args:
            indices: on the CPU, so that no layer waits for a device.
        """
        to, source = moves(indices, self.layers[0].keys.device)
        for layer in self.layers:
            layer.keep_rows(len(indices), to, source)


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

    def keep_rows(self, count: int, to: Tensor, source: Tensor) -> None:
        """Keep `count` rows; rows `to` are overwritten by rows `source` (`moves`)."""
        used = self.keys.shape[-2]
        if len(to):
            for buffer in (self._keys, self._values):
                buffer[to, :, :used] = buffer[source, :, :used]
        self._keys, self._values = self._keys[:count], self._values[:count]
        self._view(used)


def moves(indices: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return, on a device, which rows are overwritten where row i becomes what row `indices[i]` was, and by which.

    Args:
        indices: on the CPU.
        device: where to.
    """
    to = (indices != torch.arange(len(indices))).nonzero().squeeze(1)
    return to.to(device, non_blocking=True), indices[to].to(device, non_blocking=True)
