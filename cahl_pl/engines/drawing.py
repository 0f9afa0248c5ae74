"""Sampling of tokens from logits, on their device; only `outcome` waits for it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cahl_pl.engines.base import Sampling
from cahl_pl.errors import ConfigError
from cahl_pl.policy.constraint import Within

ROWS_AT_A_TIME = 16
"""Rows whose probabilities are summed as integers at once."""

NOT_A_NUMBER = -1
"""Token drawn from logits that are not numbers; `outcome` reports it."""


def draw(
    logits: Tensor, sampling: Sampling, generator: torch.Generator, within: Within | None = None
) -> tuple[Tensor, Tensor]:
    """Return token [B] and its log-probability [B] from logits [B, V].

    A constraint `within` changes the logits in place and then advances by the tokens.
    """
    if within is not None:
        within.hold(logits)
    token, logprob = draw_places(logits[:, None], np.ones((len(logits), 1), bool), sampling, generator)
    if within is not None:
        within.take(token[:, 0])
    return token[:, 0], logprob[:, 0]


def draw_places(
    logits: Tensor, busy: NDArray[np.bool_], sampling: Sampling, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return token [N, S] and its log-probability [N, S] from logits [N, S, V].

    Args:
        logits: logits of all places.
        busy: places to draw tokens for, [N, S]; those of the others are meaningless.
        sampling: temperature and top_p.
        generator: the only source of randomness, on the CPU.
    """
    if sampling.temperature == 0:
        token = logits.argmax(-1)
        return token, _at(torch.log_softmax(logits, -1), token)
    logprobs = torch.log_softmax(logits if sampling.temperature == 1 else logits / sampling.temperature, -1)
    probabilities = logprobs.exp()
    if sampling.top_p < 1:
        ordered, index = probabilities.sort(-1, descending=True)
        ordered.masked_fill_(_cumulative(ordered) - ordered > sampling.top_p, 0)
        probabilities = torch.zeros_like(probabilities).scatter(-1, index, ordered)
    # By inversion: one number per place is drawn, on the CPU, so that there is one generator and one state in the checkpoint
    # whatever the device. torch.multinomial draws one for every entry of the vocabulary.
    cumulative = _cumulative(probabilities)
    total = cumulative[..., -1:]
    numbers = torch.zeros(*busy.shape, 1)
    numbers[torch.from_numpy(busy)] = torch.rand((int(busy.sum()), 1), generator=generator)
    drawn = numbers.to(logits.device, non_blocking=True)
    token = torch.searchsorted(cumulative, drawn * total, right=True)  # drawn < 1: a token of probability 0 is never drawn
    token = token[..., 0].clamp_max(logits.shape[-1] - 1)
    return token.masked_fill(~total[..., 0].isfinite(), NOT_A_NUMBER), _at(logprobs, token)


def outcome(token: Tensor, stop: Tensor) -> NDArray[np.bool_]:
    """Return which tokens end a completion, on the host, which waits for the device here.

    Args:
        token: tokens from `draw_places`, [N, S].
        stop: tokens that end a completion.

    Raises:
        ConfigError: a token was drawn from logits that are not numbers.
    """
    found = torch.isin(token, stop).to(torch.int8).masked_fill(token == NOT_A_NUMBER, NOT_A_NUMBER).cpu().numpy()
    if (found == NOT_A_NUMBER).any():
        raise ConfigError(
            "the model's logits are not numbers, so that no token can be drawn: a checkpoint or a base in which values are "
            "not finite, or a base that overflows in this policy.dtype"
        )
    return found > 0


def _at(logprobs: Tensor, token: Tensor) -> Tensor:
    return logprobs.gather(-1, token[..., None])[..., 0]


def _cumulative(probabilities: Tensor) -> Tensor:
    """Return the cumulative sums over the last dimension of [N, S, V].

    CUDA sums floats in an order that differs from run to run, which `trainer.deterministic` forbids. Then integer
    multiples of 2^-40 are summed, exactly in any order, a few rows at a time: they take twice the memory. A probability
    below 2^-40 counts as 0.
    """
    if not torch.are_deterministic_algorithms_enabled():
        return probabilities.cumsum(-1)
    cumulative = torch.empty_like(probabilities)
    rows = (torch.split(x.view(-1, x.shape[-1]), ROWS_AT_A_TIME) for x in (probabilities, cumulative))
    for part, sums in zip(*rows, strict=True):
        sums.copy_((part * 2.0**40).long().cumsum_(-1)).mul_(2.0**-40)
        sums.add_((part * 0).sum(-1, keepdim=True))  # a row that contains NaN must not look valid
    return cumulative
