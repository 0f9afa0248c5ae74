"""The completions of a batch that a role is trained on, and the numbers that its loss is a mean over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from cahl_pl.distributed import sum_over_processes
from cahl_pl.grpo.config import GRPOConfig
from cahl_pl.grpo.loss import Size
from cahl_pl.types import Group


@dataclass(frozen=True)
class Selection:
    """Groups that a step trains on.

    Attributes:
        groups: this process's groups.
        size: completions and tokens of the groups with a signal, of all processes: the policy gradient is a mean over them.
        regularised: those of all groups if KL divergence or entropy counts; else the same.
    """

    groups: list[Group]
    size: Size
    regularised: Size


def select(groups: Sequence[Group], signal: set[int], config: GRPOConfig) -> Selection:
    """Leave out groups of equal rewards, unless their KL divergence or entropy counts, and masked completions.

    A masked completion counts among the completions, as in TRL, but its tokens do not count.
    With several processes, all of them must call it together.

    Args:
        groups: the batch's groups.
        signal: the comparisons (`Group.comparison_id`) whose rewards differ.
        config: the role's configuration.
    """
    kept = [group for group in groups if config.regularised or group.comparison_id in signal]
    trained = [without_truncated(group) for group in kept] if config.truncation == "mask" else kept
    own = [
        *_size([g for g in kept if g.comparison_id in signal], [g for g in trained if g.comparison_id in signal]),
        *_size(kept, trained),
    ]
    numbers = [int(number) for number in sum_over_processes([float(number) for number in own])]
    return Selection([g for g in trained if g.completion_ids], Size(*numbers[:2]), Size(*numbers[2:]))


def everything(groups: Sequence[Group]) -> Selection:
    """Return all groups, which contain the gold completions of the warm start."""
    numbers = [int(n) for n in sum_over_processes([float(n) for n in _size(groups, groups)])]
    return Selection(list(groups), Size(*numbers), Size(*numbers))


def without_truncated(group: Group) -> Group:
    """Return the group without the completions that hit the length limit; it may end up empty."""
    kept = [i for i, cut in enumerate(group.truncated.tolist()) if not cut]
    at = torch.tensor(kept, dtype=torch.long)
    return replace(
        group,
        completion_ids=[group.completion_ids[i] for i in kept],
        logprobs=None if group.logprobs is None else [group.logprobs[i] for i in kept],
        rewards=group.rewards[at],
        components={tag: values[at] for tag, values in group.components.items()},
        advantages=group.advantages[at],
        truncated=group.truncated[at],
        alike=None if group.alike is None else group.alike[at],
        sampled=None if group.sampled is None else [group.sampled[i] for i in kept],
        thinking_tokens=None if group.thinking_tokens is None else group.thinking_tokens[at],
    )


def _size(counted: Sequence[Group], trained: Sequence[Group]) -> Size:
    return Size(sum(len(g.completion_ids) for g in counted), sum(g.trained_tokens for g in trained))
