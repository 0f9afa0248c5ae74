"""Reward of a plan whose steps were each sampled several times, with one output per step carried out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

from cahl_pl.rewards.base import BasePlannerReward, components_of
from cahl_pl.types import Step, Trajectory

Components: TypeAlias = dict[str, float | None]


def unbiased_credit(reward: BasePlannerReward, episode: Trajectory, samples: Sequence[Sequence[Step]]) -> Components:
    """Return components of R_h with the same mean as those of whole executions.

    With R the component of an episode that may have ended early, y_k the output carried out at step k and y_k,i all outputs
    sampled there, each from the very same prompt:

        R(y_1 ... y_K) + sum_k [ mean_i R(y_1 ... y_k-1, y_k,i) - R(y_1 ... y_k) ]

    The carried-out output is one of the y_k,i, drawn uniformly, so that each bracket is 0 on average and the sum is a control
    variate (Owen, Monte Carlo theory, methods and examples, 2013, chapter 8): it removes the luck of the draws as far as it
    shows at their step. The result may lie outside [0, 1].

    Args:
        reward: R_h.
        episode: the episode as carried out, K steps.
        samples: all outputs of each step, shape [K][G_l]; their feedback is not known.

    Raises:
        ConfigError: the reward returns something that is not a number.
    """

    def worth(executions: Sequence[Sequence[Step]]) -> Components:
        played = [replace(episode, steps=tuple(steps)) for steps in executions]
        return components_of(reward, episode.task, episode.plan, played)

    total = worth([episode.steps])
    for k, outputs in enumerate(samples):
        done = episode.steps[:k]
        sampled, carried_out = worth([(*done, output) for output in outputs]), worth([episode.steps[: k + 1]])
        total = {tag: _sum(total[tag], sampled[tag], carried_out[tag]) for tag in total}
    return total


def sampled_mean_credit(
    reward: BasePlannerReward, episode: Trajectory, samples: Sequence[Sequence[Step]]
) -> Components:
    """Return the mean components of G_l executions, the i-th of which joins the i-th outputs of all steps.

    These were never carried out: an output is joined with later ones that were sampled after another. The mean is that of
    whole executions only if the reward is a sum over steps.

    Args:
        reward: R_h.
        episode: the episode as carried out, K steps.
        samples: all outputs of each step, shape [K][G_l]; their feedback is not known.
    """
    executions = [replace(episode, steps=steps) for steps in zip(*samples, strict=True)]
    return components_of(reward, episode.task, episode.plan, executions or [episode])


def _sum(total: float | None, sampled: float | None, carried_out: float | None) -> float | None:
    if total is None or sampled is None or carried_out is None:
        return None
    return total + sampled - carried_out
