"""One round of training: the tasks that this process draws for it, and the episodes sampled from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch

from cahl_pl.datasets.base import TaskSource
from cahl_pl.engines.base import Engine
from cahl_pl.errors import ConfigError
from cahl_pl.errors.own_code import own_code, path_of
from cahl_pl.policy.policy import Policy
from cahl_pl.prompts import PromptBuilder
from cahl_pl.rewards.base import BaseExecutorReward, BasePlannerReward, BaseReward, BaseTurnReward
from cahl_pl.rollout.dynamic_sampling import refilled
from cahl_pl.rollout.episode import Round
from cahl_pl.rollout.scoring import round_metrics
from cahl_pl.rollout.single_level import SingleLevelRollout
from cahl_pl.rollout.two_level import Rollout
from cahl_pl.sampling import TaskSampler
from cahl_pl.schema import check_tool
from cahl_pl.schema.wording import shorten
from cahl_pl.types import Group, Role, Task


class RoundTasks:
    """This process's share of a round's tasks; every process makes the same draw and takes its own part.

    Args:
        source: all training tasks.
        sampler: sampler that draws the tasks of a round.
        size: number of tasks of the round, over all processes.
        seed: seed of the draw.
        epoch: epoch of the round.
        number: number of the round in its epoch, from 0.
        rank: rank of this process.
        world_size: number of processes.

    Attributes:
        indices: indices of this process's tasks in `source`, in the order drawn.
        tasks: the tasks at these indices.

    Raises:
        SchemaError: a tool of a drawn task has parameters that are not a valid schema.
        ConfigError: the sampler returns something other than task indices.
    """

    def __init__(
        self,
        source: TaskSource,
        sampler: TaskSampler,
        size: int,
        seed: int,
        epoch: int,
        number: int,
        rank: int,
        world_size: int,
    ) -> None:
        self.source, self.sampler, self.size = source, sampler, size
        self.position = (seed, epoch, number)
        self.rank, self.world_size = rank, world_size
        self.indices: list[int] = []
        self.tasks: list[Task] = []
        with own_code(sampler, "draw", f"round {number} of epoch {epoch}"):
            drawn = sampler.draw(len(source), *self.position, size)
        self._check(drawn, "draw")
        self._taken = set(drawn)  # by all processes
        self._take(drawn)

    def draw_more(self, attempt: int, share: float) -> list[Task] | None:
        """Draw further tasks for dynamic sampling; None if no task is left.

        Args:
            attempt: number of the refill, from 0.
            share: number of tasks, as a share of the round's size.
        """
        count = math.ceil(share * self.size)
        with own_code(self.sampler, "refill"):
            drawn = self.sampler.refill(len(self.source), *self.position, attempt, self._taken, count)
        if isinstance(drawn, list) and not drawn:
            return None
        self._check(drawn, "refill")
        self._taken.update(drawn)
        return self._take(drawn)

    def _check(self, drawn: Any, method: str) -> None:
        """Check the result of the sampler, which may be a user's own."""
        count = len(self.source)
        is_right = isinstance(drawn, list) and drawn and all(type(i) is int and 0 <= i < count for i in drawn)
        if not is_right or len(drawn) > len(set(drawn)):
            raise ConfigError(
                f"{path_of(self.sampler)}.{method} gives {shorten(repr(drawn))}: give a list of different numbers from 0 to "
                f"{count - 1}, the tasks' indices"
            )

    def _take(self, drawn: Sequence[int]) -> list[Task]:
        """Take this process's share of the tasks that were drawn."""
        own = list(drawn[self.rank :: self.world_size])
        tasks = [self.source[i] for i in own]
        for task in tasks:
            for tool in task.tools:
                check_tool(tool, f"task {task.id!r}")
        self.indices += own
        self.tasks += tasks
        return tasks


def player_of(
    shared: Rollout, engine: Engine, rewards: Mapping[Role, BaseReward], single_level: bool
) -> Rollout | SingleLevelRollout:
    """Return the rollout that plays training's episodes.

    Args:
        shared: the configured rollout, whose environment and limits are used.
        engine: sampling engine.
        rewards: reward of each role.
        single_level: whether the executor works without a planner.
    """
    if single_level:
        return SingleLevelRollout(engine, shared.environment, cast(BaseTurnReward, rewards["executor"]), shared.config)
    if engine is shared.engine:
        return shared
    planner, executor = cast(BasePlannerReward, rewards["planner"]), cast(BaseExecutorReward, rewards["executor"])
    return Rollout(engine, shared.environment, planner, executor, shared.config)


def start_round(rewards: Mapping[Role, BaseReward], index: int) -> None:
    """Tell each reward, once, which round it is to score."""
    for reward in {id(reward): reward for reward in rewards.values()}.values():
        with own_code(reward, "start_round", f"round {index}"):
            reward.start_round(index)


def play_round(
    tasks: RoundTasks,
    player: Rollout | SingleLevelRollout,
    policy: Policy,
    builder: PromptBuilder,
    generator: torch.Generator,
    roles: Sequence[Role],
    refills: int,
    signal: Callable[[Role, list[Group]], set[int]],
) -> tuple[Round, dict[int, list[float]]]:
    """Sample the episodes of a round, and those of further tasks while comparisons carry no signal.

    Args:
        tasks: tasks of the round; extended by those that dynamic sampling draws.
        player: plays and scores episodes.
        policy: the policy sampled from; its prefixes are discarded before and between.
        builder: prompt builder.
        generator: the only source of randomness.
        roles: roles trained on the round.
        refills: how often further tasks may be drawn.
        signal: function from a role and its groups to the comparisons that it could learn from.

    Returns:
        The round, whose metrics are those of the tasks drawn first, and the rewards of each task's samples in this
        process, by the task's index.
    """

    def play(drawn: Sequence[Task]) -> Round:
        policy.prefixes.forget()  # other tasks
        return player.run(policy, builder, drawn, generator)

    def play_more(attempt: int, share: float) -> Round | None:
        more = tasks.draw_more(attempt, share)
        return None if more is None else play(more)

    first = play(tasks.tasks)
    metrics = round_metrics(first)
    result = refilled(first, roles, refills, signal, play_more) if refills else first
    named = zip(tasks.indices, tasks.tasks, strict=True)
    earned = {index: result.rewards[task.id] for index, task in named if task.id in result.rewards}
    return Round(result.groups, result.trajectories, result.metrics | metrics, result.rewards), earned
