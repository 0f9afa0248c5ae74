"""Draw tokens from logits."""

from __future__ import annotations

import torch
from torch import Tensor

from cahl_pl.engines.base import Sampling
from cahl_pl.errors import ConfigError

ROWS_AT_A_TIME = 16
"""Rows whose probabilities are added up as whole numbers at once."""


def draw(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return token [B] and its log-probability [B] from logits [B, V]."""
    if sampling.temperature == 0:
        token = logits.argmax(-1)
        return token, torch.log_softmax(logits, -1).gather(-1, token[:, None])[:, 0]
    logprobs = torch.log_softmax(logits if sampling.temperature == 1 else logits / sampling.temperature, -1)
    probabilities = logprobs.exp()
    if sampling.top_p < 1:
        ordered, index = probabilities.sort(-1, descending=True)
        ordered[_cumulative(ordered) - ordered > sampling.top_p] = 0
        probabilities = torch.zeros_like(probabilities).scatter(-1, index, ordered)
    # By inversion: one number a row is drawn, on the CPU, so that there is one generator and one state in the checkpoint
    # whatever the device. torch.multinomial draws one for every entry of the vocabulary.
    cumulative = _cumulative(probabilities)
    total = cumulative[:, -1:]
    if not total.isfinite().all():
        raise ConfigError(
            "the model's logits are not numbers, so that no token can be drawn: a checkpoint or a base in which values are "
            "not finite, or a base that overflows in this policy.dtype"
        )
    drawn = torch.rand(total.shape, generator=generator).to(total.device)
    token = torch.searchsorted(cumulative, drawn * total, right=True)  # drawn < 1: what has no probability is never met
    return token[:, 0], logprobs.gather(-1, token)[:, 0]


def _cumulative(probabilities: Tensor) -> Tensor:
    """Return the cumulative sums over the last dimension of [B, V].

    CUDA adds floats up in an order that differs from run to run, which `trainer.deterministic` forbids. Then whole numbers of
    2^-40 are added up, exactly in any order, some rows at a time: they take twice the memory. Below that, a probability is 0.
    """
    if not torch.are_deterministic_algorithms_enabled():
        return probabilities.cumsum(-1)
    cumulative = torch.empty_like(probabilities)
    for part, sums in zip(*(torch.split(x, ROWS_AT_A_TIME) for x in (probabilities, cumulative)), strict=True):
        sums.copy_((part * 2.0**40).long().cumsum_(-1)).mul_(2.0**-40)
        sums.add_((part * 0).sum(-1, keepdim=True))  # a row that holds no numbers must not look as if it did
    return cumulative
