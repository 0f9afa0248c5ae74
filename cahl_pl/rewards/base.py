"""What a reward has to give: named components of one plan or one step, and their total."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cahl_pl.errors import ConfigError
from cahl_pl.types import GoldCall, Plan, Step, Task, Trajectory, Turn

if TYPE_CHECKING:
    from cahl_pl.environments.base import Environment
    from cahl_pl.rewards.targets import Target


class BaseReward(ABC):
    """Base of all rewards.

    Attributes:
        environment: what the rollouts' calls are answered by, for rewards that carry calls out; set by the rollout.
        reads_outcome: it judges whole episodes by `Task.outcome`, which what is left of a task does not have.
    """

    environment: Environment | None = None
    reads_outcome: bool = False

    @abstractmethod
    def total(self, components: Mapping[str, float | None]) -> float:
        """Return the reward made of these components."""

    def start_round(self, index: int) -> None:  # noqa: B027 - most rewards do not change
        """Told before each rollout round, counted from 0 over the whole run: for rewards that change while training."""


class BasePlannerReward(BaseReward):
    """R_h: what one plan is worth.

    Attributes:
        reads_probabilities: it reads `Trajectory.call_probabilities`, which take a pass of the executor over each gold call.
    """

    reads_probabilities: bool = False

    @abstractmethod
    def components(self, plan: Plan, trajectories: Sequence[Trajectory]) -> dict[str, float | None]:
        """Return the reward's components by tag, always the same tags; None where one is undefined.

        Args:
            plan: the plan, possibly an unreadable one.
            trajectories: all executions of this plan, at least one; without steps if nothing was executed.
        """


class BaseExecutorReward(BaseReward):
    """R_l: what one step of an execution is worth."""

    @abstractmethod
    def components(self, step: Step, target: Target, episode: Trajectory, index: int) -> dict[str, float | None]:
        """Return the reward's components by tag, always the same tags; None where one is undefined.

        Args:
            step: the step: its output is what is rewarded.
            target: what is expected of its sub-task, from `assign_gold`.
            episode: the execution as it was carried out; its step at `index` may be another sample than `step`.
            index: the step's place in the plan, from 0.
        """


class BaseTurnReward(BaseReward):
    """Reward of one output of an executor that works without a planner."""

    @abstractmethod
    def components(self, turn: Turn, gold: Sequence[GoldCall], task: Task) -> dict[str, float | None]:
        """Return the reward's components by tag, always the same tags; None where one is undefined.

        Args:
            turn: the output.
            gold: the gold calls that come next (`turns.next_calls`); empty where an answer in text is right.
            task: the task.
        """


def checked_total(reward: BaseReward, components: Mapping[str, float | None], task: Task) -> float:
    """Return the reward made of these components.

    Raises:
        ConfigError: it is no finite number, or a component is neither that nor None.
    """
    check_components(reward, components, task)
    return _finite(reward.total(components), reward, "total", task)


def check_components(reward: BaseReward, components: Mapping[str, float | None], task: Task) -> None:
    """Check what a reward gives for an output. Of NaN nothing could be learned: every step of its role would be skipped.

    Raises:
        ConfigError: a component is neither a finite number nor None.
    """
    for tag, component in components.items():
        if component is not None:
            _finite(component, reward, f"component {tag!r}", task)


def _finite(value: Any, reward: BaseReward, what: str, task: Task) -> float:
    try:
        if math.isfinite(value):
            return float(value)
    except (TypeError, ValueError, OverflowError):
        pass
    name = f"{type(reward).__module__}.{type(reward).__qualname__}"
    raise ConfigError(
        f"the reward {name} gives {value!r} as its {what} for an output of task {task.id!r}: let it give a finite number"
    )


def check_weights(**weights: float) -> dict[str, float]:
    """Return the weights, checked.

    Raises:
        ValueError: a weight is negative or not finite, or all are zero.
    """
    if not all(math.isfinite(w) and w >= 0 for w in weights.values()) or not any(weights.values()):
        given = ", ".join(f"{name}={weight}" for name, weight in weights.items())
        raise ValueError(f"reward weights must be finite, at least 0 and not all 0, got {given}")
    return weights


def weighted_total(weights: Mapping[str, float], components: Mapping[str, float | None]) -> float:
    """sum(w r) over the defined components, times sum(w) / sum(w of these): the maximum stays the same.

    Returns:
        A number in [0, sum(w)] for components in [0, 1]; 0 where no component of positive weight is defined.
    """
    defined = {tag: value for tag, value in components.items() if value is not None}
    weight = sum(weights[tag] for tag in defined)
    if weight == 0:
        return 0.0
    return sum(weights[tag] * value for tag, value in defined.items()) * (sum(weights.values()) / weight)
