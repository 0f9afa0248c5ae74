"""Rollouts: plan, execute step by step, score. No learning happens here.

For every task G_h plans are sampled in one batch. Then, step by step, G_l outputs are sampled for every plan of every
task in one batch, one of them is carried out, and its feedback is appended to that plan's prompt, until the plan ends.
A plan that cannot be read, an unknown tool or a failing call is an outcome with its reward, not an error.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias

import torch

from cahl_pl.credit import sampled_mean_credit, unbiased_credit
from cahl_pl.engines.base import Completion, Engine, Sampling
from cahl_pl.environments.base import Environment, Session
from cahl_pl.lengths import TooLong, fit_prompts
from cahl_pl.parsing import format_call, parse_action, parse_plan
from cahl_pl.policy import Policy
from cahl_pl.prompts import PromptBuilder
from cahl_pl.rewards.base import BaseExecutorReward, BasePlannerReward, checked_total
from cahl_pl.rewards.executor import Target, assign_gold
from cahl_pl.rewards.outcome import outcome_reward
from cahl_pl.types import Action, Feedback, Group, Plan, Role, Step, SubTask, Task, ToolCall, Trajectory

REFERENCE: Final = re.compile(r'"\$[0-9]+"')
"""The result of an earlier sub-task, in a plan's JSON, at any depth."""
Watch: TypeAlias = Callable[[Task, Plan | Action | Feedback], None]
"""Is told of what happens in an episode of a task, as it happens: a plan, an output of the executor, what came back."""


@dataclass
class RolloutConfig:
    """The shape of a round.

    Attributes:
        planner_group_size: G_h, plans sampled for a request.
        executor_group_size: G_l, outputs sampled for a step of a plan.
        branching: `step`: the G_l outputs of a step share one prompt, one of them, drawn uniformly, is carried out and
            continues the episode. `trajectory`: G_l whole executions of a plan, compared step by step.
        credit: what a plan is paid for its executions, with `step` branching. `unbiased`: the episode that was carried out,
            corrected by what the other outputs of its steps were worth at their step; its mean is that of whole executions,
            single values may lie outside of [0, 1]. `sampled_mean`: the i-th outputs of all steps count as the i-th
            execution, though nobody carried it out; too high for an executor that repeats itself. See `cahl_pl/credit.py`.
        after_error: without a planner, what becomes of an episode in training after an output that could not be read or made a
            call that no gold call asks for. `stop` ends it: success is out of reach there and the gold call stays due, so that
            each answer would earn 0 and the policy would learn never to answer. `train` goes on and trains on what follows.
        max_steps: sub-tasks of a plan that are carried out; later ones are ignored.
        max_prompt_tokens: no longer prompt is run. An episode that grows beyond it ends.
        too_long: what becomes of a task whose prompt is longer: `drop` leaves it out of the round (in evaluation it
            fails), `truncate` leaves out the oldest messages of its dialogue, `fail` stops the run. Counted.
        planner: how plans are sampled.
        executor: how executor outputs are sampled.

    Raises:
        ValueError: a size is below 1.
    """

    planner_group_size: int = 2
    executor_group_size: int = 4
    branching: Literal["step", "trajectory"] = "step"
    credit: Literal["unbiased", "sampled_mean"] = "unbiased"
    after_error: Literal["stop", "train"] = "stop"
    max_steps: int = 6
    max_prompt_tokens: int = 4096
    too_long: TooLong = "drop"
    planner: Sampling = field(default_factory=lambda: Sampling(max_new_tokens=512))
    executor: Sampling = field(default_factory=lambda: Sampling(max_new_tokens=256))

    def __post_init__(self) -> None:
        if min(self.planner_group_size, self.executor_group_size, self.max_steps, self.max_prompt_tokens) < 1:
            raise ValueError("rollout: group sizes, max_steps and max_prompt_tokens must be at least 1")


@dataclass
class Round:
    """What one rollout round gives.

    Attributes:
        groups: each role's groups, rewards filled in.
        trajectories: the episodes as they were carried out, one per plan (`trajectory` branching: one per execution).
        metrics: time and counts.
        rewards: task id -> what its samples earned: R_h of its plans or, without a planner, the rewards of all its outputs.
    """

    groups: dict[Role, list[Group]]
    trajectories: list[Trajectory]
    metrics: dict[str, float]
    rewards: dict[str, list[float]] = field(default_factory=dict)


@dataclass
class Episode:
    """One plan being carried out (in `trajectory` branching: one execution of it)."""

    task: Task
    plan_index: int
    plan: Plan
    plan_text: str
    targets: list[Target]
    session: Session
    prompt: list[int]
    steps: list[Step] = field(default_factory=list)
    samples: list[list[Step]] = field(default_factory=list)  # of each step, all that was sampled


