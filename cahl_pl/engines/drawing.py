"""Draw tokens from logits."""

from __future__ import annotations

import torch
from torch import Tensor

from cahl_pl.engines.base import Sampling
from cahl_pl.engines.constraint import Within
from cahl_pl.errors import ConfigError


def draw(
    logits: Tensor, sampling: Sampling, generator: torch.Generator, within: Within | None = None
) -> tuple[Tensor, Tensor]:
    """Return token [B] and its log-probability [B] from logits [B, V]; within a constraint, which then moves on by it."""
    if within is None:
        return _draw(logits, sampling, generator)
    tokens, logprobs = _draw(within.mask(logits), sampling, generator)
    within.take(tokens)
    return tokens, logprobs


def _draw(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    if sampling.temperature == 0:
        token = logits.argmax(-1)
        return token, torch.log_softmax(logits, -1).gather(-1, token[:, None])[:, 0]
    logprobs = torch.log_softmax(logits if sampling.temperature == 1 else logits / sampling.temperature, -1)
    probabilities = logprobs.exp()
    if sampling.top_p < 1:
        ordered, index = probabilities.sort(-1, descending=True)
        ordered[ordered.cumsum(-1) - ordered > sampling.top_p] = 0
        probabilities = torch.zeros_like(probabilities).scatter(-1, index, ordered)
    # By inversion: one number a row is drawn, on the CPU, so that there is one generator and one state in the checkpoint
    # whatever the device. torch.multinomial draws one for every entry of the vocabulary.
    cumulative = probabilities.cumsum(-1)
    total = cumulative[:, -1:]
    if not total.isfinite().all():
        raise ConfigError(
            "the model's logits are not numbers, so that no token can be drawn: a checkpoint or a base in which values are "
            "not finite, or a base that overflows in this policy.dtype"
        )
    drawn = torch.rand(total.shape, generator=generator).to(total.device)
    token = torch.searchsorted(cumulative, drawn * total, right=True)  # drawn < 1: what has no probability is never met
    return token[:, 0], logprobs.gather(-1, token)[:, 0]
