"""Datasets for Lightning's loaders: batches of training, and one process's share of an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import IterableDataset

from cahl_pl.datasets.base import TaskSource
from cahl_pl.types import RolloutBatch


class EpochOfBatches(IterableDataset[RolloutBatch]):
    """Batches sampled from the current policy on iteration. The length keeps Lightning from prefetching a stale batch.

    Args:
        batches: iterates over the rest of the current epoch.
        count: number of its batches.
    """

    def __init__(self, batches: Callable[[], Iterator[RolloutBatch]], count: Callable[[], int]) -> None:
        self.batches, self.count = batches, count

    def __len__(self) -> int:
        return self.count()

    def __iter__(self) -> Iterator[RolloutBatch]:
        return self.batches()


class Share(IterableDataset[list[Any]]):
    """Batches of one process's share of some items: every `world_size`-th, each item once, in one process.

    Lightning's own sampler would give some items to two processes when the shares are unequal, and counts would
    differ from those of one process. A process without items gets one empty batch: it must take part in sums over all.
    """

    def __init__(self, items: TaskSource | range, batch_size: int, rank: int, world_size: int) -> None:
        own = range(rank, len(items), world_size)
        self.items = items
        self.batches = [own[i : i + batch_size] for i in range(0, len(own), batch_size)] or [own][: len(items)]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Any]]:
        return ([self.items[i] for i in batch] for batch in self.batches)
