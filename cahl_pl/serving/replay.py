"""Engine and session that bring an episode to its client's position, without sampling or calling anything again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import torch

from cahl_pl.engines.base import Completion, Engine, Sampling
from cahl_pl.environments.base import Environment, LeavesEpisode, Session, refusal
from cahl_pl.policy.policy import Policy
from cahl_pl.prompts import PromptBuilder
from cahl_pl.rollout.calls import call_ids, read_action
from cahl_pl.schema import call_key, coerce_call, find_problems
from cahl_pl.serving.conversation import Conversation
from cahl_pl.serving.memory import Memory
from cahl_pl.serving.shared_engine import Order
from cahl_pl.types import Feedback, Role, Task, ToolCall


class PausedError(LeavesEpisode):
    """Signal that the episode has reached a call for the client to carry out."""

    def __init__(self, call: ToolCall) -> None:
        super().__init__(call.name)
        self.call = call


class DivergedError(LeavesEpisode):
    """Signal that the client's calls are not those of one of our episodes."""


class OutOfTokensError(Exception):
    """Signal that the reply has reached its token limit."""


class Progress:
    """Progress of an episode.

    Attributes:
        conversation: the client's conversation.
        position: number of its calls that have been answered.
        prompt_tokens: prompt tokens read for this reply.
        tokens: tokens sampled for this reply.
        planned: plans written for this reply, as text.
    """

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self.position = 0
        self.prompt_tokens = 0
        self.tokens = 0
        self.planned: list[str] = []

    @property
    def caught_up(self) -> bool:
        """Return whether all of the client's calls have been replayed."""
        return self.position == len(self.conversation.made)


class ClientEnvironment(Environment):
    """Environment whose calls the client carries out: those it has made are answered, then the episode pauses.

    Calls that violate their schema are answered here, as in every environment: no client gets one.
    """

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def start(self, task: Task) -> Session:
        """Return the session."""
        return _ClientSession(self.progress, task)


class _ClientSession(Session):
    def __init__(self, progress: Progress, task: Task) -> None:
        self._progress = progress
        self._task = task

    def call(self, call: ToolCall) -> Feedback:
        refused = refusal(call, self._task)
        if refused is not None:
            return refused
        progress = self._progress
        if progress.caught_up:
            raise PausedError(coerce_call(call, self._task.tools))
        made = progress.conversation.made[progress.position]
        if call_key(made.call, self._task.tools) != call_key(call, self._task.tools):
            raise DivergedError
        progress.position += 1
        return made.feedback


class ReplayEngine(Engine):
    """Engine of one reply: earlier completions come from memory, or from what the client sends back.

    If neither has them, they are sampled again. An output that makes a different call from the client's is replaced by
    that call, if the episode's plan is known to be the client's.

    Args:
        progress: progress of the episode.
        memory: earlier samples.
        take: takes an order to sample.
        builder: prompt builder.
        mark: mark of the episode.
        seed: seed of the sampling.
        max_tokens: maximum tokens of this reply.
    """

    def __init__(
        self,
        progress: Progress,
        memory: Memory,
        take: Callable[[Order], Future[Completion]],
        builder: PromptBuilder,
        mark: str,
        seed: int | None,
        max_tokens: int,
    ) -> None:
        self.progress = progress
        self.memory = memory
        self.take = take
        self.builder = builder
        self.mark = mark
        self.seed = seed
        self.max_tokens = max_tokens
        self._numbers: Counter[Any] = Counter()
        self._plans: dict[tuple[int, ...], str] = {}
        self._knows_plan = False

    def generate(
        self,
        policy: Policy,
        role: Role,
        prompts: Sequence[Sequence[int]],
        num_samples: int,
        sampling: Sampling,
        generator: torch.Generator,
    ) -> list[list[Completion]]:
        """See `Engine.generate`: there is one prompt, and one sample of it."""
        return [[self._completion(Order(role, tuple(prompt), sampling))] for prompt in prompts]

    def generate_from_drafts(
        self,
        policy: Policy,
        role: Role,
        prompts: Sequence[Sequence[int]],
        drafts: Sequence[Sequence[int]],
        sampling: Sampling,
        generator: torch.Generator,
    ) -> list[list[Completion]]:
        """See `Engine.generate_from_drafts`."""
        orders = [
            Order(role, tuple(prompt), sampling, tuple(draft)) for prompt, draft in zip(prompts, drafts, strict=True)
        ]
        return [[self._completion(order)] for order in orders]

    def generate_within(
        self,
        policy: Policy,
        role: Role,
        prompts: Sequence[Sequence[int]],
        drafts: Sequence[Sequence[int]],
        grammars: Sequence[str],
        sampling: Sampling,
        generator: torch.Generator,
        num_samples: int = 1,
    ) -> list[list[Completion]]:
        """See `Engine.generate_within`: there is one prompt, and one sample of it."""
        orders = [
            Order(role, tuple(prompt), sampling, tuple(draft), grammar)
            for prompt, draft, grammar in zip(prompts, drafts, grammars, strict=True)
        ]
        return [[self._completion(order)] for order in orders]

    def _completion(self, order: Order) -> Completion:
        key = (order.role, order.prompt)
        number = self._numbers[key]
        self._numbers[key] += 1
        if self.progress.conversation.made:
            if order.role == "planner" and (text := self._plan_sent_back(order.prompt)) is not None:
                self._knows_plan = True
                return self._of_ids(self.builder.completion(text))
            found = self.memory.get(self.progress.conversation.mark, order.role, order.prompt, number)
            if found is not None:
                self._knows_plan |= order.role == "planner"
                return self._as_made(order, found)
        completion = self._as_made(order, self._sampled(order))
        self.memory.put(self.mark, order.role, order.prompt, number, completion)
        return completion

    def _plan_sent_back(self, prompt: tuple[int, ...]) -> str | None:
        """Return the client's plan for a prompt of the planner: plans are in the order of the prompts."""
        if prompt not in self._plans:
            sent = self.progress.conversation.plans
            if len(self._plans) >= len(sent):
                return None
            self._plans[prompt] = sent[len(self._plans)]
        return self._plans[prompt]

    def _sampled(self, order: Order) -> Completion:
        progress = self.progress
        left = self.max_tokens - progress.tokens
        if left < 1:
            raise OutOfTokensError
        sampling = replace(order.sampling, max_new_tokens=min(left, order.sampling.max_new_tokens))
        completion = self.take(replace(order, sampling=sampling, seed=self.seed)).result()
        progress.prompt_tokens += len(order.prompt)
        progress.tokens += len(completion.ids)
        if not completion.ended and sampling.max_new_tokens < order.sampling.max_new_tokens:
            raise OutOfTokensError
        if order.role == "planner":
            progress.planned.append(self.builder.decode(completion.ids.tolist()))
        return completion

    def _as_made(self, order: Order, completion: Completion) -> Completion:
        """Return an executor's output, or the call that the client made instead."""
        progress = self.progress
        if order.role == "planner" or progress.caught_up:
            return completion
        tools = progress.conversation.task.tools
        call = read_action(self.builder, completion.ids.tolist(), tools).call
        if call is None or find_problems(call, tools):
            return completion  # the client has not seen this one
        made = progress.conversation.made[progress.position].call
        if call_key(made, tools) == call_key(call, tools):
            return completion
        if not self._knows_plan or find_problems(made, tools):
            raise DivergedError
        return self._of_ids(call_ids(self.builder, [made], tools))

    def _of_ids(self, ids: Sequence[int]) -> Completion:
        return Completion(torch.tensor(ids), torch.zeros(len(ids)), True)
