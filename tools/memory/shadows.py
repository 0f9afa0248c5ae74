"""Run a model of any size without its memory: shapes are computed, and bytes are counted.

Floating-point tensors are torch's FakeTensors, which have a shape and no content. Integers and booleans are real if they
are computed from real ones, so that code that depends on them (which samples have ended, where prompts are) takes its usual
path; those computed from fake tensors are made up. Every storage counts from its creation to its release, in blocks of 512
bytes like those of CUDA's allocator.

The device is called "cpu". Operations that use memory differently on CUDA are done here as there: attention (torch's
memory-efficient kernel, which turns a boolean mask into a padded float one) and 4-bit products (bitsandbytes, which first
dequantises a weight).
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import cahl_pl  # noqa: F401 - before torch: it decides how torch's threads wait

# isort: split
import bitsandbytes as bnb
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cahl_pl.memory_plan.parts import FLOAT32

BLOCK = 512
"""Bytes; CUDA's allocator hands out multiples of it."""
PLACES = 8
"""Torch's memory-efficient attention pads a mask's rows to a multiple of this number of entries."""

_MADE_UP = {"eq": True, "ne": True, "gt": False, "lt": False, "ge": False, "le": False}
"""Results of comparing fake numbers: a number equals itself, is not infinite, and is not too large."""
_FOUND = ("searchsorted", "argmax")
"""Operations that return positions, made up to be 2."""


class Shadows(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Mode that runs and counts in this way.

    Attributes:
        live: bytes of all storages that are alive.
        peak: maximum of `live` since it was last set.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._sizes: dict[int, int] = {}

    def start_again(self) -> int:
        """Forget the peak; return the live bytes."""
        self.peak = self.live
        return self.live

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::").rstrip("_")
        if name in ("index", "index_put", "_index_put_impl", "_unsafe_index"):
            args = (args[0], _places(args[1]), *args[2:])
        leaves = tree_leaves((args, kwargs))
        given = [x for x in leaves if isinstance(x, Tensor)]
        fake = any(isinstance(x, FakeTensor) for x in given)
        if name == "_local_scalar_dense" and fake:
            return 1.0
        if not fake and (given or not _makes_floats(func, args, kwargs)):
            result = func(*args, **kwargs)
        elif fake and name in _MADE_UP:
            shape = torch.broadcast_shapes(*(x.shape for x in given))  # type: ignore[no-untyped-call]
            result = torch.full(shape, _MADE_UP[name])
        else:
            with self._fake:
                result = func(*args, **kwargs)
            if fake and name in _FOUND:
                result = torch.full(result.shape, 2)
        for value in (*given, *tree_leaves(result)):
            self._count(value)
        return result

    def _count(self, value: Any) -> None:
        if not isinstance(value, Tensor) or value.layout != torch.strided:
            return
        storage = value.untyped_storage()
        key, size = storage._cdata, -(-storage.nbytes() // BLOCK) * BLOCK
        if size and key not in self._sizes:
            self._sizes[key] = size
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.live -= self._sizes.pop(key, 0)


def _places(indices: Any) -> list[Tensor | None]:
    """Return indices in which booleans are replaced by the positions where they are true."""
    found: list[Tensor | None] = []
    for index in indices:
        if index is not None and index.dtype in (torch.bool, torch.uint8):
            found += index.nonzero().unbind(1)
        else:
            found.append(index)
    return found


def _makes_floats(func: Any, args: Any, kwargs: Any) -> bool:
    dtype = kwargs.get("dtype")
    if dtype is None:
        if func._schema.name in ("aten::arange", "aten::full", "aten::scalar_tensor"):
            return any(isinstance(x, float) for x in args)
        return func._schema.name not in ("aten::randperm", "aten::randint", "aten::tril_indices", "aten::triu_indices")
    return bool(dtype.is_floating_point) or dtype == torch.uint8  # packed weights are bytes


class _Attention(torch.autograd.Function):
    """Memory of torch's memory-efficient attention: the output and, for each query and head, a float32."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        out = torch.empty(*query.shape[:-1], value.shape[-1], dtype=query.dtype)
        ctx.save_for_backward(query, key, value, bias, out, torch.empty(query.shape[:-1]))
        return out

    @staticmethod
    def backward(ctx: Any, arrived: Tensor) -> tuple[Tensor | None, ...]:
        return (*(torch.empty_like(x) for x in ctx.saved_tensors[:3]), None)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Replace `scaled_dot_product_attention` as on CUDA: flash attention, or with a mask the memory-efficient kernel."""
    bias = attn_mask
    if bias is not None:
        if enable_gqa:  # only flash attention supports groups of heads
            key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
        if bias.dtype == torch.bool:
            bias = torch.zeros(bias.shape, dtype=query.dtype).masked_fill_(bias.logical_not(), -torch.inf)
        if padding := -bias.shape[-1] % PLACES:
            bias = nn.functional.pad(bias, (0, padding))
    result: Tensor = _Attention.apply(query, key, value, bias)  # type: ignore[no-untyped-call]
    return result


class _Product(torch.autograd.Function):
    """Product with a weight that is dequantised for it, forward and backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: PackedLinear) -> Tensor:
        ctx.packed = packed
        return nn.functional.linear(x, packed.written_out(x.dtype), packed.bias)

    @staticmethod
    def backward(ctx: Any, arrived: Tensor) -> tuple[Tensor, None]:
        return arrived @ ctx.packed.written_out(arrived.dtype), None


class PackedLinear(bnb.nn.Linear4bit):
    """Linear layer of bitsandbytes in NF4 with double quantisation, as far as memory goes; see `parts.nf4_bytes`."""

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weights = self.in_features * self.out_features
        blocks = -(-weights // 64)
        packed = nn.Parameter(torch.empty(-(-weights // 2), 1, dtype=torch.uint8), requires_grad=False)
        packed.compress_statistics, packed.quant_type = True, "nf4"  # type: ignore[attr-defined]
        self.weight, self.bias = packed, linear.bias
        self.compute_dtype = linear.weight.dtype
        sizes = (blocks, -(-blocks // 256) * FLOAT32, FLOAT32, 16 * FLOAT32, 256 * FLOAT32)
        self.scales = [torch.empty(size, dtype=torch.uint8) for size in sizes]

    def written_out(self, dtype: torch.dtype) -> Tensor:
        """Return an empty weight; while it is made, its scales exist in float32, before and after the offset."""
        weight = torch.empty(self.out_features, self.in_features, dtype=dtype)
        scales = torch.empty(len(self.scales[0]))
        del scales
        return weight

    def forward(self, x: Tensor) -> Tensor:
        """Return the product [..., out_features]."""
        result: Tensor = _Product.apply(x, self)  # type: ignore[no-untyped-call]
        return result


def pack_weights(model: nn.Module) -> None:
    """Replace all linear layers but the output layer, as transformers does when it loads NF4."""
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear and name != "lm_head":
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, PackedLinear(module))
    model.is_loaded_in_4bit = True  # type: ignore[assignment]


@contextlib.contextmanager
def shadows(*patches: tuple[Any, str, Callable[..., Any]]) -> Iterator[Shadows]:
    """Enter the mode, with attention and other functions replaced: (module, name, function)."""
    replaced = [(nn.functional, "scaled_dot_product_attention", attention), *patches]
    before = [(module, name, getattr(module, name)) for module, name, _ in replaced]
    for module, name, function in replaced:
        setattr(module, name, function)
    try:
        with Shadows() as mode:
            yield mode
    finally:
        for module, name, function in before:
            setattr(module, name, function)
