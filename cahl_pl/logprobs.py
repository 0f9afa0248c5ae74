"""Log-probabilities of completions, with each group's prompt computed once.

A group's completions share their prompt. Its keys and values are computed once, with gradient, and expanded to the
group; the completions then run on top of them. Gradient checkpointing recomputes layers without a cache, so with it
the prompt is repeated instead: slower, the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache

from cahl_pl.engines.transformers import left_pad
from cahl_pl.policy import Policy
from cahl_pl.types import Group

_CHUNK = 2048  # rows of logits held at a time: at a vocabulary of 152,064 this is 1.2 GB in float32


@dataclass
class Scores:
    """Per-token values of the completions of several groups, padded on the right.

    Attributes:
        logprobs: [N, C].
        entropy: [N, C], nats, without gradient.
        mask: [N, C], True on completion tokens.
    """

    logprobs: Tensor
    entropy: Tensor
    mask: Tensor


def micro_batches(groups: Sequence[Group], max_tokens: int) -> Iterator[list[Group]]:
    """Split a batch into lists of groups of at most `max_tokens` padded tokens each (a larger group stays whole)."""
    batch: list[Group] = []
    for group in sorted(groups, key=lambda g: len(g.prompt_ids)):
        if batch and _padded_tokens([*batch, group]) > max_tokens:
            yield batch
            batch = []
        batch.append(group)
    if batch:
        yield batch


def _padded_tokens(groups: Sequence[Group]) -> int:
    prompt = max(len(group.prompt_ids) for group in groups)
    completion = max(len(ids) for group in groups for ids in group.completion_ids)
    return len(groups) * prompt + sum(len(group.completion_ids) for group in groups) * completion


def score(policy: Policy, groups: Sequence[Group], temperature: float = 1.0) -> Scores:
    """Log-probabilities of every completion under the policy's active adapter.

    Args:
        policy: with the right adapter active; gradients flow into it.
        groups: any sizes and lengths.
        temperature: the sampling temperature, so that log-probabilities are those of the sampling distribution.

    Returns:
        The completions' values, in the order of the groups.
    """
    device = policy.device
    completions = [ids.to(device) for group in groups for ids in group.completion_ids]
    ids = pad_sequence(completions, batch_first=True)
    lengths = torch.tensor([len(c) for c in completions], device=device)
    mask = torch.arange(ids.shape[1], device=device) < lengths[:, None]
    if policy.config.gradient_checkpointing:
        hidden = _hidden_repeated(policy, groups, ids, mask)
    else:
        hidden = _hidden_shared(policy, groups, ids, mask)
    # only real tokens go through the output layer, a few at a time
    flat, target = hidden[mask], ids[mask]
    logprobs, entropy = hidden.new_zeros(ids.shape, dtype=torch.float32), torch.zeros(ids.shape, device=device)
    values = [
        checkpoint(
            _token_logprobs, policy, flat[i : i + _CHUNK], target[i : i + _CHUNK], temperature, use_reentrant=False
        )
        for i in range(0, len(flat), _CHUNK)
    ]
    logprobs = logprobs.masked_scatter(mask, torch.cat([v[0] for v in values]))
    entropy = entropy.masked_scatter(mask, torch.cat([v[1] for v in values]))
    return Scores(logprobs, entropy, mask)


def _token_logprobs(policy: Policy, hidden: Tensor, target: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    logits: Tensor = policy.causal_lm.get_output_embeddings()(hidden).float() / (temperature or 1.0)
    logprobs = torch.log_softmax(logits, -1)
    with torch.no_grad():
        entropy = -(logprobs.exp() * logprobs).sum(-1)
    return logprobs.gather(-1, target[:, None])[:, 0], entropy


def _hidden_shared(policy: Policy, groups: Sequence[Group], ids: Tensor, mask: Tensor) -> Tensor:
    """Hidden states [N, C, H] that predict each completion token; prompts run once."""
    backbone = policy.causal_lm.base_model
    prompts, prompt_mask = left_pad([g.prompt_ids.tolist() for g in groups], policy.tokenizer.pad_token_id, ids.device)
    positions = (prompt_mask.cumsum(1) - 1).clamp(min=0)
    cache = DynamicCache(config=policy.causal_lm.config)
    prompt: Tensor = backbone(
        input_ids=prompts, attention_mask=prompt_mask, position_ids=positions, past_key_values=cache, use_cache=True
    ).last_hidden_state
    sizes = torch.tensor([len(g.completion_ids) for g in groups], device=ids.device)
    rows = torch.arange(len(groups), device=ids.device).repeat_interleave(sizes)
    first = prompt[rows, -1:]
    if ids.shape[1] == 1:
        return first
    cache.batch_select_indices(rows)
    start = positions[rows, -1:] + 1
    rest = backbone(
        input_ids=ids[:, :-1],
        attention_mask=torch.cat([prompt_mask[rows], mask[:, :-1].long()], 1),
        position_ids=start + torch.arange(ids.shape[1] - 1, device=ids.device),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    return torch.cat([first, rest], 1)


def _hidden_repeated(policy: Policy, groups: Sequence[Group], ids: Tensor, mask: Tensor) -> Tensor:
    """The same hidden states, each completion with its own copy of the prompt; works with gradient checkpointing."""
    prompts = [g.prompt_ids.tolist() for g in groups for _ in g.completion_ids]
    left, left_mask = left_pad(prompts, policy.tokenizer.pad_token_id, ids.device)
    attention = torch.cat([left_mask, mask.long()], 1)
    hidden: Tensor = policy.causal_lm.base_model(
        input_ids=torch.cat([left, ids], 1),
        attention_mask=attention,
        position_ids=(attention.cumsum(1) - 1).clamp(min=0),
        use_cache=False,
    ).last_hidden_state
    return hidden[:, left.shape[1] - 1 : -1]
