"""Sampling with the transformers model that is being trained: same weights, same process, nothing to keep in sync.

What `generate()` does not do and a group needs: each prompt is run once however many samples it gets, keys and values
live in buffers of their final size, and finished rows leave the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from cahl_pl.engines.base import Completion, Engine, Sampling
from cahl_pl.policy import Policy
from cahl_pl.types import Role


class TransformersEngine(Engine):
    """Batched sampling in this process.

    Args:
        batch_size: most completions decoded at once; more prompts than fit are taken in turns. One prompt's
            samples stay together, even if they are more.

    Raises:
        ValueError: batch_size is below 1.
    """

    def __init__(self, batch_size: int = 128) -> None:
        if batch_size < 1:
            raise ValueError(f"engine.batch_size must be at least 1, not {batch_size}")
        self.batch_size = batch_size

    @torch.no_grad()
    def generate(
        self,
        policy: Policy,
        role: Role,
        prompts: Sequence[Sequence[int]],
        num_samples: int,
        sampling: Sampling,
        generator: torch.Generator,
    ) -> list[list[Completion]]:
        """See `Engine.generate`."""
        policy.activate(role)
        # neighbours of like length share a batch, so that little of it is padding
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        per_batch = max(1, self.batch_size // num_samples)
        completions: list[list[Completion]] = [[] for _ in prompts]
        for start in range(0, len(order), per_batch):
            chosen = order[start : start + per_batch]
            batch = [prompts[i] for i in chosen]
            for i, samples in zip(chosen, _sample(policy, batch, num_samples, sampling, generator), strict=True):
                completions[i] = samples
        return completions


def left_pad(sequences: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids [N, P] and attention mask [N, P], padded on the left so that all sequences end together."""
    longest = max(map(len, sequences))
    ids = torch.tensor([[pad] * (longest - len(s)) + list(s) for s in sequences], device=device)
    mask = torch.tensor([[0] * (longest - len(s)) + [1] * len(s) for s in sequences], device=device)
    return ids, mask


def _sample(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    num_samples: int,
    sampling: Sampling,
    generator: torch.Generator,
) -> list[list[Completion]]:
    model, device = policy.lm, policy.device
    limit = sampling.max_new_tokens
    ids, mask = left_pad(prompts, policy.tokenizer.pad_token_id, device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache = DynamicCache(config=policy.causal_lm.config)
    output = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    repeat = torch.arange(len(prompts), device=device).repeat_interleave(num_samples)
    _preallocate(cache, repeat, ids.shape[1] + limit)
    logits = output.logits[:, -1].float()[repeat]
    mask = torch.cat([mask[repeat], mask.new_ones(len(repeat), limit)], 1)
    position = positions[repeat, -1:]

    stop = torch.tensor(sorted(stop_ids(policy)), device=device)
    rows = torch.arange(len(repeat), device=device)  # which completion each row of the shrinking batch writes
    tokens = torch.zeros(len(repeat), limit, dtype=torch.long, device=device)
    logprobs = torch.zeros(len(repeat), limit, device=device)
    lengths = torch.full((len(repeat),), limit, device=device)
    ended = torch.zeros(len(repeat), dtype=torch.bool, device=device)
    width = ids.shape[1]
    for t in range(limit):
        token, logprob = _draw(logits, sampling, generator)
        tokens[rows, t], logprobs[rows, t] = token, logprob
        done = torch.isin(token, stop)
        if done.any():
            lengths[rows[done]], ended[rows[done]] = t + 1, True
            left = int((~done).sum())
            if left == 0:
                break
            # the last unfinished rows move into the places of finished ones: little to copy, nothing to allocate
            keep = torch.arange(left, device=device)
            keep[done[:left]] = left + (~done[left:]).nonzero().squeeze(1)
            rows, token, position, mask = rows[keep], token[keep], position[keep], mask[keep]
            cache.batch_select_indices(keep)
        if t + 1 == limit:
            break
        position = position + 1
        output = model(
            input_ids=token[:, None],
            attention_mask=mask[:, : width + t + 1],
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
        )
        logits = output.logits[:, -1].float()

    tokens, logprobs = tokens.cpu(), logprobs.cpu()
    completions = [
        Completion(tokens[i, :n].clone(), logprobs[i, :n].clone(), bool(end))
        for i, (n, end) in enumerate(zip(lengths.tolist(), ended.tolist(), strict=True))
    ]
    return [completions[i : i + num_samples] for i in range(0, len(completions), num_samples)]


def stop_ids(policy: Policy) -> set[int]:
    """The ids that end a completion: the tokenizer's end of sequence and those of the generation settings."""
    configured = policy.causal_lm.generation_config.eos_token_id
    ids = {policy.tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured])}
    return {i for i in ids if i is not None}


def _draw(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Token [B] and its log-probability [B] from logits [B, V]."""
    if sampling.temperature == 0:
        token = logits.argmax(-1)
        return token, torch.log_softmax(logits, -1).gather(-1, token[:, None])[:, 0]
    logprobs = torch.log_softmax(logits / sampling.temperature, -1)
    probabilities = logprobs.exp()
    if sampling.top_p < 1:
        ordered, index = probabilities.sort(-1, descending=True)
        ordered[ordered.cumsum(-1) - ordered > sampling.top_p] = 0
        probabilities = torch.zeros_like(probabilities).scatter(-1, index, ordered)
    # drawn on the CPU: one generator, and one state in the checkpoint, whatever the device
    token = torch.multinomial(probabilities.cpu(), 1, generator=generator).to(logits.device)
    return token[:, 0], logprobs.gather(-1, token)[:, 0]


class _BufferedLayer(DynamicLayer):
    """Keys and values in buffers of their final length; `cat` at every token would copy the whole cache each time."""

    keys: Tensor
    values: Tensor

    def __init__(self, layer: Any, rows: Tensor, length: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtype, self.device, self.is_initialized = layer.dtype, layer.device, True
        used = layer.keys.shape[-2]
        self._keys, self._values = (
            x.new_empty(len(rows), x.shape[1], length, x.shape[3]) for x in (layer.keys, layer.values)
        )
        self._keys[:, :, :used], self._values[:, :, :used] = layer.keys[rows], layer.values[rows]
        self._view(used)

    def _view(self, used: int) -> None:
        self.keys, self.values = self._keys[:, :, :used], self._values[:, :, :used]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the new keys and values behind the old ones."""
        used = self.keys.shape[-2]
        new = used + key_states.shape[-2]
        self._keys[:, :, used:new], self._values[:, :, used:new] = key_states, value_states
        self._view(new)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep `len(indices)` rows; where `indices[i] != i`, row i is overwritten by row `indices[i]`."""
        used = self.keys.shape[-2]
        to = (indices != torch.arange(len(indices), device=indices.device)).nonzero().squeeze(1)
        for buffer in (self._keys, self._values):
            buffer[to, :, :used] = buffer[indices[to], :, :used]
        self._keys, self._values = self._keys[: len(indices)], self._values[: len(indices)]
        self._view(used)


def _preallocate(cache: DynamicCache, rows: Tensor, length: int) -> None:
    """Repeat the prompts' keys and values for their samples, in buffers with room for the completions."""
    layers: list[Any] = cache.layers
    for i, layer in enumerate(layers):
        if type(layer) is DynamicLayer:
            layers[i] = _BufferedLayer(layer, rows, length)
        else:  # sliding-window and other special layers keep their own way of growing
            layer.batch_select_indices(rows)
