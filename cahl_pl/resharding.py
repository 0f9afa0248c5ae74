"""A checkpoint of some processes, continued by another number of them: what waits to be trained on is dealt out anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cahl_pl.types import Group, RolloutBatch


def reshard(batches: Sequence[Sequence[RolloutBatch]], rank: int, world_size: int) -> list[RolloutBatch]:
    """The share of one process in the batches that wait.

    Groups that are compared with one another stay together; comparisons are dealt out in turn. With as many processes as
    before, each gets its own batches back.

    Args:
        batches: of each process that wrote the checkpoint; all have batches of the same steps.
        rank: of this process.
        world_size: number of processes now.
    """
    if len(batches) == world_size:
        return list(batches[rank])
    shares = []
    for of_processes in zip(*batches, strict=True):
        comparisons: dict[tuple[int, int], list[Group]] = {}
        for process, batch in enumerate(of_processes):
            for group in batch.groups:  # each process has numbered its own comparisons
                comparisons.setdefault((process, group.peers), []).append(group)
        own = [
            replace(group, peers=number)
            for number, groups in enumerate(comparisons.values())
            for group in groups
            if number % world_size == rank
        ]
        shares.append(replace(of_processes[0], groups=own))
    return shares
