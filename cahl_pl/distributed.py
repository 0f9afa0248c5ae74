"""Data parallelism for adapters that take turns."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from torch import Tensor, nn

from cahl_pl.types import Group, RolloutBatch

T = TypeVar("T")


class AdapterDDPStrategy(DDPStrategy):
    """One process a device, without DistributedDataParallel around the model.

    DistributedDataParallel expects every parameter in every backward pass and the same number of passes on all ranks;
    here one of two adapters learns per step, in as many micro-batches as its rollouts need, and a rank whose groups
    carry no signal has none. So the trainer adds the gradients up itself, once per step (`sum_gradients`).
    """

    def configure_ddp(self) -> None:
        """Leave the model as it is; `broadcast` has made the adapters equal on all ranks."""


StrategyRegistry.register("adapter_ddp", AdapterDDPStrategy, description="data parallel over one adapter at a time")


def sum_gradients(parameters: list[nn.Parameter]) -> None:
    """Add up the gradients of all processes; a process without gradients adds zeros. One process: nothing to do."""
    if not (dist.is_available() and dist.is_initialized()):
        return
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
    dist.all_reduce(flat)
    for parameter, gradient in zip(parameters, torch.split(flat, [p.numel() for p in parameters]), strict=True):
        parameter.grad = gradient.view_as(parameter).clone()


def broadcast(parameters: list[nn.Parameter]) -> None:
    """Give all processes the first one's values: adapters start random, and processes need not share a seed."""
    if not (dist.is_available() and dist.is_initialized()):
        return
    with torch.no_grad():
        for parameter in parameters:
            dist.broadcast(parameter.data, src=0)


def differing_processes(tensors: Iterable[Tensor]) -> list[int]:
    """Return the ranks of the processes whose tensors are not, bit for bit, those of the first. All have to ask together."""
    digest = hashlib.sha256()
    if dist.is_available() and dist.is_initialized():
        for tensor in tensors:
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    digests = gather_over_processes(digest.hexdigest())
    return [rank for rank, other in enumerate(digests) if other != digests[0]]


def sum_over_processes(values: list[float]) -> list[float]:
    """Return the sums of these numbers over all processes."""
    if not (dist.is_available() and dist.is_initialized()):
        return values
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(tensor)
    return list(tensor.tolist())


def gather_over_processes(value: T) -> list[T]:
    """Return what each process has, in the order of their ranks; a value of plain containers and tensors on the CPU."""
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    gathered: list[T] = [value] * dist.get_world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def reshard(batches: Sequence[Sequence[RolloutBatch]], rank: int, world_size: int) -> list[RolloutBatch]:
    """Return the share of one process in the batches that wait.

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
                comparisons.setdefault((process, group.comparison_id), []).append(group)
        own = [
            replace(group, comparison_id=number)
            for number, groups in enumerate(comparisons.values())
            for group in groups
            if number % world_size == rank
        ]
        shares.append(replace(of_processes[0], groups=own))
    return shares
