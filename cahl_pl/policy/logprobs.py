"""Log-probabilities of completions, with every token that several of them share computed once (`packing`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

from cahl_pl.policy.constraint import FORBIDDEN, Bits, Replay, compiler_of, forbid, forbidden
from cahl_pl.policy.forward import Pass, run
from cahl_pl.policy.packing import PackedRow, batches, pack
from cahl_pl.policy.policy import Policy
from cahl_pl.types import Group

LOGITS_AT_A_TIME = 2048
"""Rows of logits at a time: with a vocabulary of 152,064 such a tensor takes 1.2 GiB in float32, and three live at once."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion of a group."""

    group: Group
    index: int

    @property
    def ids(self) -> Tensor:
        """Token ids of the completion, [C]."""
        return self.group.completion_ids[self.index]

    @property
    def sampled(self) -> Tensor:
        """Mask of the tokens that were sampled, [C], bool."""
        masks = self.group.sampled
        return torch.ones_like(self.ids, dtype=torch.bool) if masks is None else masks[self.index]


@dataclass
class MicroBatch:
    """Input of one forward and backward pass: rows, and the samples that are their members, in that order."""

    rows: list[PackedRow]
    samples: list[Sample]

    @property
    def advantages(self) -> Tensor:
        """Advantages of the samples, [N]."""
        return torch.stack([sample.group.advantages[sample.index] for sample in self.samples])

    @property
    def logprobs(self) -> Tensor:
        """Log-probabilities at sampling, [N, C], padded with zeros on the right."""
        kept = [sample.group.logprobs[sample.index] for sample in self.samples if sample.group.logprobs]
        return pad_sequence(kept, batch_first=True)


@dataclass
class Scores:
    """Per-token values of the samples of a micro-batch, padded on the right.

    Attributes:
        logprobs: [N, C].
        entropy: [N, C], nats; without gradient unless requested.
        mask: [N, C], True on completion tokens that were sampled.
    """

    logprobs: Tensor
    entropy: Tensor
    mask: Tensor


def micro_batches(policy: Policy, groups: Sequence[Group], max_tokens: int) -> Iterator[MicroBatch]:
    """Split groups into micro-batches of at most `max_tokens` padded tokens each; a longer sample is alone in its own.

    Args:
        policy: the policy, with the adapter active that the groups are for.
        groups: groups of any sizes and lengths.
        max_tokens: tokens that go through the model at once, those that samples share counted once.

    Raises:
        ConfigError: a sequence is longer than the base can take (`Policy.check_length`).
    """
    samples = [Sample(group, i) for group in groups for i in range(len(group.completion_ids))]
    # the last token of a completion predicts nothing
    sequences = [[*s.group.prompt_ids.tolist(), *s.ids[:-1].tolist()] for s in samples]
    policy.check_length(max(map(len, sequences), default=0))
    frozen = [policy.frozen_tokens(s.group.prompt_ids.tolist()) for s in samples]
    context_tokens = [
        len(s.group.prompt_ids) - 1 for s in samples
    ]  # the last token of a prompt predicts the first new one
    packed = pack(sequences, policy.hidden_size, max_tokens, frozen, context_tokens, policy.shares_rows)
    for rows in batches(packed, max_tokens):
        yield MicroBatch(rows, [samples[member] for row in rows for member in row.members])


def score(policy: Policy, batch: MicroBatch, temperature: float = 1.0, entropy_gradient: bool = False) -> Scores:
    """Return the log-probabilities of every completion under the policy's active adapter.

    Those of a completion that was sampled within a grammar are taken among the tokens that it allows, and so is the entropy:
    tokens that could not be sampled do not contribute, and their logits get no gradient.

    Args:
        policy: the policy, with the right adapter active; gradients flow into it.
        batch: one of `micro_batches`.
        temperature: the sampling temperature, so that log-probabilities are those of the sampling distribution.
        entropy_gradient: whether the entropy is to have a gradient too.

    Returns:
        The values in the order of `batch.samples`.
    """
    device = policy.device
    lengths = torch.tensor([len(sample.ids) for sample in batch.samples])
    mask = (torch.arange(int(lengths.max())) < lengths[:, None]).to(device, non_blocking=True)
    result = run(policy, batch.rows)
    # only states that predict a completion's tokens go through the output layer, a few at a time
    flat = result.hidden.flatten(0, 1)[_predictors(batch, result).to(device, non_blocking=True)]
    target = torch.cat([sample.ids.cpu() for sample in batch.samples]).to(device, non_blocking=True)
    drawn = [(sample.ids, sample.group.grammar) for sample in batch.samples]
    replay = Replay(compiler_of(policy), drawn) if any(grammar is not None for _, grammar in drawn) else None
    logprob, entropy_of = _token_logprobs(policy, flat, target, temperature, entropy_gradient, replay)
    zeros = torch.zeros(mask.shape, device=device)
    logprobs = zeros.masked_scatter(mask, logprob)
    entropy = zeros.masked_scatter(mask, entropy_of)
    sampled = pad_sequence([sample.sampled.cpu() for sample in batch.samples], batch_first=True)
    return Scores(logprobs, entropy, mask & sampled.to(device, non_blocking=True))