class Rollout:
    """Samples and scores episodes.

    Args:
        engine: samples tokens.
        environment: answers calls.
        planner_reward: R_h.
        executor_reward: R_l.
        config: group sizes, branching and limits.

    Attributes:
        watch: is told of what is carried out; None for nobody.
    """

    def __init__(
        self,
        engine: Engine,
        environment: Environment,
        planner_reward: BasePlannerReward,
        executor_reward: BaseExecutorReward,
        config: RolloutConfig,
    ) -> None:
        self.watch: Watch | None = None
        self.engine = engine
        self.environment = environment
        self.planner_reward = planner_reward
        self.executor_reward = executor_reward
        self.config = config
        planner_reward.environment = executor_reward.environment = environment

    def run(self, policy: Policy, builder: PromptBuilder, tasks: Sequence[Task], generator: torch.Generator) -> Round:
        """Sample one training round.

        Args:
            policy: base and adapters; not changed.
            builder: makes the prompts.
            tasks: the requests of the round.
            generator: the only source of randomness.

        Returns:
            Both roles' groups with rewards, and the episodes.
        """
        config, start = self.config, time.perf_counter()
        tasks, prompts, metrics = fit_prompts(tasks, builder.planner, config.max_prompt_tokens, config.too_long)
        groups: dict[Role, list[Group]] = {"planner": [], "executor": []}
        if not tasks:
            return Round(groups, [], metrics)
        plans, tokens = self._plan(policy, builder, tasks, prompts, generator)
        copies = config.executor_group_size if config.branching == "trajectory" else 1
        episodes: list[Episode] = []
        texts = [[builder.decode(completion.ids.tolist()) for completion in group] for group in plans]
        for task, written in zip(tasks, texts, strict=True):
            for text in written:
                plan_index = len(episodes) // copies
                episodes += [self._start(builder, task, plan_index, text) for _ in range(copies)]

        groups["executor"], tokens_executing = self._execute(policy, builder, episodes, generator, copies)

        per_plan = [episodes[j : j + copies] for j in range(0, len(episodes), copies)]
        components = [self._plan_components(executions) for executions in per_plan]
        for g, group in enumerate(plans):
            scored = components[g * len(group) : (g + 1) * len(group)]
            totals = [checked_total(self.planner_reward, c, tasks[g]) for c in scored]
            groups["planner"].append(make_group(prompts[g], group, totals, scored, peers=g))
        metrics |= speed(tokens + tokens_executing, time.perf_counter() - start)
        rewards = {task.id: group.rewards.tolist() for task, group in zip(tasks, groups["planner"], strict=True)}
        trajectories = [judged(_trajectory(e, e.steps), self.environment) for e in episodes]
        return Round(groups, trajectories, metrics, rewards)

    def _plan(
        self,
        policy: Policy,
        builder: PromptBuilder,
        tasks: Sequence[Task],
        prompts: Sequence[list[int]],
        generator: torch.Generator,
    ) -> tuple[list[list[Completion]], int]:
        """The plans of each task that are carried out, G_h of them, and the number of tokens sampled for them."""
        plans = self.engine.generate(
            policy, "planner", prompts, self.config.planner_group_size, self.config.planner, generator
        )
        return plans, sum(len(completion.ids) for group in plans for completion in group)

    def _start(
        self, builder: PromptBuilder, task: Task, plan_index: int, text: str, session: Session | None = None
    ) -> Episode:
        plan = parse_plan(text)
        self._tell(task, plan)
        prompt = builder.executor(task, plan.subtasks[0]) if plan.subtasks else []
        session = session or self.environment.start(task)
        return Episode(task, plan_index, plan, text, assign_gold(plan, task), session, prompt)

    def _execute(
        self,
        policy: Policy,
        builder: PromptBuilder,
        episodes: list[Episode],
        generator: torch.Generator,
        copies: int,
    ) -> tuple[list[Group], int]:
        """Carry out all episodes step by step; returns the executor's groups, and the number of tokens sampled."""
        config = self.config
        samples = config.executor_group_size // copies
        sampled: list[tuple[Episode, int, list[int], list[Completion]]] = []
        for k in range(config.max_steps):
            active = [
                e
                for e in episodes
                if len(e.plan.subtasks) > k == len(e.steps) and len(e.prompt) <= config.max_prompt_tokens
            ]
            if not active:
                break
            prompts = [e.prompt for e in active]
            if samples == 1 and config.executor.temperature == 0:
                drafts = [_draft(builder, e) for e in active]
                outputs = self.engine.generate_from_drafts(
                    policy, "executor", prompts, drafts, config.executor, generator
                )
            else:
                outputs = self.engine.generate(policy, "executor", prompts, samples, config.executor, generator)
            for episode, group in zip(active, outputs, strict=True):
                steps = [
                    _step(episode.plan.subtasks[k], builder.decode(completion.ids.tolist())) for completion in group
                ]
                sampled.append((episode, k, episode.prompt, group))
                chosen = int(torch.randint(len(group), (), generator=generator)) if len(group) > 1 else 0
                feedback = self._carry_out(episode, steps[chosen].action)
                episode.samples.append(steps)
                episode.steps.append(Step(steps[chosen].subtask, steps[chosen].text, steps[chosen].action, feedback))
                if k + 1 < min(len(episode.plan.subtasks), config.max_steps):
                    completion = group[chosen]
                    shown = feedback.text if feedback else ""
                    episode.prompt = [
                        *episode.prompt,
                        *completion.ids.tolist(),
                        *builder.next_step(completion.ended, shown, episode.plan.subtasks[k + 1], k + 2),
                    ]
        # only now: a reward may depend on how the episode ends
        groups = []
        for episode, k, prompt, group in sampled:
            carried_out = _trajectory(episode, episode.steps)
            scored = [
                self.executor_reward.components(step, episode.targets[k], carried_out, k) for step in episode.samples[k]
            ]
            totals = [checked_total(self.executor_reward, c, episode.task) for c in scored]
            groups.append(make_group(prompt, group, totals, scored, episode.plan_index * config.max_steps + k))
        return groups, count_tokens(groups)

    def _carry_out(self, episode: Episode, action: Action) -> Feedback | None:
        """The environment's answer to a call; an error message for an output that is neither call nor answer."""
        self._tell(episode.task, action)
        if action.answer is not None:
            return None
        if action.call is None:
            feedback = Feedback(json.dumps({"error": action.error}), "parse")
        else:
            feedback = episode.session.call(action.call)
        self._tell(episode.task, feedback)
        return feedback

    def _tell(self, task: Task, event: Plan | Action | Feedback) -> None:
        if self.watch is not None:
            self.watch(task, event)

    def _plan_components(self, episodes: list[Episode]) -> dict[str, float | None]:
        """R_h's components for one plan, from all that was sampled under it."""
        executions = [_trajectory(episode, episode.steps) for episode in episodes]
        if self.config.branching == "trajectory" or self.config.executor_group_size == 1:
            return self.planner_reward.components(episodes[0].plan, executions)
        credit = unbiased_credit if self.config.credit == "unbiased" else sampled_mean_credit
        return credit(self.planner_reward, executions[0], episodes[0].samples)


