"""Episodes at test time with votes among plans or with further plans."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import torch

from cahl_pl.engines.base import Completion, Engine
from cahl_pl.environments.base import Environment
from cahl_pl.parsing import parse_plan
from cahl_pl.policy.policy import Policy
from cahl_pl.prompts import PromptBuilder
from cahl_pl.rewards.base import BaseExecutorReward, BasePlannerReward
from cahl_pl.rewards.ways import way_of_calls
from cahl_pl.rollout.config import InferenceConfig, RolloutConfig
from cahl_pl.rollout.episode import Episode
from cahl_pl.rollout.left_over import after, has_failed
from cahl_pl.rollout.two_level import Rollout
from cahl_pl.schema import canonical, coerce_call
from cahl_pl.schema.references import references_in
from cahl_pl.types import Action, Feedback, Group, Plan, Task, ToolCall


class VotingRollout(Rollout):
    """Rollout that carries out, for each request, the plan that most drawn-up plans agree on.

    Only the winner is carried out: no tool runs for a plan that was not chosen. Unreadable plans have no vote; on a tie
    the earliest plan wins.
    """

    def __init__(
        self,
        engine: Engine,
        environment: Environment,
        planner_reward: BasePlannerReward,
        executor_reward: BaseExecutorReward,
        config: RolloutConfig,
        inference: InferenceConfig,
    ) -> None:
        super().__init__(engine, environment, planner_reward, executor_reward, config)
        self.inference = inference

    def _plan(
        self,
        policy: Policy,
        builder: PromptBuilder,
        tasks: Sequence[Task],
        prompts: Sequence[list[int]],
        generator: torch.Generator,
    ) -> tuple[list[list[Completion]], int]:
        drawn: list[list[Completion]] = [[] for _ in tasks]
        votes: list[Counter[str]] = [Counter() for _ in tasks]
        first: list[dict[str, Completion]] = [{} for _ in tasks]
        sampling = self.config.planner
        for number in range(self.inference.plans):
            if number == 1:
                sampling = replace(sampling, temperature=self.inference.temperature, top_p=1.0)
            still_open = [i for i in range(len(tasks)) if max(votes[i].values(), default=0) < self.inference.agree]
            if not still_open:
                break
            asked, of = [tasks[i] for i in still_open], [prompts[i] for i in still_open]
            outputs = self._ask("plan", policy, builder, asked, of, 1, sampling, generator)
            for i, (completion,) in zip(still_open, outputs, strict=True):
                drawn[i].append(completion)
                plan = parse_plan(builder.decode(completion.ids.tolist()))
                if plan.error is None:
                    key = plan_key(plan, tasks[i])
                    votes[i][key] += 1
                    first[i].setdefault(key, completion)
        # most_common keeps ties in the order of first appearance
        chosen = [first[i][votes[i].most_common(1)[0][0]] if votes[i] else drawn[i][0] for i in range(len(tasks))]
        return [[completion] for completion in chosen], sum(len(c.ids) for group in drawn for c in group)


class ReplanningRollout(VotingRollout):
    """Rollout that asks the planner again when a call has failed, at most `inference.replans` times per request.

    The dialogue of the next prompt holds the calls made so far and their answers, and "$1" is then the first sub-task of the
    new plan. It is carried out in the same session, so that changes by earlier calls persist. The episode joins
    all plans and steps, including failed calls. An output without a readable call is no reason to ask again: there would be
    nothing to show.
    """

    def _execute(
        self,
        policy: Policy,
        builder: PromptBuilder,
        episodes: list[Episode],
        generator: torch.Generator,
        copies: int,
    ) -> tuple[list[Group], int]:
        self._left = self.inference.replans
        groups, tokens = super()._execute(policy, builder, episodes, generator, copies)
        latest = list(episodes)  # execution of each episode's last plan
        while self._left:
            self._left -= 1
            asked = {
                i: after(episodes[i].asked, episodes[i].steps)  # another plan may take another way
                for i, part in enumerate(latest)
                if part.steps and has_failed(part.steps[-1])
            }
            prompts = {i: builder.planner(task) for i, task in asked.items()}
            kept = [i for i, prompt in prompts.items() if len(prompt) <= self.config.max_prompt_tokens]
            for i in asked:
                episodes[i].cut = i not in kept
            if not kept:
                break
            plans, planned = self._plan(
                policy, builder, [asked[i] for i in kept], [prompts[i] for i in kept], generator
            )
            for i, (completion,) in zip(kept, plans, strict=True):
                session = episodes[i].session
                latest[i] = self._start(builder, asked[i], episodes[i].plan_index, completion, session)
            more, executed = super()._execute(policy, builder, [latest[i] for i in kept], generator, copies)
            groups, tokens = groups + more, tokens + planned + executed
            for i in kept:
                _append(episodes[i], latest[i])
        return groups, tokens

    def _carry_out(self, episode: Episode, action: Action) -> Feedback | None:
        feedback = super()._carry_out(episode, action)
        if self._left and action.call is not None and feedback is not None and feedback.error is not None:
            episode.plan = Plan(episode.plan.subtasks[: len(episode.steps) + 1])  # the rest is planned again
        return feedback


def _append(episode: Episode, part: Episode) -> None:
    """Append the next plan and its execution to the episode."""
    episode.plan_text += "\n\n" + part.plan_text
    episode.plan_thinking_tokens += part.plan_thinking_tokens
    episode.plan = Plan(episode.plan.subtasks + part.plan.subtasks)
    episode.steps += part.steps
    episode.samples += part.samples
    episode.cut = part.cut
    calls = [step.action.call for step in episode.steps if step.action.call is not None]
    episode.task = way_of_calls(episode.asked, calls)


def plan_key(plan: Plan, task: Task) -> str:
    """Return a key, equal for plans that ask for the same calls; order counts only if one uses another's result."""
    calls = [coerce_call(ToolCall(s.tool, s.parameters), task.tools) for s in plan.subtasks if s.tool is not None]
    keys = [canonical([call.name, dict(call.arguments)]) for call in calls]
    ordered = any(True for call in calls for _ in references_in(call.arguments))
    return "\n".join(keys if ordered else sorted(keys))
