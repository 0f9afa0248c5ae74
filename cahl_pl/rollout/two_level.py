"""Rollouts: plan, execute step by step, score. No learning happens here.

For every task G_h plans are sampled in one batch. Then, step by step, G_l outputs are sampled for every plan of every
task in one batch, one of them is carried out, and its feedback is appended to that plan's prompt, until the plan ends.
With `replans`, some requests are then planned again from the point where a call failed, like new requests.
An unreadable plan, an unknown tool or a failing call is an outcome with its reward, not an error.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from cahl_pl.engines.base import Completion, Engine
from cahl_pl.environments.base import Environment, Session, answered, started
from cahl_pl.errors import ConfigError
from cahl_pl.grammars import Grammars
from cahl_pl.grammars.outputs import Output
from cahl_pl.metrics import is_success
from cahl_pl.parsing import parse_plan
from cahl_pl.policy.policy import Policy
from cahl_pl.prompts import PromptBuilder
from cahl_pl.rewards.base import BaseExecutorReward, BasePlannerReward, checked_total, components_of
from cahl_pl.rewards.targets import assign_gold
from cahl_pl.rewards.ways import way_of_plan
from cahl_pl.rollout.asking import ask
from cahl_pl.rollout.calls import call_ids, read_action
from cahl_pl.rollout.config import RolloutConfig
from cahl_pl.rollout.credit import sampled_mean_credit, unbiased_credit
from cahl_pl.rollout.episode import (
    Episode,
    Played,
    Round,
    Watch,
    count_tokens,
    make_group,
    scored_of,
    speed,
    trajectory_of,
)
from cahl_pl.rollout.failures import Failure, failures_of, reopened
from cahl_pl.rollout.pooling import equal_plans
from cahl_pl.rollout.probability import Due, call_probabilities
from cahl_pl.rollout.prompt_limit import fit_prompts
from cahl_pl.rollout.scoring import with_outcome
from cahl_pl.schema.references import Reference, look_up, read_text, replace_references
from cahl_pl.types import Action, Feedback, Group, Plan, Role, Step, Task, ToolCall


class Rollout:
    """Rollout of planner and executor: samples and scores episodes.

    Args:
        engine: samples tokens.
        environment: answers calls.
        planner_reward: R_h.
        executor_reward: R_l.
        config: group sizes, branching and limits.

    Attributes:
        watch: observer of what is carried out, or None.
        grammars: grammars of the outputs, or None.
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
        self.grammars = Grammars(config.max_steps) if config.constrained else None
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
            builder: prompt builder.
            tasks: the requests of the round.
            generator: the only source of randomness.

        Returns:
            Both roles' groups with rewards, and the episodes.
        """
        config, start = self.config, time.perf_counter()
        tasks, prompts, metrics = fit_prompts(tasks, builder.planner, config.max_prompt_tokens, config.too_long)
        if not tasks:
            return Round({"planner": [], "executor": []}, [], metrics)
        parts = [self._play(policy, builder, tasks, prompts, generator)]
        if config.replans:
            again, counts = self._play_again(policy, builder, tasks, parts[0], generator)
            parts, metrics = parts + again, metrics | counts
        groups: dict[Role, list[Group]] = {
            "planner": [group for part in parts for group in part.planner],
            "executor": [group for part in parts for group in part.executor],
        }
        metrics |= speed(sum(part.tokens for part in parts), time.perf_counter() - start)
        rewards = {task.id: group.rewards.tolist() for task, group in zip(tasks, groups["planner"], strict=False)}
        trajectories = [with_outcome(trajectory_of(e, e.steps), self.environment) for e in parts[0].episodes]
        return Round(groups, trajectories, metrics, rewards)

    def _play(
        self,
        policy: Policy,
        builder: PromptBuilder,
        tasks: Sequence[Task],
        prompts: Sequence[list[int]],
        generator: torch.Generator,
        before: int = 0,
        sessions: Sequence[Sequence[Session]] = (),
    ) -> Played:
        """Sample and score plans of each task, and their executions.

        Args:
            policy: as for `run`.
            builder: as for `run`.
            tasks: the tasks.
            prompts: prompts of the planner.
            generator: as for `run`.
            before: number of tasks already played in this round, from which the numbering of comparisons continues.
            sessions: sessions of each task's executions, in order; if empty, fresh ones.
        """
        config = self.config
        plans, tokens = self._plan(policy, builder, tasks, prompts, generator)
        copies = config.executor_group_size if config.branching == "trajectory" else 1
        episodes: list[Episode] = []
        for t, (task, written) in enumerate(zip(tasks, plans, strict=True)):
            open_sessions = iter(sessions[t]) if sessions else None
            for i, completion in enumerate(written):
                index = (before + t) * config.planner_group_size + i
                for _ in range(copies):
                    session = next(open_sessions) if open_sessions else None
                    episodes.append(self._start(builder, task, index, completion, session))

        executor, tokens_executing = self._execute(policy, builder, episodes, generator, copies)

        per_plan = [episodes[j : j + copies] for j in range(0, len(episodes), copies)]
        components = [self._plan_components(executions) for executions in per_plan]
        planner: list[Group] = []
        for g, group in enumerate(plans):
            own = slice(g * len(group), (g + 1) * len(group))
            totals = [checked_total(self.planner_reward, c, tasks[g]) for c in components[own]]
            planner.append(make_group(prompts[g], group, totals, components[own], comparison_id=before + g))
            planner[g].alike = equal_plans([executions[0].plan for executions in per_plan[own]])
        return Played(planner, executor, episodes, tokens + tokens_executing)

    def _play_again(
        self,
        policy: Policy,
        builder: PromptBuilder,
        tasks: Sequence[Task],
        first: Played,
        generator: torch.Generator,
    ) -> tuple[list[Played], dict[str, float]]:
        """Plan the tasks again after a failed call, see `RolloutConfig.replans`; return the samples and their metrics.

        The episodes of earlier plans are left unchanged, including the steps after the failure: the rewards of those plans
        and what their executor learns are the same with and without further plans. A further plan continues from the
        first failure, as at test time, where the rest of the earlier plan is not carried out.
        """
        played: list[Played] = []
        groups, left_out = len(tasks), 0
        successes: list[bool] = []
        count = len(first.episodes) // len(tasks)  # episodes per task
        latest = [
            (Failure(task, (), task), first.episodes[t * count : (t + 1) * count]) for t, task in enumerate(tasks)
        ]
        for _ in range(self.config.replans):
            failures: list[Failure] = []
            sessions: list[list[Session]] = []
            for since, episodes in latest:
                found = failures_of(since, episodes, builder, self.config.max_prompt_tokens)
                if not found:
                    continue
                drawn = found[int(torch.randint(len(found), (), generator=generator)) if len(found) > 1 else 0]
                opened = reopened(self.environment, drawn, count)
                if opened is None:
                    left_out += 1
                    continue
                failures.append(drawn)
                sessions.append(opened)
            if not failures:
                break
            left = [failure.task for failure in failures]
            prompts = [builder.planner(task) for task in left]
            part = self._play(policy, builder, left, prompts, generator, groups, sessions)
            groups += len(left)
            played.append(part)
            successes += [is_success(trajectory_of(e, e.steps)) for e in part.episodes]
            latest = [(f, part.episodes[i * count : (i + 1) * count]) for i, f in enumerate(failures)]
        metrics = {"replan/groups": float(groups - len(tasks)), "replan/left_out": float(left_out)}
        if successes:
            metrics["replan/success"] = sum(successes) / len(successes)
        return played, metrics

    def _plan(
        self,
        policy: Policy,
        builder: PromptBuilder,
        tasks: Sequence[Task],
        prompts: Sequence[list[int]],
        generator: torch.Generator,
    ) -> tuple[list[list[Completion]], int]:
        """Return the G_h plans of each task to carry out, and the number of tokens sampled for them."""
        plans = self._ask(
            "plan", policy, builder, tasks, prompts, self.config.planner_group_size, self.config.planner, generator
        )
        return plans, sum(len(completion.ids) for group in plans for completion in group)

    def _ask(self, output: Output, policy: Policy, builder: PromptBuilder, *asked: Any) -> list[list[Completion]]:
        return ask(self.engine, self.grammars, output, policy, builder, *asked)

    def _start(
        self, builder: PromptBuilder, asked: Task, plan_index: int, written: Completion, session: Session | None = None
    ) -> Episode:
        text = builder.decode(written.ids.tolist())
        plan = parse_plan(text)
        task = way_of_plan(asked, plan)
        self._tell(task, plan)
        prompt = builder.executor(task, plan.subtasks[0]) if plan.subtasks else []
        if session is None:
            session = started(self.environment, asked)  # it answers calls of every way
        thought = written.thinking_tokens
        targets = assign_gold(plan, task.foreseeable)
        return Episode(asked, task, plan_index, plan, text, targets, session, prompt, plan_thinking_tokens=thought)

    def _execute(
        self,
        policy: Policy,
        builder: PromptBuilder,
        episodes: list[Episode],
        generator: torch.Generator,
        copies: int,
    ) -> tuple[list[Group], int]:
        """Carry out all episodes step by step; return the executor's groups and the number of tokens sampled."""
        config = self.config
        samples = config.executor_group_size // copies
        sampled: list[tuple[Episode, int, list[int], list[Completion]]] = []
        for k in range(config.max_steps):
            going_on = [e for e in episodes if len(e.plan.subtasks) > k == len(e.steps)]
            for episode in going_on:
                episode.cut = len(episode.prompt) > config.max_prompt_tokens
            active = [episode for episode in going_on if not episode.cut]
            if not active:
                break
            prompts, tasks = [e.prompt for e in active], [e.task for e in active]
            drafts = None
            if samples == 1 and config.executor.temperature == 0:
                drafts = [_draft(builder, e) for e in active]
            outputs = self._ask("action", policy, builder, tasks, prompts, samples, config.executor, generator, drafts)
            for episode, group in zip(active, outputs, strict=True):
                steps = [_step(builder, episode, completion) for completion in group]
                sampled.append((episode, k, episode.prompt, group))
                chosen = int(torch.randint(len(group), (), generator=generator)) if len(group) > 1 else 0
                feedback = self._carry_out(episode, steps[chosen].action)
                episode.samples.append(steps)
                episode.steps.append(replace(steps[chosen], feedback=feedback))
                if k + 1 < min(len(episode.plan.subtasks), config.max_steps):
                    completion = group[chosen]
                    shown, subtask = feedback.text if feedback else "", episode.plan.subtasks[k + 1]
                    ended, ended_by = completion.ended, completion.ended_by
                    follow = builder.next_step(ended, shown, episode.task, subtask, k + 2, ended_by)
                    episode.prompt = [*episode.prompt, *completion.ids.tolist(), *follow]
        if self.planner_reward.reads_probabilities:
            self._find_probabilities(policy, builder, episodes, [(e, k, prompt) for e, k, prompt, _ in sampled])
        # only here: a reward may depend on how the episode ends
        groups = []
        for episode, k, prompt, group in sampled:
            carried_out = scored_of(episode)
            scored = [
                components_of(self.executor_reward, episode.task, step, episode.targets[k], carried_out, k)
                for step in episode.samples[k]
            ]
            totals = [checked_total(self.executor_reward, c, episode.task) for c in scored]
            groups.append(make_group(prompt, group, totals, scored, episode.plan_index * config.max_steps + k))
        return groups, count_tokens(groups)

    def _find_probabilities(
        self,
        policy: Policy,
        builder: PromptBuilder,
        episodes: Sequence[Episode],
        steps: Sequence[tuple[Episode, int, list[int]]],
    ) -> None:
        """Fill in `Episode.call_probabilities` for the gold call that is due at each step, given its prompt."""
        for episode in episodes:
            episode.call_probabilities = {}
        calls = [(e, k, prompt, gold) for e, k, prompt in steps if (gold := e.targets[k].gold) is not None]
        due = [Due(prompt, gold.call) for _, _, prompt, gold in calls]
        found = call_probabilities(policy, builder, due, self.config.executor.temperature)
        for (episode, k, _, _), probability in zip(calls, found, strict=True):
            assert episode.call_probabilities is not None
            episode.call_probabilities[k] = probability

    def _carry_out(self, episode: Episode, action: Action) -> Feedback | None:
        """Return the environment's answer to a call; an error message for an output that is neither call nor answer."""
        self._tell(episode.task, action)
        if action.answer is not None:
            return None
        if action.call is None:
            feedback = Feedback(json.dumps({"error": action.error}), "parse")
        else:
            feedback = answered(episode.session, action.call, episode.task)
        self._tell(episode.task, feedback)
        return feedback

    def _tell(self, task: Task, event: Plan | Action | Feedback) -> None:
        if self.watch is not None:
            self.watch(task, event)

    def _plan_components(self, episodes: list[Episode]) -> dict[str, float | None]:
        """Return R_h's components for one plan, from all its samples."""
        executions = [scored_of(episode) for episode in episodes]
        if self.config.branching == "trajectory" or self.config.executor_group_size == 1:
            return components_of(self.planner_reward, executions[0].task, episodes[0].plan, executions)
        credit = unbiased_credit if self.config.credit == "unbiased" else sampled_mean_credit
        return credit(self.planner_reward, executions[0], episodes[0].samples)


def _draft(builder: PromptBuilder, episode: Episode) -> list[int]:
    """Return the call that the next sub-task describes, with references resolved: what executors mostly write."""
    subtask = episode.plan.subtasks[len(episode.steps)]
    if subtask.tool is None:
        return []

    def put(reference: Reference, text: str) -> Any:
        step = episode.steps[reference.call - 1] if reference.call <= len(episode.steps) else None
        if step is None or step.feedback is None:
            return text
        try:
            return look_up(read_text(step.feedback.text), reference.path)
        except LookupError:
            return text

    call = ToolCall(subtask.tool, replace_references(subtask.parameters, put))
    try:
        return call_ids(builder, [call], episode.task.tools)
    except ConfigError:  # only a guess, and the planner's values are arbitrary
        return []


def _step(builder: PromptBuilder, episode: Episode, written: Completion) -> Step:
    """Return the next step of an episode from the completion written for it."""
    ids, subtask = written.ids.tolist(), episode.plan.subtasks[len(episode.steps)]
    action = read_action(builder, ids, episode.task.tools)
    return Step(subtask, builder.decode(ids), action, thinking_tokens=written.thinking_tokens)
