"""Interface of rewards: named components of one plan or one step, and their total."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from cahl_pl.errors import ConfigError
from cahl_pl.errors.own_code import own_code, path_of
from cahl_pl.schema.wording import show
from cahl_pl.types import GoldCall, Plan, Step, Task, Trajectory, Turn

if TYPE_CHECKING:
    from cahl_pl.environments.base import Environment
    from cahl_pl.rewards.targets import Target


LARGEST: Final = 1e15
"""Largest reward: its square must fit in float32, in which rewards are compared."""


class BaseReward(ABC):
    """Base of all rewards.

    Attributes:
        environment: environment of the rollouts, for rewards that carry calls out; set by the rollout.
        reads_outcome: whether it judges whole episodes by `Task.outcome`, which the remainder of a task does not have.
    """

    environment: Environment | None = None
    reads_outcome: bool = False

    @abstractmethod
    def total(self, components: Mapping[str, float | None]) -> float:
        """Return the reward for these components."""

    def start_round(self, index: int) -> None:  # noqa: B027 - most rewards do not change
        """Prepare for a rollout round, counted from 0 over the whole run: for rewards that change during training."""


class BasePlannerReward(BaseReward):
    """R_h: reward of one plan.

    Attributes:
        reads_probabilities: whether it reads `Trajectory.call_probabilities`, which cost an executor pass per gold call.
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
    """R_l: reward of one step of an execution."""

    @abstractmethod
    def components(self, step: Step, target: Target, episode: Trajectory, index: int) -> dict[str, float | None]:
        """Return the reward's components by tag, always the same tags; None where one is undefined.

        Args:
            step: the step, whose output is rewarded.
            target: target of its sub-task, from `assign_gold`.
            episode: the execution as carried out; its step at `index` may be a different sample from `step`.
            index: the step's place in the plan, from 0.
        """


class BaseTurnReward(BaseReward):
    """Reward of one output of an executor that works without a planner."""

    @abstractmethod
    def components(self, turn: Turn, gold: Sequence[GoldCall], task: Task) -> dict[str, float | None]:
        """Return the reward's components by tag, always the same tags; None where one is undefined.

        Args:
            turn: the output.
            gold: the gold calls that come next (`rollout.gold.next_calls`); empty if an answer in text is right.
            task: the task.
        """


def components_of(reward: Any, task: Task, *output: Any) -> dict[str, float | None]:
    """Return a reward's components for an output; the reward may be a user's own.

    Nothing could be learned from NaN: every step of its role would be skipped.

    Args:
        reward: a reward of any of the three kinds.
        task: task of the output.
        output: arguments of the reward's `components`.

    Raises:
        ConfigError: the reward raises something, or does not return a mapping of texts to finite numbers or None, or
            returns other tags than before. The run's progress is saved.
    """
    with own_code(reward, "components", f"an output of task {task.id!r}"):
        found = reward.components(*output)
        if isinstance(found, Mapping):
            found = dict(found)
    if not isinstance(found, dict) or not all(isinstance(tag, str) for tag in found):
        raise _refused(reward, found, "components", task, "a mapping of tags to numbers, such as {'right': 1.0}")
    known = getattr(reward, "_tags", None)
    if known is None:
        object.__setattr__(reward, "_tags", frozenset(found))  # a user's own may be a frozen dataclass
    elif known != found.keys():
        names = ", ".join(sorted(known)) or "none"
        raise _refused(reward, found, "components", task, f"the same tags for every output, here {names}, None where undefined")
    return {
        tag: None if value is None else _finite(value, reward, f"component {tag!r}", task) for tag, value in found.items()
    }


def checked_total(reward: BaseReward, components: Mapping[str, float | None], task: Task) -> float:
    """Return the reward for components from `components_of`.

    Raises:
        ConfigError: it is not a finite number, or the reward raises something.
    """
    with own_code(reward, "total", f"an output of task {task.id!r}"):
        total = reward.total(components)
    return _finite(total, reward, "total", task)


def _finite(value: Any, reward: BaseReward, what: str, task: Task) -> float:
    """Return a number, such as numpy's or a tensor of one element, as a Python float."""
    right = "a finite number"
    try:
        number = float(value) if not isinstance(value, str | bytes) else math.nan
        if abs(number) <= LARGEST:
            return number
        if math.isfinite(number):
            right = f"a number from -{LARGEST:g} to {LARGEST:g}"
    except Exception:  # a user's own value may raise anything
        pass
    raise _refused(reward, value, what, task, right)


def _refused(reward: object, value: Any, what: str, task: Task, right: str) -> ConfigError:
    told = f"{' '.join(show(value).split())} as its {what} for an output of task {task.id!r}"
    return ConfigError(f"the reward {path_of(reward)} gives {told}: let it give {right}")


def weights_of(reward: object) -> Mapping[str, float]:
    """Return the weights of a reward's components from its attribute `weights`; those not named there weigh 1.

    Raises:
        ConfigError: the attribute exists and is not a mapping of tags to finite numbers.
    """
    weights = getattr(reward, "weights", {})
    numbers = weights.values() if isinstance(weights, Mapping) else [None]
    if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
        raise ConfigError(
            f"the attribute weights of the reward {path_of(reward)} is {show(weights)}: give a mapping of its components' tags "
            "to finite numbers"
        )
    return dict(weights)


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
    """Return sum(w r) over the defined components, times sum(w) / sum(w of these): the maximum stays the same.

    Returns:
        A number in [0, sum(w)] for components in [0, 1]; 0 if no component of positive weight is defined.
    """
    defined = {tag: value for tag, value in components.items() if value is not None}
    weight = sum(weights[tag] for tag in defined)
    if weight == 0:
        return 0.0
    return sum(weights[tag] * value for tag, value in defined.items()) * (sum(weights.values()) / weight)
