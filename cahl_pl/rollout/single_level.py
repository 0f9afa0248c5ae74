"""Rollouts of one policy without a planner: the executor's adapter reads the request and calls tools turn by turn.

This is the Single-level baseline of the paper, which systems such as ToolRL train, and, with an executor that was trained
alongside a planner, LowOnly.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from cahl_pl.engines.base import Completion, Engine
from cahl_pl.environments.base import Environment, Session, answered, started
from cahl_pl.grammars import Grammars
from cahl_pl.policy.policy import Policy
from cahl_pl.prompts import PromptBuilder
from cahl_pl.rewards.base import BaseTurnReward, checked_total, components_of
from cahl_pl.rewards.ways import way_of_calls
from cahl_pl.rollout.asking import ask
from cahl_pl.rollout.calls import read_turn
from cahl_pl.rollout.config import RolloutConfig
from cahl_pl.rollout.episode import Round, Watch, count_tokens, make_group, speed
from cahl_pl.rollout.gold import is_on_track, next_calls
from cahl_pl.rollout.prompt_limit import fit_prompts
from cahl_pl.rollout.scoring import with_outcome
from cahl_pl.types import Action, Feedback, Group, Plan, Step, SubTask, Task, ToolCall, Trajectory, Turn


@dataclass
class _Episode:
    task: Task
    session: Session
    prompt: list[int]
    calls: list[ToolCall] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    done: bool = False
    cut: bool = False


class SingleLevelRollout:
    """Rollout of an executor that works alone: samples and scores episodes.

    At each turn G_l outputs are sampled from one prompt; one of them, drawn uniformly, is carried out and continues the
    episode, until it is an answer in text or, with `after_error: stop`, a mistake (`is_on_track`). An output is
    scored against the gold calls that come next (`next_calls`).

    Args:
        engine: samples tokens.
        environment: answers calls.
        reward: reward of an output.
        config: `executor_group_size`, `executor`, `max_steps` (here: turns), `after_error` and `max_prompt_tokens` are used.

    Attributes:
        watch: observer of what is carried out, or None.
        grammars: grammars of the outputs, or None.
    """

    def __init__(self, engine: Engine, environment: Environment, reward: BaseTurnReward, config: RolloutConfig) -> None:
        self.watch: Watch | None = None
        self.grammars = Grammars(config.max_steps) if config.constrained else None
        self.engine = engine
        self.environment = environment
        self.reward = reward
        self.config = config
        reward.environment = environment

    def run(self, policy: Policy, builder: PromptBuilder, tasks: Sequence[Task], generator: torch.Generator) -> Round:
        """Sample one training round.

        Args:
            policy: base and adapters; not changed.
            builder: prompt builder.
            tasks: the requests of the round.
            generator: the only source of randomness.

        Returns:
            The executor's groups with rewards, and one episode per task.
        """
        config, start = self.config, time.perf_counter()
        tasks, prompts, metrics = fit_prompts(tasks, builder.single, config.max_prompt_tokens, config.too_long)
        episodes = [
            _Episode(task, started(self.environment, task), prompt) for task, prompt in zip(tasks, prompts, strict=True)
        ]
        if not episodes:
            return Round({"planner": [], "executor": []}, [], metrics)
        groups: list[Group] = []
        rewards: dict[str, list[float]] = {episode.task.id: [] for episode in episodes}
        for number in range(1, config.max_steps + 1):
            going_on = [e for e in episodes if not e.done]
            for episode in going_on:
                episode.cut = len(episode.prompt) > config.max_prompt_tokens
            active = [episode for episode in going_on if not episode.cut]
            if not active:
                break
            asked, of = [e.task for e in active], [e.prompt for e in active]
            samples = config.executor_group_size
            outputs = ask(
                self.engine, self.grammars, "turn", policy, builder, asked, of, samples, config.executor, generator
            )
            for episode, group in zip(active, outputs, strict=True):
                groups.append(self._turn(builder, episode, group, number, len(groups), generator))
                rewards[episode.task.id] += groups[-1].rewards.tolist()
        metrics |= speed(count_tokens(groups), time.perf_counter() - start)
        trajectories = [
            with_outcome(
                Trajectory(way_of_calls(e.task, e.calls), "", Plan(), tuple(e.steps), cut=e.cut), self.environment
            )
            for e in episodes
        ]
        return Round({"planner": [], "executor": groups}, trajectories, metrics, rewards)

    def _turn(
        self,
        builder: PromptBuilder,
        episode: _Episode,
        sampled: list[Completion],
        number: int,
        comparison_id: int,
        generator: torch.Generator,
    ) -> Group:
        """Score the samples of a turn, and carry out one of them."""
        texts = [builder.decode(completion.ids.tolist()) for completion in sampled]
        turns = [read_turn(builder, completion.ids.tolist(), episode.task.tools) for completion in sampled]
        tasks = [way_of_calls(episode.task, [*episode.calls, *turn.calls]) for turn in turns]
        scored = [
            components_of(self.reward, task, turn, next_calls(task, episode.calls), task)
            for turn, task in zip(turns, tasks, strict=True)
        ]
        totals = [checked_total(self.reward, components, episode.task) for components in scored]
        group = make_group(episode.prompt, sampled, totals, scored, comparison_id)
        chosen = int(torch.randint(len(sampled), (), generator=generator)) if len(sampled) > 1 else 0
        steps = self._carry_out(episode, turns[chosen], texts[chosen], number, sampled[chosen].thinking_tokens)
        episode.steps += steps
        episode.calls += turns[chosen].calls
        episode.done = turns[chosen].answer is not None
        if self.config.after_error == "stop":
            episode.done |= turns[chosen].error is not None or not is_on_track(tasks[chosen], episode.calls)
        answers = [step.feedback.text for step in steps if step.feedback is not None]
        follow = builder.next_turn(sampled[chosen].ended, answers, sampled[chosen].ended_by)
        episode.prompt = [*episode.prompt, *sampled[chosen].ids.tolist(), *follow]
        return group

    def _carry_out(self, episode: _Episode, turn: Turn, text: str, number: int, thinking_tokens: int) -> list[Step]:
        """Return one step per call, the first with the turn's text; one step for an answer or an unreadable output."""
        if turn.calls:
            actions = [Action(call=call, well_formed=turn.well_formed) for call in turn.calls]
        else:
            error = turn.error if turn.answer is None else None
            actions = [Action(answer=turn.answer, well_formed=turn.well_formed, error=error)]
        steps = []
        for i, action in enumerate(actions):
            self._tell(episode.task, action)
            feedback = None
            if action.call is not None:
                feedback = answered(episode.session, action.call, episode.task)
            elif action.answer is None:
                feedback = Feedback(json.dumps({"error": action.error}), "parse")
            if feedback is not None:
                self._tell(episode.task, feedback)
            subtask, first = SubTask(f"turn {number}", None), i == 0
            steps.append(Step(subtask, text if first else "", action, feedback, thinking_tokens if first else 0))
        return steps

    def _tell(self, task: Task, event: Action | Feedback) -> None:
        if self.watch is not None:
            self.watch(task, event)
