"""Attention while decoding that does not repeat keys and values for every query head.

If there are fewer key heads than query heads, and several new tokens under a mask, transformers repeats keys and values for
all query heads, at each token and in each layer (`repeat_kv`). Yet query heads that share keys are only more queries to
these: they are folded into the tokens, [R, heads, S, d] to [R, key heads, heads / key heads * S, d], and the family's own
function does the rest. Scores, and the sums over them, are the same as without folding.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

Output = tuple[Tensor, Tensor | None]
"""Output of an attention function of transformers: [R, S, heads, d], and weights that are not used here."""

_PREFIX = "cahl_folded_"
_SINKS_KNOWN = {"gpt_oss"}
"""Families with attention sinks that `_with_sinks` computes as they do."""


@contextlib.contextmanager
def folded_attention(decoder: nn.Module) -> Iterator[None]:
    """Fold the attention of a model that runs within; a model whose attention cannot be folded is left as it is.

    FlexAttention, which is for many tokens at once, is replaced by `decoding_attention`.

    Args:
        decoder: a decoder of transformers.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    configs = _foldable(decoder)
    for name, function in _FOLDED.items():
        AttentionInterface.register(_PREFIX + name, function)
        AttentionMaskInterface.register(_PREFIX + name, AttentionMaskInterface()[name])
    before = [config._attn_implementation for config in configs]
    name = _PREFIX + decoding_attention(decoder)
    try:
        for config in configs:
            config._attn_implementation = name
        yield
    finally:
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation = name
        for function in _FOLDED.values():
            function.masks.clear()


def is_foldable(decoder: nn.Module) -> bool:
    """Return whether a model's attention is folded, if it has fewer key heads than query heads."""
    return bool(_foldable(decoder))


def decoding_attention(decoder: Any) -> str:
    """Return the attention for decoding, `sdpa` or `eager`, which take masks that are tensors.

    Args:
        decoder: a decoder of transformers.
    """
    name: str = decoder.config._attn_implementation.removeprefix(_PREFIX)
    return name if name != "flex_attention" else "sdpa" if decoder._supports_sdpa else "eager"


def _foldable(decoder: Any) -> list[Any]:
    """Return the configurations by which a model's layers choose their attention; none if they are to stay as they are."""
    takes_functions = getattr(type(decoder), "_can_set_attn_implementation", lambda: False)
    if not takes_functions():
        return []
    least = 0 if decoder.config._attn_implementation == "flex_attention" else 1
    attentions = [module for module in decoder.modules() if getattr(module, "num_key_value_groups", 0) > least]
    if decoding_attention(decoder) == "eager" and any(_eager_of(module) is None for module in attentions):
        return []
    return list({id(module.config): module.config for module in attentions if hasattr(module, "config")}.values())


def _eager_of(module: nn.Module) -> Callable[..., Output] | None:
    """Return the eager attention function of a module's family, which is defined beside its class."""
    return getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)


class _Folded:
    """An attention function of transformers, on queries whose groups of heads are folded into one head each.

    Args:
        plain: function that returns the one that a module would use.
        boolean: whether its masks are true where a token sees another; otherwise they are added to scores.

    Attributes:
        masks: those of the current step, as passed in and folded; layers share them.
    """

    def __init__(self, plain: Callable[[nn.Module], Callable[..., Output]], boolean: bool) -> None:
        self._plain = plain
        self._boolean = boolean
        self.masks: list[tuple[Tensor, int, Tensor]] = []

    def __call__(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> Output:
        """Return the output of the plain function.

        Args:
            module: the layer's attention.
            query: [R, heads, S, d].
            key: [R, key heads, K, d].
            value: likewise.
            attention_mask: [R, 1, S, K].
            kwargs: arguments of the family's function.
        """
        rows, heads, tokens, width = query.shape
        groups = heads // key.shape[1]
        sinks = getattr(module, "sinks", None)
        model_type = getattr(getattr(module, "config", None), "model_type", "")
        if (
            groups == 1
            or attention_mask is None
            or attention_mask.shape[1] != 1
            or kwargs.get("position_bias") is not None
            or (sinks is not None and model_type not in _SINKS_KNOWN)
        ):
            return self._plain(module)(module, query, key, value, attention_mask, **kwargs)
        folded = query.reshape(rows, key.shape[1], groups * tokens, width)
        mask = self._mask(attention_mask, groups, query.dtype)
        if sinks is None:
            found, _ = self._plain(module)(_Ungrouped(module), folded, key, value, mask, **kwargs)
            found = found.transpose(1, 2)
        else:
            found = _with_sinks(folded, key, value, mask, kwargs["scaling"], sinks.repeat_interleave(tokens))
        unfolded = found.reshape(rows, heads, tokens, value.shape[-1])
        return unfolded.transpose(1, 2).contiguous(), None

    def _mask(self, mask: Tensor, groups: int, dtype: torch.dtype) -> Tensor:
        """Return a mask [R, 1, S, K] for folded queries, [R, 1, groups * S, K], to be added to scores."""
        self.masks = [known for known in self.masks if known[0].shape == mask.shape]  # each step has one column more
        for known, of, folded in self.masks:
            if known is mask and of == groups:
                return folded
        folded = mask.repeat(1, 1, groups, 1)
        if self._boolean:  # as the function would do in each layer
            folded = torch.zeros_like(folded, dtype=dtype).masked_fill_(~folded, -torch.inf)
        self.masks = [
            *self.masks[-3:],
            (mask, groups, folded),
        ]  # a model that slices its mask in each layer does not fill memory
        return folded


class _Ungrouped:
    """Stand-in for a layer's attention from which functions read that keys and values are not to be repeated."""

    num_key_value_groups = 1

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _with_sinks(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float, sinks: Tensor) -> Tensor:
    """Return attention with an extra score per query that takes a share of the weights and has no value (gpt-oss).

    Args:
        query: folded, [R, key heads, N, d].
        key: [R, key heads, K, d].
        value: likewise.
        mask: [R, 1, N, K], to add.
        scaling: factor of the scores.
        sinks: [key heads * N].
    """
    scores = query @ key.transpose(2, 3) * scaling + mask
    scores = torch.cat([scores, sinks.view(1, key.shape[1], -1, 1).expand(len(query), -1, -1, -1)], dim=-1)
    scores = scores - scores.amax(-1, keepdim=True)
    return torch.softmax(scores, -1, dtype=scores.dtype)[..., :-1].to(value.dtype) @ value


def _sdpa(module: nn.Module) -> Callable[..., Output]:
    from transformers import AttentionInterface

    return AttentionInterface()["sdpa"]  # type: ignore[no-any-return]


def _eager(module: nn.Module) -> Callable[..., Output]:
    found = _eager_of(module)
    assert found is not None, "checked by `_foldable`"
    return found


_FOLDED = {"sdpa": _Folded(_sdpa, boolean=True), "eager": _Folded(_eager, boolean=False)}
