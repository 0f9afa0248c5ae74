"""Advantages of a group's completions: their rewards compared with one another."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from cahl_pl.distributed import gather_over_processes
from cahl_pl.grpo.config import GRPOConfig, Scale
from cahl_pl.types import Group

OVERLONG = "overlong"
"""The component for the soft penalty of long completions."""


class Scoring(NamedTuple):
    """All that decides the advantages of a role.

    Attributes:
        config: the role's configuration.
        weights: weights of the reward's components; a component without one weighs 1.
        limit: the most tokens of a completion, `max_new_tokens`.
    """

    config: GRPOConfig
    weights: Mapping[str, float]
    limit: int


def has_signal(rewards: Tensor) -> bool:
    """Return whether a group's rewards [G] differ at all. Exact: a tiny spread is a signal, float noise in a std is not."""
    return bool(rewards.max() > rewards.min())


def rewards_by_comparison(groups: Sequence[Group]) -> dict[int, Tensor]:
    """Return the rewards of groups that are compared with one another, joined: comparison -> [G]."""
    joined: defaultdict[int, list[Tensor]] = defaultdict(list)
    for group in groups:
        joined[group.comparison_id].append(group.rewards)
    return {comparison_id: torch.cat(rewards) for comparison_id, rewards in joined.items()}


def scores(groups: Sequence[Group], scoring: Scoring) -> dict[int, Tensor]:
    """Return the scores that are compared: comparison -> [G].

    They are the rewards after penalties and pooling; for GDPO the weighted sum of the components, each normalised within
    its comparison. A comparison without a signal has exactly equal scores.
    """
    config = scoring.config
    prepared = [_prepared(group, scoring) for group in groups]
    if config.aggregate_rewards == "sum_then_normalize":
        return rewards_by_comparison(prepared)
    result: dict[int, Tensor] = {}
    for tag in dict.fromkeys(tag for group in prepared for tag in group.components):
        weight = config.overlong_penalty if tag == OVERLONG else scoring.weights.get(tag, 1.0)
        values = rewards_by_comparison([replace(group, rewards=group.components[tag]) for group in prepared])
        for comparison_id, component in values.items():
            normalised = weight * _normalised(component, config.epsilon)
            result[comparison_id] = result[comparison_id] + normalised if comparison_id in result else normalised
    return result


def fill_advantages(groups: Sequence[Group], scoring: Scoring) -> set[int]:
    """Fill in the groups' advantages, and return the comparisons that carry a signal.

    With several processes, all of them must call it together.
    """
    config, joined = scoring.config, scores(groups, scoring)
    compared = list(joined.values())
    if config.aggregate_rewards == "normalize_then_sum":
        everything = _everywhere(compared)
        mean = everything.mean() if len(everything) else torch.zeros(())
        divisor = _std(everything) + config.epsilon
        values = [(score - mean) / divisor if has_signal(score) else torch.zeros_like(score) for score in compared]
    else:
        scale = config.scale_rewards
        batch_std = _std(_everywhere(compared)) if scale == "batch" else None
        values = advantages(compared, scale, config.epsilon, batch_std)
    rest = dict(zip(joined, values, strict=True))
    for group in groups:
        size = len(group.rewards)
        group.advantages, rest[group.comparison_id] = rest[group.comparison_id][:size], rest[group.comparison_id][size:]
    return {comparison_id for comparison_id, score in joined.items() if has_signal(score)}


def advantages(
    rewards: Sequence[Tensor], scale: Scale = "group", epsilon: float = 1e-4, batch_std: Tensor | None = None
) -> list[Tensor]:
    """Return A_i = (r_i - mean) / (std + epsilon), within each group of one role.

    Args:
        rewards: one tensor [G] per group; sizes may differ.
        scale: the standard deviation to divide by (unbiased, n - 1): the group's, the batch's, or none.
        epsilon: see `GRPOConfig`.
        batch_std: that of the batch, if the batch has more than these rewards.

    Returns:
        One tensor [G] per group; zeros for a group of one and for a group of equal rewards.
    """
    if scale == "batch" and batch_std is None:
        batch_std = _std(torch.cat(list(rewards))) if rewards else None
    result = []
    for group in rewards:
        if not has_signal(group):
            result.append(torch.zeros_like(group))
            continue
        centred = group - group.mean()
        std = _std(group) if scale == "group" else batch_std
        result.append(centred if scale == "none" or std is None else centred / (std + epsilon))
    return result


def overlong_penalties(group: Group, limit: int, cache: int | None) -> Tensor:
    """Return DAPO's soft penalty (arXiv 2503.14476, equation 13) of each completion, [G], from 0 to -1.

    Args:
        group: the completions.
        limit: the most tokens.
        cache: see `GRPOConfig.overlong_cache`.
    """
    cache = max(1, limit // 5) if cache is None else min(cache, limit)
    lengths = torch.tensor([float(len(ids)) for ids in group.completion_ids])
    return ((limit - cache - lengths) / cache).clamp(-1, 0)


def _prepared(group: Group, scoring: Scoring) -> Group:
    """Return the group with its rewards and components as they are compared, on the CPU."""
    config = scoring.config
    rewards, components = group.rewards, group.components
    if config.truncation == "soft":
        penalties = overlong_penalties(group, scoring.limit, config.overlong_cache)
        rewards = rewards + config.overlong_penalty * penalties
        components = {**components, OVERLONG: penalties}
    if config.pool_equal_plans and group.alike is not None:
        rewards = _pooled(rewards, group.alike)
        components = {tag: _pooled(values, group.alike) for tag, values in components.items()}
    return replace(group, rewards=rewards, components=components)


def _pooled(values: Tensor, alike: Tensor) -> Tensor:
    """Return each value replaced by the mean over those with the same number; NaN values stay and do not count."""
    result = values.clone()
    for number in set(alike.tolist()):
        members = (alike == number) & ~values.isnan()
        if members.sum() > 1:
            result[members] = values[members].mean()
    return result


def _normalised(component: Tensor, epsilon: float) -> Tensor:
    """Return (r - mean) / (std + epsilon) over the defined values; 0 for the others and if all are equal."""
    defined = component[~component.isnan()]
    if len(defined) == 0 or not has_signal(defined):
        return torch.zeros_like(component)
    return ((component - defined.mean()) / (_std(defined) + epsilon)).nan_to_num(nan=0.0)


def _everywhere(values: Sequence[Tensor]) -> Tensor:
    """Return the values of all processes in one tensor."""
    own = torch.cat(list(values)) if values else torch.zeros(0)
    return torch.cat(gather_over_processes(own))


def _std(values: Tensor) -> Tensor:
    return values.std() if len(values) > 1 else torch.zeros(())
