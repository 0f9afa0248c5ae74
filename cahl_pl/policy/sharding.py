"""A frozen base that is sharded over all processes (FSDP2); adapters are whole on each.

Every layer is gathered for its own forward and backward pass, the embeddings for theirs, and the output layer while
log-probabilities are taken. Each of these waits for all processes, which must run equally many passes in the same order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import nn

from cahl_pl.errors import PolicyError
from cahl_pl.policy.noise import layers_of
from cahl_pl.types import Group

if TYPE_CHECKING:
    from cahl_pl.policy.config import PolicyConfig


def num_shards(config: PolicyConfig) -> int:
    """Return the number of processes that the base is to be sharded over; 1: not at all."""
    if not config.shard_base or not (dist.is_available() and dist.is_initialized()):
        return 1
    return dist.get_world_size()


def shard(lm: Any, causal_lm: Any, decoder: Any, device: torch.device) -> None:
    """Leave each process its part of the base, on its device; the rest of the model goes there unsharded.

    This goes layer by layer: only one is ever whole on the device.

    Args:
        lm: a PEFT model on the CPU, in which only adapters require gradients.
        causal_lm: the model below it.
        decoder: the layers.
        device: this process's device.

    Raises:
        PolicyError: FSDP cannot shard the base.
    """
    layers = layers_of(decoder)
    if not layers or _share_weights(layers):
        raise PolicyError(
            f"a {causal_lm.config.model_type} model has no layers that can be sharded one by one: leave out "
            "model.policy.shard_base"
        )
    try:
        _shard(lm, causal_lm, decoder, layers, device)
    except Exception as error:  # torch 2.9 refuses 4-bit weights, with a RuntimeError
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise PolicyError(
            f"torch {torch.__version__} cannot shard this base ({reason}): install torch 2.13 or newer, set "
            "model.policy.quantization to none, or leave out model.policy.shard_base"
        ) from error


def _shard(lm: Any, causal_lm: Any, decoder: Any, layers: list[nn.Module], device: torch.device) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    whole = {p for p in lm.parameters() if p.requires_grad}
    embeddings, output = causal_lm.get_input_embeddings(), causal_lm.get_output_embeddings()
    tied = output.weight is embeddings.weight
    for end in (embeddings, output):
        if any(p.requires_grad for p in end.parameters()):  # its adapter needs the weights at other times than those below
            whole.update(end.parameters())
    for layer in layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=whole)
    if embeddings.weight not in whole:
        fully_shard(embeddings, mesh=mesh, reshard_after_forward=True)
        embeddings.set_unshard_in_backward(False)
    fully_shard(decoder, mesh=mesh, reshard_after_forward=True, ignored_params=whole)
    for name, parameter in list(output.named_parameters(recurse=False)):
        if tied and name == "weight":
            output.weight = embeddings.weight
        elif parameter not in whole:
            part = distribute_tensor(parameter.data, mesh, [Shard(0)], src_data_rank=None)
            setattr(output, name, nn.Parameter(part, requires_grad=False))
    lm.to(device)


def _share_weights(layers: list[nn.Module]) -> bool:
    ids = [id(parameter) for layer in layers for parameter in layer.parameters()]
    return len({*ids}) < len(ids)


@contextlib.contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Gather the module's own parameters within; all processes have to enter together."""
    from torch.distributed.tensor import DTensor

    parts = {name: p for name, p in module.named_parameters(recurse=False) if isinstance(p, DTensor)}
    for name, part in parts.items():
        setattr(module, name, nn.Parameter(part.full_tensor(), requires_grad=False))
    try:
        yield
    finally:
        for name, part in parts.items():
            setattr(module, name, part)


def idle_group() -> Group:
    """Return a completion whose one token was not sampled: passes over it gather the base, and add 0 to the gradient."""
    zero, no, ids = torch.zeros(1), torch.zeros(1, dtype=torch.bool), torch.zeros(1, dtype=torch.long)
    return Group(ids, [ids], zero, {}, zero, no, 0, logprobs=[zero], sampled=[no])
