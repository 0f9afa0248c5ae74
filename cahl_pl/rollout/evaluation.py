"""Greedy episodes, one per task, which `validate`, `test` and `predict` measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from cahl_pl.environments.base import Environment
from cahl_pl.plurals import counted
from cahl_pl.policy.policy import Policy
from cahl_pl.prompts import PromptBuilder
from cahl_pl.rewards.executor import ExecutorReward
from cahl_pl.rewards.planner import PlannerReward
from cahl_pl.rewards.turn import TurnReward
from cahl_pl.rollout.config import InferenceConfig, RolloutConfig
from cahl_pl.rollout.episode import Round, Watch
from cahl_pl.rollout.single_level import SingleLevelRollout
from cahl_pl.rollout.test_time import ReplanningRollout, VotingRollout
from cahl_pl.rollout.two_level import Rollout
from cahl_pl.types import Plan, Task, Trajectory


def greedy(config: RolloutConfig, constrained: bool | None = None) -> RolloutConfig:
    """Return the shape of an evaluation: one plan, one output per step, each the likeliest, within the same limits.

    Args:
        config: configuration of training.
        constrained: whether outputs follow grammars; None: as in training.
    """
    return replace(
        config,
        planner_group_size=1,
        executor_group_size=1,
        branching="step",
        replans=0,  # `InferenceConfig.replans` applies here
        constrained=config.constrained if constrained is None else constrained,
        after_error="train",  # nothing is trained here: an episode may recover, and tasks without gold calls need it
        planner=replace(config.planner, temperature=0.0, top_p=1.0),
        executor=replace(config.executor, temperature=0.0, top_p=1.0),
    )


def make_player(
    training: Rollout, inference: InferenceConfig, single_level: bool, environment: Environment | None = None
) -> Rollout | SingleLevelRollout:
    """Return the rollout that plays the episodes of an evaluation.

    Args:
        training: the rollout of training, whose engine and limits are used.
        inference: the choices at test time.
        single_level: whether training has no planner.
        environment: answers the calls; None for that of training.
    """
    engine, environment = training.engine, environment or training.environment
    config = greedy(training.config, inference.constrained)
    player: Rollout | SingleLevelRollout
    if single_level if inference.single_level is None else inference.single_level:
        player = SingleLevelRollout(engine, environment, TurnReward(), config)
    elif inference.plans == 1 and not inference.replans:
        player = Rollout(engine, environment, PlannerReward(), ExecutorReward(), config)
    else:
        kind = ReplanningRollout if inference.replans else VotingRollout
        player = kind(engine, environment, PlannerReward(), ExecutorReward(), config, inference)
    return player


def evaluate(
    player: Rollout | SingleLevelRollout,
    policy: Policy,
    builder: PromptBuilder,
    tasks: Sequence[Task],
    seed: int,
    watch: Watch | None = None,
) -> tuple[list[Trajectory], Round]:
    """Play one episode per task.

    A task whose prompt is too long gets an episode without a plan: leaving it out would flatter the result.

    Args:
        player: rollout from `make_player`.
        policy: base and adapters; not changed.
        builder: prompt builder.
        tasks: the tasks.
        seed: seed of the plans to vote on, the only draws here; training's generator is not used.
        watch: observer, used if there is one task: events of several would be mixed up.

    Returns:
        An episode for each task, in order, and the round that they are from.
    """
    if len(tasks) == 1:
        player.watch = watch
    played = player.run(policy, builder, tasks, torch.Generator().manual_seed(seed))
    policy.prefixes.forget()
    episodes = {episode.task.id: episode for episode in played.trajectories}
    too_long = Plan(error="prompt too long")
    return [episodes.get(task.id) or Trajectory(task, "", too_long) for task in tasks], played


def notice_of_too_long(number: int, tasks: int, limit: int) -> str:
    """Return the notice for tasks of an evaluation whose prompts are too long to be run."""
    one = number == 1
    return (
        f"{number} of {counted(tasks, 'task')} evaluated at once {'has a prompt' if one else 'have prompts'} of more than "
        f"data.rollout.max_prompt_tokens = {limit} tokens and {'counts' if one else 'count'} as failed, as will all others "
        "like this"
    )
