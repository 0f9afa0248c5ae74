"""Outcome of episodes, and the metrics of a round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from cahl_pl.environments.base import Environment
from cahl_pl.grpo.advantages import rewards_by_comparison
from cahl_pl.rewards.outcome import outcome_reward
from cahl_pl.rollout.episode import Round
from cahl_pl.types import Group, Trajectory


def round_metrics(result: Round) -> dict[str, float]:
    """Return both roles' rewards, components, lengths and share of groups without signal: tag -> value."""
    metrics: dict[str, float] = {}
    for role, groups in result.groups.items():
        if not groups:
            continue
        rewards = torch.cat([g.rewards for g in groups])
        lengths = torch.tensor([float(len(ids)) for g in groups for ids in g.completion_ids])
        metrics |= {
            f"{role}/reward/mean": rewards.mean().item(),
            f"{role}/reward/std": rewards.std(correction=0).item(),
            f"{role}/reward/min": rewards.min().item(),
            f"{role}/reward/max": rewards.max().item(),
            f"{role}/length/mean": lengths.mean().item(),
            f"{role}/length/max": lengths.max().item(),
            f"{role}/length/thinking": _mean_thinking(groups),
            f"{role}/length/truncated": torch.cat([g.truncated for g in groups]).float().mean().item(),
            f"{role}/frac_zero_std": _frac_constant(groups),
        }
        for tag in groups[0].components:
            values = torch.cat([g.components[tag] for g in groups])
            if not values.isnan().all():
                metrics[f"{role}/reward/{tag}"] = values.nanmean().item()
    return metrics


def _mean_thinking(groups: Sequence[Group]) -> float:
    counted = [g.thinking_tokens for g in groups if g.thinking_tokens is not None]
    return torch.cat(counted).float().mean().item() if counted else 0.0


def _frac_constant(groups: Sequence[Group]) -> float:
    comparisons = rewards_by_comparison(groups).values()
    return sum(float(bool(r.max() == r.min())) for r in comparisons) / len(comparisons)


def with_outcome(trajectory: Trajectory, environment: Environment) -> Trajectory:
    """Return the trajectory with its outcome, where success depends on that alone."""
    task = trajectory.task
    if task.gold or task.outcome is None or not task.outcome.needs_tools:
        return trajectory
    return replace(trajectory, outcome=outcome_reward(task, trajectory.steps, environment))
