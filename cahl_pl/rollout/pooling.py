"""Plans of one request that say the same: what they earn differs by chance alone (`GRPOConfig.pool_equal_plans`)."""

from __future__ import annotations

import torch

from cahl_pl.rollout.episode import Round
from cahl_pl.schema import canonical
from cahl_pl.types import Plan


def mark_equal_plans(result: Round) -> None:
    """Set `Group.alike` of each planner group: equal plans get equal numbers. A plan that cannot be read is like none."""
    total = sum(len(group.completion_ids) for group in result.groups["planner"])
    if not total:
        return
    copies = len(result.trajectories) // total  # with trajectory branching, executions of each plan
    plans = iter(result.trajectories[::copies])  # in the order of the groups
    for group in result.groups["planner"]:
        numbers: dict[str, int] = {}
        alike = []
        for i in range(len(group.completion_ids)):
            episode = next(plans)
            key = _said(episode.plan) if episode.plan.error is None else f"unreadable {i}"
            alike.append(numbers.setdefault(key, i))
        group.alike = torch.tensor(alike)


def _said(plan: Plan) -> str:
    """Return what the executor is told by a plan, equal for plans that tell it the same: its instructions are told too."""
    return canonical([[s.instruction.strip(), s.tool, dict(s.parameters)] for s in plan.subtasks])
