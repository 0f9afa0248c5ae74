"""Prompts read one per row, as bases that carry a state from token to token require."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from cahl_pl.policy.kv_cache import SampleCache, run_layers
from cahl_pl.policy.policy import Policy
from cahl_pl.policy.row_cache import RowCache, own_cache


class Prefixes(NamedTuple):
    """N prompts that have been read, each about to be continued by S samples.

    Keys and values are in a cache with one row per prompt: first the prompt's, then, at each token, S new ones side by
    side. So the samples of a prompt share its keys and values, and `visible` marks which belong to each sample.
    """

    cache: SampleCache | RowCache
    logits: Tensor  # [N, S, V] of the first new token
    positions: Tensor  # [N, S] of the prompts' last tokens
    visible: Tensor  # [N, S, K], K the final length of the cache
    keys: Tensor  # [N, K] positions of the cached tokens
    used: int


def read_alone(
    policy: Policy, prompts: Sequence[Sequence[int]], num_samples: int, limit: int, max_tokens: int
) -> tuple[list[int], Prefixes]:
    """Read prompts and copy their states for their samples: rows of one sample each (S = 1).

    Only prompts of equal length are read in one pass: padding after a shorter one would enter its states.

    Args:
        policy: policy with the right adapter active.
        prompts: token ids.
        num_samples: samples per prompt.
        limit: maximum tokens of a completion.
        max_tokens: tokens read in one pass; a longer prompt is read alone.

    Returns:
        Index of the prompt that each row continues, and the rows.
    """
    device, order = policy.device, sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    parts, last = [], []
    for length, equal in groupby(order, key=lambda i: len(prompts[i])):
        members = list(equal)
        at_once = max(1, max_tokens // length)
        for start in range(0, len(members), at_once):
            ids = torch.tensor([list(prompts[i]) for i in members[start : start + at_once]], device=device)
            positions = torch.arange(length, device=device).expand(len(ids), -1)
            cache = own_cache(policy.causal_lm.config)
            last.append(run_layers(policy.decoder, ids, None, positions, cache)[:, -1])
            parts.append(cache)
    lengths = torch.tensor([len(prompts[i]) for i in order], device=device).repeat_interleave(num_samples)
    used = int(lengths.max())
    final = used + limit
    columns = torch.arange(final, device=device)
    visible = (columns < lengths[:, None])[:, None]
    keys = columns.repeat(len(lengths), 1)  # after the prompt: set as tokens are sampled
    logits = policy.logits(torch.cat(last)).repeat_interleave(num_samples, 0)[:, None]
    cache = RowCache(parts, num_samples, used, final)
    rows = [i for i in order for _ in range(num_samples)]
    return rows, Prefixes(cache, logits, (lengths - 1)[:, None], visible.clone(), keys, used)
