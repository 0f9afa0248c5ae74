"""Replies to conversations: the episode is played from its start to the next tool call, or to its end."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeAlias

import torch

from cahl_pl.engines.base import Completion, Sampling
from cahl_pl.environments.base import Environment
from cahl_pl.errors import ConfigError
from cahl_pl.parsing import format_plan, parse_plan
from cahl_pl.policy.policy import Policy
from cahl_pl.prompts import PromptBuilder
from cahl_pl.python_tools.results import json_text
from cahl_pl.rewards.executor import ExecutorReward
from cahl_pl.rewards.planner import PlannerReward
from cahl_pl.rollout.config import InferenceConfig, RolloutConfig
from cahl_pl.rollout.evaluation import make_player
from cahl_pl.rollout.two_level import Rollout
from cahl_pl.serving.asked import Asked
from cahl_pl.serving.conversation import Conversation, read_conversation, shown
from cahl_pl.serving.errors import ApiError, invalid
from cahl_pl.serving.memory import Memory
from cahl_pl.serving.replay import (
    ClientEnvironment,
    DivergedError,
    OutOfTokensError,
    PausedError,
    Progress,
    ReplayEngine,
)
from cahl_pl.serving.shared_engine import Order, SharedEngine
from cahl_pl.types import Action, Feedback, Plan, Task, ToolCall, ToolSpec, Trajectory

NO_PLAN = "The planner wrote no plan that can be read."
"""Reply to a request whose plan is unreadable; the text is in the reasoning."""


NO_RESULT = "No step of the plan has brought a result."
"""Reply when there is nothing to report: no answer in text, and no readable call."""


class Text(NamedTuple):
    """Part of a reply: reasoning or content."""

    kind: Literal["reasoning", "content"]
    text: str


class Call(NamedTuple):
    """Call for the client to carry out."""

    id: str
    call: ToolCall


class End(NamedTuple):
    """End of a reply."""

    reason: Literal["tool_calls", "stop", "length"]
    prompt_tokens: int
    tokens: int


Part: TypeAlias = Text | Call | End


@dataclass
class Pair:
    """Trained pair, ready for requests.

    Attributes:
        engine: engine that samples for all conversations.
        builder: prompt builder; many threads may use its tokenizer.
        rollout: limits of an episode.
        inference: settings of episodes.
        single_level: whether there is no planner.
        environment: carries out the calls here; None: the clients do.
        tools: tools of that environment, with which clients bring none.
        memory: memory of conversations that may continue.
    """

    engine: SharedEngine
    builder: PromptBuilder
    rollout: RolloutConfig
    inference: InferenceConfig
    single_level: bool
    environment: Environment | None
    memory: Memory
    tools: tuple[ToolSpec, ...] = ()

    @property
    def policy(self) -> Policy:
        """The base and its adapters, or a tokenizer alone."""
        return self.engine.policy


class Reply:
    """Next reply of a conversation, made in its own thread.

    Args:
        pair: pair that replies.
        asked: the request.
        tell: receives each part as soon as it is available.

    Raises:
        ApiError: the dialogue cannot be used.
    """

    def __init__(self, pair: Pair, asked: Asked, tell: Callable[[Part], None]) -> None:
        self.pair = pair
        self.asked = asked
        self.tell = _Cut(asked.stop, tell) if asked.stop else tell
        if pair.environment is not None:
            asked = _with_tools(asked, pair.tools)
        self.conversation = read_conversation(asked)
        self._cancelled = threading.Event()
        self._waiting: Future[Completion] | None = None

    def cancel(self) -> None:
        """Stop the reply: nothing more is sampled, and samples in progress are not waited for."""
        self._cancelled.set()
        if self._waiting is not None:
            self._waiting.cancel()

    def make(self) -> None:
        """Make the reply.

        Raises:
            ApiError: it cannot be made.
            CancelledError: it is no longer needed.
        """
        conversation = self.conversation
        try:
            if conversation.is_ours:
                try:
                    self._play(conversation)
                    return
                except DivergedError:
                    pass
            # calls of other origin: they are dialogue, and what is left to do is planned anew
            self._play(replace(conversation, task=conversation.whole, made=(), plans=(), mark=""))
        except ConfigError as error:  # from the server behind, or the base's length limit
            raise ApiError(502, str(error), "engine_failed") from error

    def _take(self, order: Order) -> Future[Completion]:
        if self._cancelled.is_set():
            raise CancelledError
        self._waiting = future = self.pair.engine.take(order)
        if self._cancelled.is_set():  # in the meantime
            future.cancel()
        return future

    def _play(self, conversation: Conversation) -> None:
        pair, progress = self.pair, Progress(conversation)
        mark = conversation.mark or secrets.token_hex(8)
        engine = ReplayEngine(
            progress, pair.memory, self._take, pair.builder, mark, self.asked.seed, self.asked.max_tokens
        )
        environment = pair.environment or ClientEnvironment(progress)
        training = Rollout(engine, environment, PlannerReward(), ExecutorReward(), pair.rollout)
        player = make_player(training, pair.inference, pair.single_level, environment)
        player.config = self._sampling(player.config)
        listener = _Listener(progress, self.tell, pair.environment is not None)
        player.watch = listener
        reason: Literal["tool_calls", "stop", "length"] = "stop"
        try:
            played = player.run(pair.policy, pair.builder, [conversation.task], torch.Generator())
            if not played.trajectories:
                raise self._too_long()
            if not progress.caught_up:
                raise DivergedError
            reason = listener.finish(played.trajectories[0], pair.single_level)
        except PausedError as pause:
            listener.flush()
            self.tell(Call(f"call_{mark}{secrets.token_hex(4)}", pause.call))
            reason = "tool_calls"
        except OutOfTokensError:
            reason = "length"
        self.tell(End(reason, progress.prompt_tokens, progress.tokens))

    def _sampling(self, config: RolloutConfig) -> RolloutConfig:
        """Return the shape of the episode with the client's sampling, where too long a prompt is an error."""
        temperature, top_p = self.asked.temperature, self.asked.top_p
        return replace(
            config,
            too_long="drop" if config.too_long == "fail" else config.too_long,
            planner=Sampling(temperature, top_p, config.planner.max_new_tokens),
            executor=Sampling(temperature, top_p, config.executor.max_new_tokens),
        )

    def _too_long(self) -> ApiError:
        most = self.pair.rollout.max_prompt_tokens
        return ApiError(
            400,
            f"messages and tools have more than the {most} tokens that a prompt may have here: shorten them",
            "context_length_exceeded",
            "messages",
        )


