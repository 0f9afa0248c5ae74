"""Episodes in progress, and the result of a round of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import torch

from cahl_pl.engines.base import Completion
from cahl_pl.environments.base import Session
from cahl_pl.rewards.targets import Target
from cahl_pl.types import Action, Feedback, Group, Plan, Role, Step, Task, Trajectory

Watch: TypeAlias = Callable[[Task, Plan | Action | Feedback], None]
"""Observer of an episode of a task, called as things happen: a plan, an output of the executor, the feedback to it."""


@dataclass
class Round:
    """Result of one rollout round.

    Attributes:
        groups: each role's groups, rewards filled in.
        trajectories: the episodes as carried out, one per plan (`trajectory` branching: one per execution).
        metrics: time and counts.
        rewards: task id -> rewards of its samples: R_h of its plans or, without a planner, the rewards of all its outputs.
    """

    groups: dict[Role, list[Group]]
    trajectories: list[Trajectory]
    metrics: dict[str, float]
    rewards: dict[str, list[float]] = field(default_factory=dict)


@dataclass
class Episode:
    """One plan being carried out (in `trajectory` branching: one execution of it).

    `asked` is the original task, `task` the same with only the way that is scored against.
    """

    asked: Task
    task: Task
    plan_index: int
    plan: Plan
    plan_text: str
    targets: list[Target]
    session: Session
    prompt: list[int]
    steps: list[Step] = field(default_factory=list)
    samples: list[list[Step]] = field(default_factory=list)  # all samples of each step
    cut: bool = False  # as in Trajectory
    plan_thinking_tokens: int = 0
    call_probabilities: dict[int, float] | None = None  # as in Trajectory


@dataclass(frozen=True)
class Played:
    """Samples for some tasks.

    Attributes:
        planner: a group of plans for each task.
        executor: the executor's groups.
        episodes: episodes, equally many for each task.
        tokens: number of sampled tokens.
    """

    planner: list[Group]
    executor: list[Group]
    episodes: list[Episode]
    tokens: int


def trajectory_of(episode: Episode, steps: Sequence[Step]) -> Trajectory:
    """Return the episode's trajectory with these steps."""
    return Trajectory(
        episode.task,
        episode.plan_text,
        episode.plan,
        tuple(steps),
        cut=episode.cut,
        plan_thinking_tokens=episode.plan_thinking_tokens,
        call_probabilities=episode.call_probabilities,
    )


def scored_of(episode: Episode) -> Trajectory:
    """Return the episode's trajectory as rewards see it, without what its plan could not foresee."""
    return replace(trajectory_of(episode, episode.steps), task=episode.task.foreseeable)


def count_tokens(groups: Sequence[Group]) -> int:
    """Return the number of tokens sampled for these groups."""
    return sum(len(ids) for group in groups for ids in group.completion_ids)


def speed(tokens: int, seconds: float) -> dict[str, float]:
    """Return a round's metrics of time and tokens."""
    return {"time/rollout_s": seconds, "rollout/tokens": float(tokens), "time/tokens_per_s": tokens / seconds}


def make_group(
    prompt: Sequence[int],
    completions: Sequence[Completion],
    totals: Sequence[float],
    components: Sequence[dict[str, float | None]],
    comparison_id: int,
) -> Group:
    """Return completions of one prompt with their rewards; see `Group`."""
    nan = float("nan")
    return Group(
        prompt_ids=torch.tensor(prompt),
        completion_ids=[c.ids for c in completions],
        logprobs=[c.logprobs for c in completions],
        rewards=torch.tensor(totals, dtype=torch.float32),
        components={
            tag: torch.tensor([nan if c[tag] is None else c[tag] for c in components], dtype=torch.float32)
            for tag in components[0]
        },
        advantages=torch.zeros(len(completions)),
        truncated=torch.tensor([not c.ended for c in completions]),
        comparison_id=comparison_id,
        sampled=_sampled(completions),
        thinking_tokens=torch.tensor([c.thinking_tokens for c in completions]),
        grammar=completions[0].grammar,
    )


def _sampled(completions: Sequence[Completion]) -> list[torch.Tensor] | None:
    """Return which tokens were sampled, or None if all were."""
    if all(c.sampled is None for c in completions):
        return None
    return [torch.ones(len(c.ids), dtype=torch.bool) if c.sampled is None else c.sampled for c in completions]
