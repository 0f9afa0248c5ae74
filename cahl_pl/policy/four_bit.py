"""A base in 4 bits: all code that depends on how bitsandbytes stores it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def keep_cpu_gradients(base: nn.Module) -> None:
    """Make 4-bit layers on a CPU use the kernel that has gradients.

    On CPUs with avx512_bf16 bitsandbytes 0.50 repacks 4-bit weights at the first forward in eval mode, and later forwards
    use a kernel without autograd: gradients through the base are then wrong, without an error.
    """
    import bitsandbytes as bnb

    for module in base.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False


def quantised_otherwise(base: nn.Module) -> Iterator[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    """Yield name, shape and layer's shape of 4-bit weights that do not fit their layer; transformers does not compare them."""
    for name, module in base.named_modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is not None and tuple(state.shape) != (shape := (module.out_features, module.in_features)):
            yield f"{name}.weight", tuple(state.shape), shape


def weight_sizes(parameter: nn.Parameter, module: nn.Module) -> tuple[int, int]:
    """Return a parameter's bytes, constants of its quantisation included, and its number of weights.

    Args:
        parameter: the parameter; of a sharded one, this process's part counts, with all of its constants.
        module: its module, which keeps the constants of a sharded one.
    """
    here: Tensor = parameter
    state = getattr(parameter, "quant_state", None)
    if isinstance(parameter, DTensor):
        here = parameter.to_local()
        state = None if parameter.is_floating_point() else getattr(module, "quant_state", None)
    # a 4-bit parameter has two weights per byte, and its true shape beside it
    weights = parameter.numel() if state is None else state.shape.numel()
    return here.nbytes + _constants_bytes(state), weights * here.numel() // parameter.numel()


def _constants_bytes(state: Any) -> int:
    """Return the bytes of a QuantState; with double quantisation, its scales have their own state."""
    if state is None:
        return 0
    tensors = (state.absmax, state.code, state.offset)
    return sum(t.nbytes for t in tensors if isinstance(t, Tensor)) + _constants_bytes(state.state2)
