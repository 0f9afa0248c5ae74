"""Batches of a round for the roles that step after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cahl_pl.prompts import PromptBuilder
from cahl_pl.rollout.config import RolloutConfig
from cahl_pl.rollout.episode import Round
from cahl_pl.rollout.gold import supervised_groups
from cahl_pl.rollout.prompt_limit import fit_prompts
from cahl_pl.types import Group, Role, RolloutBatch, Task


def gold_batches(
    steps: Sequence[Role],
    versions: Mapping[Role, int],
    builder: PromptBuilder,
    tasks: Sequence[Task],
    single_level: bool,
    config: RolloutConfig,
) -> list[RolloutBatch]:
    """Return the batches of a round of the warm start, which imitates gold plans and calls.

    The limit on sampled prompts applies: a task that is too long is handled as `too_long` says, the rest of a trajectory
    that grows beyond the limit is dropped, and so is an output that would make it longer than any sampled one.

    Args:
        steps: the roles that step after the round, in order.
        versions: policy versions by role, before these steps.
        builder: prompt builder.
        tasks: tasks of the round.
        single_level: whether the executor works without a planner.
        config: limits of the round.

    Raises:
        ConfigError: with `too_long: fail`, a prompt is too long.
    """
    render = builder.single if single_level else builder.planner
    fitting = fit_prompts(tasks, render, config.max_prompt_tokens, config.too_long)
    groups: dict[Role, list[Group]] = {}
    left_out: dict[Role, int] = {}
    for role in set(steps):
        found = [group for task in fitting.tasks for group in supervised_groups(builder, task, role, single_level)]
        sampling = config.planner if role == "planner" else config.executor
        longest = config.max_prompt_tokens + sampling.max_new_tokens
        groups[role] = [
            group
            for group in found
            if len(group.prompt_ids) <= config.max_prompt_tokens
            and len(group.prompt_ids) + len(group.completion_ids[0]) <= longest
        ]
        left_out[role] = len(found) - len(groups[role])
    return [
        RolloutBatch(
            role,
            groups[role],
            versions[role],
            steps[:i].count(role),
            "supervised",
            metrics={**fitting.metrics, f"{role}/warm_start/left_out": float(left_out[role])},
        )
        for i, role in enumerate(steps)
    ]


def sampled_batches(
    steps: Sequence[Role],
    versions: Mapping[Role, int],
    played: Round,
    config: RolloutConfig,
    lags: Mapping[Role, int] | None = None,
) -> list[RolloutBatch]:
    """Return the batches of a round of episodes; the first of them carries the episodes.

    Args:
        steps: the roles that step after the round, in order.
        versions: versions, by role, of the policy that sampled it.
        played: the round.
        config: configuration that it was sampled with.
        lags: optimiser steps, by role, taken while it was sampled; None for none.
    """
    temperature = {"planner": config.planner.temperature, "executor": config.executor.temperature}
    return [
        RolloutBatch(
            role,
            played.groups[role],
            versions[role],
            steps[:i].count(role),
            metrics=played.metrics,
            trajectories=played.trajectories if i == 0 else None,
            temperature=temperature[role],
            lag=0 if lags is None else lags[role],
        )
        for i, role in enumerate(steps)
    ]