def _with_tools(asked: Asked, tools: tuple[ToolSpec, ...]) -> Asked:
    """Return the request with the tools that are run here.

    Raises:
        ApiError: the client brings its own tools or calls, none of which it would carry out.
    """
    if asked.tools:
        raise invalid("the calls are carried out here, by tools of this server: leave tools out", "tools")
    if asked.said[-1].role != "user":
        raise invalid("the calls are carried out here: the last message must be the user's", "messages")
    return replace(asked, tools=tools)


class _Cut:
    """Filter that ends content at the first stop sequence; it holds content back until the end, as one may span parts."""

    def __init__(self, stop: tuple[str, ...], tell: Callable[[Part], None]) -> None:
        self._stop = stop
        self._tell = tell
        self._said = ""

    def __call__(self, part: Part) -> None:
        if isinstance(part, Text) and part.kind == "content":
            self._said += part.text
            return
        if not isinstance(part, Text) and self._said:
            ends = [self._said.find(text) for text in self._stop if text in self._said]
            text, self._said = self._said[: min(ends, default=len(self._said))], ""
            self._tell(Text("content", text))
        self._tell(part)


class _Listener:
    """Observer that reports news of an episode to its client, once it is clear that the episode is the client's."""

    def __init__(self, progress: Progress, tell: Callable[[Part], None], calls_here: bool) -> None:
        self.progress = progress
        self.tell = tell
        self.calls_here = calls_here
        self._answered = False
        self._held: list[Text] = []

    def __call__(self, task: Task, event: Plan | Action | Feedback) -> None:
        if isinstance(event, Plan):
            self._held += self._plan(event)
        elif isinstance(event, Action) and event.answer is not None and self.progress.caught_up:
            self._held.append(Text("content", event.answer if not self._answered else f"\n{event.answer}"))
            self._answered = True
        elif self.calls_here and isinstance(event, Action) and event.call is not None:
            self._held.append(Text("reasoning", f"\ncall {event.call.name} {json_text(event.call.arguments)}"))
        elif self.calls_here and isinstance(event, Feedback):
            self._held.append(Text("reasoning", f"\nresult {event.text}"))
        if self.progress.caught_up:
            self.flush()

    def flush(self) -> None:
        """Send what has been held back."""
        while self._held:
            self.tell(self._held.pop(0))

    def _plan(self, plan: Plan) -> list[Text]:
        written, self.progress.planned = self.progress.planned, []
        if not written:  # from an earlier reply
            return []
        of_it = (text for text in written if parse_plan(text) == plan)
        return [Text("reasoning", next(of_it, format_plan(plan.subtasks) if plan.subtasks else written[-1]))]

    def finish(self, episode: Trajectory, single_level: bool) -> Literal["tool_calls", "stop", "length"]:
        """Send the remaining content at the end of an episode; return why it has ended."""
        steps = episode.steps
        if not single_level and episode.plan.error is not None:
            self.tell(Text("content", NO_PLAN))
            return "stop"
        if not self._answered:
            self.tell(Text("content", _results(episode)))
        if single_level:
            return "stop" if steps and steps[-1].action.answer is not None else "length"
        return "stop" if len(steps) >= len(episode.plan.subtasks) else "length"


def _results(episode: Trajectory) -> str:
    """Return the results of an episode's calls, for a plan that ends without an answer in text."""
    found = [
        (step.subtask.instruction, shown(step.feedback.text))
        for step in episode.steps
        if step.feedback is not None and step.action.call is not None
    ]
    if not found:
        return NO_RESULT
    if len(found) == 1:
        return found[0][1]
    return "\n".join(f"{instruction}: {result}" for instruction, result in found)
