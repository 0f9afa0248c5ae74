"""Shape of a rollout round, and settings of episodes at test time."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Literal

from cahl_pl.engines.base import Sampling
from cahl_pl.errors import ConfigError
from cahl_pl.rewards.base import BaseReward
from cahl_pl.rollout.prompt_limit import TooLong
from cahl_pl.types import Role


@dataclass
class InferenceConfig:
    """Test-time choices; the defaults are one greedy plan, carried out greedily.

    Attributes:
        single_level: the executor works without a planner (the paper's LowOnly); null: as in training.
        plans: most plans sampled for a request. Above 1 the plan that most of them agree on is carried out,
            after TUMIX (arXiv 2510.01279): the likeliest plan, then samples, one at a time.
        agree: votes that end the sampling of plans early.
        temperature: sampling temperature of the plans after the first.
        replans: how often the planner may be asked again for a request, each time after a failed call. It sees the calls
            made so far with their answers; the rest of its plan is dropped. It has no effect without a planner: an executor
            that works alone sees every answer anyway.
        constrained: plans and calls follow a grammar made from the tools offered: their names, parameters, types and enums,
            required parameters, and references to earlier sub-tasks only; needs llguidance. null: as in training, by
            `data.rollout.constrained`. `fit` refuses it where training is unconstrained.
        constrained_in_fit: `fit` accepts it nevertheless, for its validation and its before-and-after table, while
            training samples without a grammar.

    Raises:
        ValueError: a number is out of its range.
    """

    single_level: bool | None = None
    plans: int = 1
    agree: int = 2
    temperature: float = 1.0
    replans: int = 0
    constrained: bool | None = None
    constrained_in_fit: bool = False

    def __post_init__(self) -> None:
        if self.plans < 1 or self.agree < 1 or not 0 < self.temperature < math.inf:
            raise ValueError(
                f"data.inference needs plans >= 1, agree >= 1 and temperature > 0, not {self.plans}, {self.agree} and "
                f"{self.temperature}"
            )
        if self.replans < 0:
            raise ValueError(f"data.inference.replans must be at least 0, not {self.replans}")
        if self.constrained_in_fit and not self.constrained:
            raise ValueError(
                "data.inference.constrained_in_fit says where constrained holds too, which is false: set both"
            )

    def check_training(self, rollout: RolloutConfig) -> None:
        """Check that the evaluations of `fit` do not follow grammars that training does without.

        Args:
            rollout: sampling of training.

        Raises:
            ConfigError: they would, and `constrained_in_fit` does not allow it.
        """
        if self.constrained and not self.constrained_in_fit and not rollout.constrained:
            raise ConfigError(
                "data.inference.constrained holds at inference alone, and training samples without grammars: leave it out, "
                "have the evaluations of fit alone follow them by --data.inference.constrained_in_fit true, or have training "
                "follow them too by --data.rollout.constrained true"
            )

    def check_invocation(self, single_level: bool) -> None:
        """Check that an activated adapter sees the words that it was trained with, of which there is one set.

        Args:
            single_level: whether training goes without a planner.

        Raises:
            ConfigError: the executor would work both with and without a planner.
        """
        if self.single_level is not None and self.single_level != single_level:
            raise ConfigError(
                "data.inference.single_level differs from data.single_level, but an activated adapter acts only from the "
                "words that it was trained with: use --model.policy.adapter lora"
            )


@dataclass
class RolloutConfig:
    """Shape of a round.

    Attributes:
        planner_group_size: G_h, plans sampled for a request.
        executor_group_size: G_l, outputs sampled for a step of a plan.
        branching: `step`: the G_l outputs of a step share one prompt; one of them, drawn uniformly, is carried out and
            continues the episode. `trajectory`: G_l whole executions of a plan, compared step by step.
        credit: reward of a plan for its executions, with `step` branching. `unbiased`: that of the episode that was carried
            out, corrected by the worth of the other outputs at their steps; its mean is that of whole executions, while
            single values may lie outside [0, 1]. `sampled_mean`: the i-th outputs of all steps count as the i-th execution,
            though it was never carried out; too high for an executor that repeats itself (`cahl_pl/rollout/credit.py`).
        after_error: handling, in training without a planner, of an episode after an output that could not be read or made a
            call that matches no gold call. `stop` ends it: it can no longer succeed and the gold call stays due, so that any
            answer would earn 0 and the policy would learn never to answer. `train` continues and trains on the rest.
        replans: how often a request may be planned again in training after a failed call. One of its failed episodes, drawn
            uniformly, continues from its first failed call: G_h new plans are written from what was seen by then, with their
            own group and reward, for what is left to do. Each is carried out in its own session, in which the calls made so
            far are repeated, so tools run more often. If one of these gets a different answer, the episode is left out and
            counted (`replan/left_out`). At test time `data.inference.replans` applies.
        max_steps: maximum number of sub-tasks of a plan that are carried out; later ones are ignored.
        max_prompt_tokens: maximum length of a prompt. An episode that grows beyond it ends.
        too_long: handling of a task whose prompt is longer: `drop` leaves it out of the round (in evaluation it
            fails), `truncate` leaves out the oldest messages of its dialogue, `fail` stops the run. Counted.
        constrained: training samples within the grammars of `data.inference.constrained` and learns from the
            log-probabilities among the tokens that they allow. The form is then given, not learnt; needs llguidance.
        planner: sampling of plans.
        executor: sampling of executor outputs.

    Raises:
        ValueError: a size is below 1, or `replans` below 0.
    """

    planner_group_size: int = 2
    executor_group_size: int = 4
    branching: Literal["step", "trajectory"] = "step"
    credit: Literal["unbiased", "sampled_mean"] = "unbiased"
    after_error: Literal["stop", "train"] = "stop"
    replans: int = 0
    max_steps: int = 6
    max_prompt_tokens: int = 4096
    too_long: TooLong = "drop"
    constrained: bool = False
    planner: Sampling = field(default_factory=lambda: Sampling(max_new_tokens=512))
    executor: Sampling = field(default_factory=lambda: Sampling(max_new_tokens=256))

    def __post_init__(self) -> None:
        if min(self.planner_group_size, self.executor_group_size, self.max_steps, self.max_prompt_tokens) < 1:
            raise ValueError("rollout: group sizes, max_steps and max_prompt_tokens must be at least 1")
        if self.replans < 0:
            raise ValueError(f"data.rollout.replans must be at least 0, not {self.replans}")

    @property
    def longest(self) -> int:
        """Maximum length of a sequence, in tokens."""
        return self.max_prompt_tokens + max(self.planner.max_new_tokens, self.executor.max_new_tokens)

    def check_sampling(self) -> None:
        """Check that training samples from the distribution that it trains.

        Raises:
            ConfigError: some tokens are never sampled, which biases the ratios of all others; or thoughts would be limited
                within grammars.
        """
        for role, sampling in (("planner", self.planner), ("executor", self.executor)):
            if sampling.top_p < 1:
                raise ConfigError(
                    f"data.rollout.{role}.top_p is {sampling.top_p}: training needs tokens sampled from the whole "
                    "distribution, whose log-probabilities it compares; set it to 1 (evaluations are greedy and do not use it)"
                )
            if self.constrained and sampling.max_thinking_tokens is not None:
                raise ConfigError(
                    f"data.rollout.constrained is true, but grammars do not limit thoughts: leave out it or data.rollout.{role}"
                    ".max_thinking_tokens"
                )

    def check_replans(self, single_level: bool, rewards: Iterable[BaseReward]) -> None:
        """Check that further plans can be made and scored.

        Args:
            single_level: whether training goes without a planner.
            rewards: rewards of both roles.

        Raises:
            ConfigError: there is no planner, or a reward judges episodes from their beginning.
        """
        if not self.replans:
            return
        if single_level:
            raise ConfigError(
                "data.rollout.replans is above 0, but data.single_level trains without plans: an executor that works alone "
                "sees every answer anyway; leave out one of the two"
            )
        for reward in rewards:
            if reward.reads_outcome:
                raise ConfigError(
                    f"data.rollout.replans is above 0, but {type(reward).__name__} judges whole episodes by their outcome, "
                    "which a further plan does not begin; leave out one of the two, or use rewards that read gold calls "
                    "(cahl_pl.rewards.PlannerReward and ExecutorReward)"
                )

    def check_groups(self, roles: Collection[Role]) -> None:
        """Check that the groups of every role that learns allow comparisons.

        Raises:
            ConfigError: a group of one, or one with identical samples: neither yields an advantage.
        """
        sizes: dict[Role, int] = {"planner": self.planner_group_size, "executor": self.executor_group_size}
        temperatures: dict[Role, float] = {"planner": self.planner.temperature, "executor": self.executor.temperature}
        for role, size in sizes.items():
            if temperatures[role] == 0 and role in roles:
                raise ConfigError(
                    f"data.rollout.{role}.temperature is 0: all samples of a group would be the same, so the {role} cannot "
                    f"learn; use 1, or a schedule that leaves the {role} as it is (evaluations are greedy anyway)"
                )
            if size < 2 and role in roles:
                raise ConfigError(
                    f"data.rollout.{role}_group_size is {size}: a group of one has nothing to be compared with, so the {role} "
                    f"cannot learn; use at least 2, or a schedule that leaves the {role} as it is"
                )
