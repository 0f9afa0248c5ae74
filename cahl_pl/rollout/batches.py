"""The batches that a round gives to the roles which step after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cahl_pl.prompts import PromptBuilder
from cahl_pl.rollout.config import RolloutConfig
from cahl_pl.rollout.episode import Round
from cahl_pl.rollout.gold import supervised_groups
from cahl_pl.types import Role, RolloutBatch, Task


def gold_batches(
    steps: Sequence[Role],
    versions: Mapping[Role, int],
    builder: PromptBuilder,
    tasks: Sequence[Task],
    single_level: bool,
) -> list[RolloutBatch]:
    """Return the batches of a round of the warm start, which imitates gold plans and calls.

    Args:
        steps: the roles that step after the round, in order.
        versions: of the policy, by role, before these steps.
        builder: makes the prompts.
        tasks: of the round.
        single_level: whether the executor works without a planner.
    """
    groups = {
        role: [group for task in tasks for group in supervised_groups(builder, task, role, single_level)]
        for role in set(steps)
    }
    return [
        RolloutBatch(role, groups[role], versions[role], steps[:i].count(role), "supervised")
        for i, role in enumerate(steps)
    ]


def sampled_batches(
    steps: Sequence[Role],
    versions: Mapping[Role, int],
    played: Round,
    config: RolloutConfig,
) -> list[RolloutBatch]:
    """Return the batches of a round of episodes; the first of them carries the episodes.

    Args:
        steps: the roles that step after the round, in order.
        versions: of the policy that sampled it, by role.
        played: the round.
        config: how it was sampled.
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
        )
        for i, role in enumerate(steps)
    ]