def _draft(builder: PromptBuilder, episode: Episode) -> list[int]:
    """The call that the next sub-task describes, results in the place of references: what executors mostly write."""
    subtask = episode.plan.subtasks[len(episode.steps)]
    if subtask.tool is None:
        return []
    results = {f'"${i}"': step.feedback.text for i, step in enumerate(episode.steps, start=1) if step.feedback}
    text = format_call(ToolCall(subtask.tool, subtask.parameters))
    return builder.completion(REFERENCE.sub(lambda found: results.get(found[0], found[0]), text))


def _step(subtask: SubTask, text: str) -> Step:
    return Step(subtask, text, parse_action(text))


def _trajectory(episode: Episode, steps: Sequence[Step]) -> Trajectory:
    return Trajectory(episode.task, episode.plan_text, episode.plan, tuple(steps))


def judged(trajectory: Trajectory, environment: Environment) -> Trajectory:
    """The trajectory with its outcome, where that alone says whether it is a success."""
    task = trajectory.task
    if task.gold or task.outcome is None or not task.outcome.needs_tools:
        return trajectory
    return replace(trajectory, outcome=outcome_reward(task, trajectory.steps, environment))


def count_tokens(groups: Sequence[Group]) -> int:
    """Tokens that were sampled for these groups."""
    return sum(len(ids) for group in groups for ids in group.completion_ids)


def speed(tokens: int, seconds: float) -> dict[str, float]:
    """The metrics of time and tokens of a round."""
    return {"time/rollout_s": seconds, "rollout/tokens": float(tokens), "time/tokens_per_s": tokens / seconds}


def make_group(
    prompt: Sequence[int],
    completions: Sequence[Completion],
    totals: Sequence[float],
    components: Sequence[dict[str, float | None]],
    peers: int,
) -> Group:
    """Completions of one prompt with their rewards; see `Group`."""
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
        peers=peers,
    )
