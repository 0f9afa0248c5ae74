"""What Lightning's loaders iterate over: batches of training, and one process's share of an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import IterableDataset

from cahl_pl.datasets.base import TaskSource
from cahl_pl.types import RolloutBatch


class EpochOfBatches(IterableDataset[RolloutBatch]):
    """Iterating samples from the current policy. The length keeps Lightning from prefetching a stale batch.

    Args:
        batches: gives the rest of the current epoch.
        count: how many batches it has.
    """

    def __init__(self, batches: Callable[[], Iterator[RolloutBatch]], count: Callable[[], int]) -> None:
        self.batches, self.count = batches, count

    def __len__(self) -> int:
        return self.count()

    def __iter__(self) -> Iterator[RolloutBatch]:
        return self.batches()


class Share(IterableDataset[list[Any]]):
    """Batches of one process's share of some items: every `world_size`-th, each item in one process and once.

    Lightning's own sampler would give some items to two processes where the shares are not equally large, and counts would
    differ from those of one process. A process that gets none has one empty batch: it must not stay away from sums over all.
    """

    def __init__(self, items: TaskSource | range, batch_size: int, rank: int, world_size: int) -> None:
        own = range(rank, len(items), world_size)
        self.items = items
        self.batches = [own[i : i + batch_size] for i in range(0, len(own), batch_size)] or [own][: len(items)]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Any]]:
        return ([self.items[i] for i in batch] for batch in self.batches)
