"""Token sequences packed so that what they share is computed once.

The completions of a group share their prompt; the plans of a task, and the steps that carry them out, share its tools
and its request. A row stores such sequences as a tree: every token once, depth first, and a token sees only its own
ancestors. One forward pass over the row (`forward`) gives each sequence the result of its own pass, and a backward
pass the sum of their gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass
class PackedRow:
    """A tree of sequences.

    Attributes:
        ids: its tokens; a token's parent comes somewhere before it.
        depths: the position of each token in the sequences that it belongs to.
        frozen: whether a token belongs to the part that is run without gradient and may be kept (see `forward`).
        members: the sequences, as indices into what was packed.
        paths: for each member, the indices of its tokens in the row, in order.
        new: for each member, the number of tokens of its path that no earlier member had.
        context_tokens: for each member, the number of tokens at its start whose hidden states are not needed.
    """

    ids: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    frozen: list[bool] = field(default_factory=list)
    members: list[int] = field(default_factory=list)
    paths: list[NDArray[np.int64]] = field(default_factory=list)
    new: list[int] = field(default_factory=list)
    context_tokens: list[int] = field(default_factory=list)

    def add(self, member: int, sequence: Sequence[int], shared: int, frozen: int, context_tokens: int) -> None:
        """Add a sequence whose first `shared` tokens are those of the member added last; the first are `frozen`."""
        old = self.paths[-1][:shared] if shared else np.empty(0, np.int64)
        new = len(sequence) - shared
        self.paths.append(np.concatenate([old, np.arange(len(self.ids), len(self.ids) + new)]))
        self.ids += sequence[shared:]
        self.depths += range(shared, len(sequence))
        self.frozen += [depth < frozen for depth in range(shared, len(sequence))]
        self.members.append(member)
        self.new.append(new)
        self.context_tokens.append(context_tokens)

    def trunk(self) -> int:
        """Return the number of tokens that all members start with and whose hidden states are not needed."""
        shared = [len(path) - new for path, new in zip(self.paths[1:], self.new[1:], strict=True)]
        return min([*shared, *self.context_tokens])

    def freeze_trunk(self, known: Sequence[int] = ()) -> None:
        """Freeze the tokens that all members start with and whose hidden states are not needed.

        Args:
            known: for each member, how many of its first tokens have been read before: they are frozen too, up to one whose
                hidden state another member needs, such as the last token of a prompt that the member continues.
        """
        frozen = np.arange(len(self.ids)) < self.trunk()  # the first member comes first, from its first token
        needed = np.zeros(len(self.ids), bool)
        for path, context in zip(self.paths, self.context_tokens, strict=True):
            needed[path[context:]] = True
        for path, length in zip(self.paths, known, strict=False):
            found = np.flatnonzero(needed[path[:length]])
            frozen[path[: found[0] if len(found) else length]] = True
        self.frozen = frozen.tolist()

    def ends(self) -> NDArray[np.int64]:
        """Return for each token the index after the last one that sees it, [L].

        A row is stored depth first, so that a token's descendants directly follow it, and only it and they see it: a token
        at index q sees one at index k if `k <= q < ends()[k]`.
        """
        result = np.zeros(len(self.ids), np.int64)
        for path in self.paths:
            result[path] = (
                path[-1] + 1
            )  # members come in order: the last one of those that share a token reaches farthest
        return result


def pack(
    sequences: Sequence[Sequence[int]],
    hidden_size: int,
    max_tokens: int,
    frozen: Sequence[int] | None = None,
    context_tokens: Sequence[int] | None = None,
    share: bool = True,
) -> list[PackedRow]:
    """Pack sequences into rows, those that share much into one.

    Args:
        sequences: token ids, each sequence with at least one.
        hidden_size: the model's width. A shared token saves a layer's products (24 hidden_size^2 operations); the row's
            attention takes 4 hidden_size for each pair of a new and another token, whether or not the mask lets it
            count. The cheaper way is chosen.
        max_tokens: the most tokens of a row; a longer sequence has its own.
        frozen: number of frozen tokens of each sequence; None for none. A token that is frozen in one sequence and not in
            another is not shared.
        context_tokens: number of tokens at the start of each sequence whose hidden states are not needed; None for none.
        share: whether sequences may share a row; False: each has its own row.

    Returns:
        Rows in which every sequence is a member once.
    """
    rows: list[PackedRow] = []
    last: NDArray[np.int64] = np.empty(0, np.int64)
    starts = [0] * len(sequences) if frozen is None else frozen
    sort_keys = [_sort_key(sequence, start) for sequence, start in zip(sequences, starts, strict=True)]
    for member in sorted(range(len(sequences)), key=lambda i: sort_keys[i].tolist()):  # neighbours share the most
        sequence = list(sequences[member])
        array = sort_keys[member]
        shared = _common_prefix(last, array)
        new, length = len(sequence) - shared, len(rows[-1].ids) if rows else 0
        if not share or not rows or length + new > max_tokens or 3 * hidden_size * shared <= length * new:
            rows.append(PackedRow())
            shared = 0
        rows[-1].add(member, sequence, shared, starts[member], 0 if context_tokens is None else context_tokens[member])
        last = array
    return rows


def _sort_key(sequence: Sequence[int], frozen: int) -> NDArray[np.int64]:
    """Return the key by which sequences are sorted and compared: tokens, with frozen ones distinct from others."""
    return 2 * np.asarray(sequence, np.int64) + (np.arange(len(sequence)) < frozen)


def _common_prefix(a: NDArray[np.int64], b: NDArray[np.int64]) -> int:
    length = min(len(a), len(b))
    same = a[:length] == b[:length]
    return length if same.all() else int(same.argmin())


def batches(rows: Sequence[PackedRow], max_tokens: int) -> Iterator[list[PackedRow]]:
    """Yield lists of rows of at most `max_tokens` padded tokens each (a longer row is alone), shorter rows first."""
    batch: list[PackedRow] = []
    for row in sorted(rows, key=lambda row: len(row.ids)):
        if batch and (len(batch) + 1) * len(row.ids) > max_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
