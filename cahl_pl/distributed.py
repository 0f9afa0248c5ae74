"""Data parallelism for adapters that take turns."""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import os
import re
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final, TypeVar

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from torch import Tensor, nn

from cahl_pl.errors import ConfigError, ProcessLostError
from cahl_pl.types import Group, RolloutBatch

T = TypeVar("T")

_LOST: Final = ("/gloo/", "Connection closed by peer", "ncclRemoteError", "remote process exited")
"""Words in errors of gloo and NCCL about other processes; errors while processes meet have their own classes."""


class AdapterDDPStrategy(DDPStrategy):
    """One process per device, without DistributedDataParallel around the model.

    DistributedDataParallel expects every parameter in every backward pass and the same number of passes on all ranks;
    here one of two adapters learns per step, in as many micro-batches as its rollouts need, and a rank whose groups
    carry no signal has none. So the trainer adds the gradients up itself, once per step (`sum_gradients`).
    """

    def setup_distributed(self) -> None:
        """Meet the other processes.

        Raises:
            ConfigError: processes on other machines could not reach this one, see `check_own_address`.
        """
        if self.num_nodes > 1 and self.root_device.type == "cpu" and self.process_group_backend in (None, "gloo"):
            assert self.cluster_environment is not None  # Lightning has chosen one by now
            check_own_address(self.cluster_environment.main_address)
        super().setup_distributed()

    def configure_ddp(self) -> None:
        """Leave the model as it is; `broadcast` has made the adapters equal on all ranks."""


StrategyRegistry.register("adapter_ddp", AdapterDDPStrategy, description="data parallel over one adapter at a time")


def check_own_address(main_address: str) -> None:
    """Check that gloo will give other machines an address at which this one can be reached.

    It gives the address that this machine's name resolves to, which on many machines only the machine itself can reach. The
    others would wait for it until the strategy's `timeout`.

    Args:
        main_address: name or number of the first process's machine.

    Raises:
        ConfigError: it is such an address, and `GLOO_SOCKET_IFNAME` does not name an interface to use instead.
    """
    own = socket.gethostname()
    if not os.environ.get("GLOO_SOCKET_IFNAME") and _is_loopback(own) and not _is_loopback(main_address):
        raise ConfigError(
            f"this machine's name, {own}, stands for an address that only itself can reach, and gloo would give that to the "
            "other machines: set GLOO_SOCKET_IFNAME to the name of the interface to them, which `ip -brief address` shows, or "
            "correct /etc/hosts"
        )


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(socket.gethostbyname(name)).is_loopback
    except OSError:  # it does not resolve; torch will say so, or find another way
        return False


@contextlib.contextmanager
def lost_processes_told() -> Iterator[None]:
    """Turn the errors that end a run whose processes have lost each other into one sentence.

    Raises:
        ProcessLostError: instead of them.
    """
    try:
        yield
    except RuntimeError as error:
        said = str(error).strip().split("\n")[0]
        unmet = dist.is_available() and isinstance(error, dist.DistNetworkError | dist.DistStoreError)
        if not unmet and not any(words in said for words in _LOST):
            raise
        said = re.sub(r"^\[\S*\] ", "", said).split(". ")[0]  # without the place in gloo's source, and its advice
        who = os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or "of this run"
        if not dist.is_initialized():
            raise ProcessLostError(
                f"the process {who} on {socket.gethostname()} has not met the others ({said}): start all machines with the "
                "same master address and number of machines, and see that their ports are open to each other"
            ) from error
        raise ProcessLostError(
            f"the process {who} on {socket.gethostname()} has lost the others ({said}): one has ended, or its machine or the "
            "network is away, or it has worked alone for longer than trainer.strategy.timeout; start all of them again with "
            "--ckpt_path last, which goes on from the newest checkpoint"
        ) from error


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
    """Return the ranks of the processes whose tensors are not, bit for bit, those of the first. All call it together."""
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


def most_over_processes(value: int) -> int:
    """Return the largest of the processes' numbers."""
    return max(gather_over_processes(value))


def gather_over_processes(value: T) -> list[T]:
    """Return each process's value, in the order of ranks; it may consist of plain containers and tensors on the CPU."""
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    gathered: list[T] = [value] * dist.get_world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def reshard(batches: Sequence[Sequence[RolloutBatch]], rank: int, world_size: int) -> list[RolloutBatch]:
    """Return one process's share of the pending batches.

    Groups that are compared with one another stay together; comparisons are dealt out in turn. With as many processes as
    before, each gets its own batches back.

    Args:
        batches: those of each process that wrote the checkpoint; all have batches of the same steps.
        rank: this process's rank.
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