def _predictors(batch: MicroBatch, result: Pass) -> Tensor:
    """Return the index in the flattened hidden states that predicts each completion token: one before its own."""
    paths = [
        result.columns[r][path] - result.width + r * result.hidden.shape[1]
        for r, row in enumerate(batch.rows)
        for path in row.paths
    ]
    places = [path[len(s.group.prompt_ids) - 1 :] for path, s in zip(paths, batch.samples, strict=True)]
    return torch.from_numpy(np.concatenate(places))


def _token_logprobs(
    policy: Policy, hidden: Tensor, target: Tensor, temperature: float, entropy_gradient: bool, replay: Replay | None
) -> tuple[Tensor, Tensor]:
    """Return the log-probability [T] of each target [T] after hidden states [T, H], and the entropy [T] there."""
    output = policy.causal_lm.get_output_embeddings()
    if not any(p.requires_grad for p in output.parameters()):
        with policy.whole_output():
            return _TokenLogprobs.apply(hidden, target, policy, temperature, entropy_gradient, replay)  # type: ignore[no-any-return,no-untyped-call]
    parts = [  # an adapter on the output layer: its gradient needs the logits, which are computed again
        checkpoint(_logprobs_of, policy, h, t, temperature, entropy_gradient, bits, use_reentrant=False)
        for h, t, bits in _chunks(hidden, target, replay)
    ]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


class _TokenLogprobs(torch.autograd.Function):
    """Log-probabilities whose gradients are taken while the logits exist, so that these are neither kept nor recomputed.

    A token's values depend on its own hidden state alone: the gradient of the sum of all is, row by row, that of each, and
    the backward pass multiplies it by the gradient that arrives for the token.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        target: Tensor,
        policy: Policy,
        temperature: float,
        entropy_gradient: bool,
        replay: Replay | None,
    ) -> tuple[Tensor, Tensor]:
        wanted = (2 if entropy_gradient else 1) if ctx.needs_input_grad[0] else 0
        parts = [_scored(policy, h, t, temperature, wanted, bits) for h, t, bits in _chunks(hidden, target, replay)]
        logprobs, entropy, *gradients = (torch.cat(values) for values in zip(*parts, strict=True))
        if wanted < 2:
            ctx.mark_non_differentiable(entropy)
        ctx.save_for_backward(*gradients)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *arrived: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        gradients = ctx.saved_tensors
        total = sum(own[:, None] * gradient for own, gradient in zip(arrived, gradients, strict=False))
        return total.to(gradients[0].dtype), None, None, None, None, None


def _chunks(hidden: Tensor, target: Tensor, replay: Replay | None) -> Iterator[tuple[Tensor, Tensor, Bits | None]]:
    for i in range(0, len(hidden), LOGITS_AT_A_TIME):
        some = target[i : i + LOGITS_AT_A_TIME]
        yield hidden[i : i + LOGITS_AT_A_TIME], some, None if replay is None else replay.next(len(some))


def _scored(
    policy: Policy, hidden: Tensor, target: Tensor, temperature: float, wanted: int, bits: Bits | None
) -> list[Tensor]:
    """Return the log-probability [T] and entropy [T], and the first `wanted` ones' gradients [T, H] by `hidden`.

    It is a function so that no logits remain while the next ones are made.
    """
    hidden = hidden.detach().requires_grad_(wanted > 0)
    with torch.set_grad_enabled(wanted > 0):
        logits = policy.logits(hidden)
    if bits is not None:  # in place: the output layer's gradient does not need its output
        forbid(logits.detach(), bits)
    logprobs = _log_softmax(logits.detach(), temperature)
    chosen, probabilities = _at(logprobs, target), logprobs.exp()
    summands = logprobs.mul_(probabilities)  # p log p
    entropy = -summands.sum(-1)
    if not wanted:
        return [chosen, entropy]
    scale = temperature or 1.0
    gradients = []
    if wanted > 1:  # of the entropy: -p (log p + H)
        by_logits = summands.addcmul_(probabilities, entropy[:, None]).neg_()
        gradients = [torch.autograd.grad(logits, hidden, by_logits, retain_graph=True)[0] / scale]
        del by_logits
    del logprobs, summands
    # The target's one-hot vector minus the probabilities: autograd would need more passes over the vocabulary.
    gradient = probabilities.neg_()
    gradient.scatter_add_(-1, target[:, None], gradient.new_ones(len(target), 1))
    (gradient,) = torch.autograd.grad(logits, hidden, gradient)
    return [chosen, entropy, gradient / temperature if temperature else gradient, *gradients]


def _logprobs_of(
    policy: Policy, hidden: Tensor, target: Tensor, temperature: float, entropy_gradient: bool, bits: Bits | None
) -> tuple[Tensor, Tensor]:
    logits = policy.logits(hidden)
    if bits is not None:
        logits = logits.masked_fill(forbidden(bits, logits), FORBIDDEN)
    logprobs = _log_softmax(logits, temperature)
    with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
        entropy = -(logprobs.exp() * logprobs).sum(-1)
    return _at(logprobs, target), entropy


def _log_softmax(logits: Tensor, temperature: float) -> Tensor:
    return torch.log_softmax(logits / temperature if temperature not in (0, 1) else logits, -1)


def _at(logprobs: Tensor, target: Tensor) -> Tensor:
    return logprobs.gather(-1, target[:, None])[:, 0]
