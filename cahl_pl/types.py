"""The values that a training step passes along, in the order in which they appear.

`Task` -> `Plan` (G_h of them) -> `Step`s with `ToolCall` and `Feedback` (G_l of each) -> `Trajectory` -> `RolloutBatch`.
Nothing here depends on models, files or Lightning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

if TYPE_CHECKING:  # code that only passes on tasks and calls, such as a tool's worker process, needs no torch
    from torch import Tensor

Role: TypeAlias = Literal["planner", "executor"]
"""The two policies of the paper: `planner` is the high-level one, pi_h, `executor` the low-level one, pi_l."""

ROLES: tuple[Role, Role] = ("planner", "executor")

JSONSchema: TypeAlias = Mapping[str, Any]

FeedbackError: TypeAlias = Literal[
    "parse",  # the output contains no call that can be read
    "unknown_tool",  # the call names a tool that is not offered
    "missing",  # a required parameter is missing
    "undeclared",  # a parameter is not in the tool's schema
    "type",  # a value does not fit its declared type
    "unmatched",  # a recorded environment has no answer stored for this call
    "tool",  # the tool itself answered with an error
]
"""Why a call failed. All but `tool` count as invalid calls."""


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool as it is offered to the model.

    Attributes:
        name: unique among the tools of a task.
        description: what the tool does, for the model to read.
        parameters: JSON Schema of type `object`; `properties` and `required` as usual.
    """

    name: str
    description: str
    parameters: JSONSchema


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call, as written by a model: a tool's name and its arguments."""

    name: str
    arguments: Mapping[str, Any]


class _Unknown(Enum):  # an enum member is one object, also after a copy and in another process
    RESULT = "no result is stored"


NO_RESULT: Final = _Unknown.RESULT
"""The result of a gold call for which none is stored. None would be a stored result: tools answer null."""


@dataclass(frozen=True, slots=True)
class GoldCall:
    """One reference call a*_i of a task.

    Attributes:
        name: the tool.
        arguments: the values that the executor has to write, every reference resolved.
        result: what the tool answered when the trajectory was recorded; `NO_RESULT` where nothing is stored.
        references: parameter -> what the planner writes instead of the value, which it cannot know: `"$i"`, the result of
            the i-th gold call (from 1), or a part of it, `"$i.city"`, `"$i.items[0].id"`; or a list or an object with such
            references in it (`cahl_pl.schema.references`).
        instruction: the words by which a plan in words asks for the call, with results of earlier calls as references;
            empty if none are given.
    """

    name: str
    arguments: Mapping[str, Any]
    result: Any = NO_RESULT
    references: Mapping[str, Any] = field(default_factory=dict)
    instruction: str = ""

    @property
    def call(self) -> ToolCall:
        """The call as the executor writes it."""
        return ToolCall(self.name, self.arguments)

    @property
    def planned(self) -> ToolCall:
        """The call as the planner writes it: with references to the results of earlier calls."""
        return ToolCall(self.name, {**self.arguments, **self.references})


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outcome by which a request's fulfilment can be checked, whichever calls lead to it; it has no reference calls.

    Attributes:
        results: what the user wants to know, as tools answer it; an error that a correct call meets counts too.
        state: the environment's state afterwards; None if the request changes none.

    A request that needs no tool has neither.
    """

    results: tuple[Any, ...] = ()
    state: Mapping[str, Any] | None = None

    @property
    def needs_tools(self) -> bool:
        """Return whether there is anything to check."""
        return bool(self.results) or self.state is not None


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of the dialogue so far. A `tool` message is the environment's answer."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str


@dataclass(frozen=True, slots=True)
class Task:
    """One request q with its dialogue H, its tools T and its gold calls.

    Attributes:
        id: unique within a dataset, stable between runs.
        messages: the dialogue; the last message is the request (or a tool's answer to continue from).
        tools: the tools offered, distractors among them.
        gold: the reference calls; empty when the request needs no tool.
        ordered: whether the order of the gold calls matters; for parallel calls it does not. If calls have references, these
            determine what comes first, and no other order is required; if none has, all keep their order.
        answer: a reference answer in text, for requests that need no tool.
        state: initial state of an executable environment.
        outcome: the outcome by which its fulfilment can be checked; None if none is given.
        alternatives: other lists of gold calls, each as correct as `gold`: a plan or calls are scored against the nearest
            list (`cahl_pl.rewards.ways`).
        foreseen: number of gold calls, from the first on, that can be planned before any answer is seen; None: all. The
            others become necessary through earlier calls' errors, so that a further plan has them (`rollout.left_over`).
        tags: labels to group results by, such as `{"kind": "nested"}`.
    """

    id: str
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...]
    gold: tuple[GoldCall, ...] = ()
    ordered: bool = False
    answer: str | None = None
    state: Mapping[str, Any] | None = None
    outcome: Outcome | None = None
    alternatives: tuple[tuple[GoldCall, ...], ...] = ()
    foreseen: int | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def ways(self) -> tuple[tuple[GoldCall, ...], ...]:
        """All correct lists of gold calls, `gold` first."""
        return (self.gold, *self.alternatives)

    @property
    def foreseeable(self) -> Task:
        """The part of the task that a plan made before any answer is seen can cover: what it is scored against."""
        return self if self.foreseen is None else replace(self, gold=self.gold[: self.foreseen], foreseen=None)

    @property
    def request(self) -> str:
        """The text of the last message."""
        return self.messages[-1].content

    def tool(self, name: str) -> ToolSpec | None:
        """Return the offered tool of that name, or None."""
        return next((tool for tool in self.tools if tool.name == name), None)


@dataclass(frozen=True, slots=True)
class SubTask:
    """One step z_k of a plan: an instruction, the chosen tool (None: answer in text) and its parameter mapping.

    A parameter's value may be, or contain, `"$i"`: the result of the plan's i-th sub-task, counted from 1, or a part of it,
    such as `"$i.city"` or `"$i[0].id"`.
    """

    instruction: str
    tool: str | None
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """A parsed plan Z. `error` says in a few words why the text is not a plan; then `subtasks` is empty."""

    subtasks: tuple[SubTask, ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Action:
    """A parsed executor output y_k: a call, or an answer in text, or neither (`error` says why).

    Attributes:
        call: the tool call, if one can be read.
        answer: the text between the answer tags, if the output is an answer.
        well_formed: whether the required tags are there, once each, in order, with nothing outside them (R_l,form).
        error: why nothing could be read; None if there is a call or an answer.
    """

    call: ToolCall | None = None
    answer: str | None = None
    well_formed: bool = False
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """A parsed output of the executor when it works without a planner: calls, or an answer in text, or neither.

    Attributes:
        calls: what it calls, in order; independent of one another, since none sees another's result.
        answer: the text between the answer tags, if the output is an answer: the episode then ends.
        well_formed: whether calls or one answer are in their tags, with nothing outside them.
        thought: whether text in `<think>` tags comes before them.
        error: why nothing could be read; None if there are calls or an answer.
    """

    calls: tuple[ToolCall, ...] = ()
    answer: str | None = None
    well_formed: bool = False
    thought: bool = False
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Feedback:
    """Answer of the environment to a call: f_k.

    Attributes:
        text: what the model reads.
        error: why the call failed; None when it succeeded.
    """

    text: str
    error: FeedbackError | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One executed step of a trajectory: the sub-task, the text written for it, its parsed form, and the feedback.

    `thinking_tokens` counts the text's tokens of thought.
    """

    subtask: SubTask
    text: str
    action: Action
    feedback: Feedback | None = None
    thinking_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One plan of one task, and one execution of it.

    Attributes:
        task: the task.
        plan_text: what the planner wrote; empty if there was none.
        plan: the same, parsed.
        steps: what was executed.
        outcome: R_out in [0, 1], for tasks whose fulfilment can be checked and that have no gold calls; otherwise None.
        cut: whether it ended early because its next prompt, with the tools' answers, was longer than prompts may be.
        plan_thinking_tokens: how many tokens of the plan's text are its thought.
        call_probabilities: for each step at which a gold call was due, by its index, how likely the executor was to make it;
            None if the rewards do not ask for it.
    """

    task: Task
    plan_text: str
    plan: Plan
    steps: tuple[Step, ...] = ()
    outcome: float | None = None
    cut: bool = False
    plan_thinking_tokens: int = 0
    call_probabilities: Mapping[int, float] | None = None

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The calls that could be read, in the order of execution."""
        return tuple(step.action.call for step in self.steps if step.action.call is not None)


@dataclass(slots=True)
class Group:
    """Completions of the same prompt, which GRPO compares. G is G_h for the planner and G_l for the executor.

    Attributes:
        prompt_ids: token ids, shape [P].
        completion_ids: G token-id tensors, shapes [C_1] ... [C_G]; exactly what was sampled.
        logprobs: per-token log-probabilities at sampling, the same shapes; None if they are not needed.
        rewards: shape [G].
        components: reward component -> shape [G]; NaN where a component is undefined.
        advantages: shape [G], filled in by `advantages.fill_advantages`.
        truncated: shape [G], bool: the completion hit the length limit.
        comparison_id: groups of a batch with the same one are compared with one another as if they were one. Only
            trajectory branching needs it, where the prompts of later steps differ within a comparison.
        alike: shape [G]; plans with the same number ask for the same calls. None if that is not needed.
        sampled: False at tokens that were inserted into a completion and not sampled: the loss leaves them out. The shapes
            of `completion_ids`, bool; None if all were sampled.
        thinking_tokens: shape [G], how many tokens of each completion are its thought; None if that was not counted.
        grammar: the grammar within which all of them were sampled: the loss takes their log-probabilities among the tokens
            that it allows. None if every token was allowed.
    """

    prompt_ids: Tensor
    completion_ids: list[Tensor]
    rewards: Tensor
    components: dict[str, Tensor]
    advantages: Tensor
    truncated: Tensor
    comparison_id: int
    logprobs: list[Tensor] | None = None
    alike: Tensor | None = None
    sampled: list[Tensor] | None = None
    thinking_tokens: Tensor | None = None
    grammar: str | None = None

    @property
    def trained_tokens(self) -> int:
        """Number of tokens that the loss counts."""
        if self.sampled is not None:
            return sum(int(mask.sum()) for mask in self.sampled)
        return sum(len(ids) for ids in self.completion_ids)


_RENAMED_FIELDS: Final = {"peers": "comparison_id"}
"""Fields of `Group` under their names in checkpoints of version 0.2.0 and before."""


@dataclass(slots=True)
class RolloutBatch:
    """Batch of one training step: one role's groups, from one rollout round.

    Attributes:
        role: the role whose adapter learns from it.
        groups: all groups of the round, constant ones included.
        version: the role's policy version that sampled it (optimiser steps taken by that role).
        update: 0 for the first update on this batch, 1 for the second, ...
        objective: `grpo`, or `supervised` for the warm start on gold completions (advantages are 1).
        metrics: scalars measured while sampling, tag -> value.
        trajectories: the episodes of the round, for callbacks to look at; None except in the round's first batch.
        temperature: temperature of the sampling; the log-probabilities of the loss are taken at the same temperature.
        lag: optimiser steps that the role took while it was sampled.
    """

    role: Role
    groups: list[Group]
    version: int
    update: int = 0
    objective: Literal["grpo", "supervised"] = "grpo"
    metrics: dict[str, float] = field(default_factory=dict)
    trajectories: list[Trajectory] | None = None
    temperature: float = 1.0
    lag: int = 0

    def state(self) -> dict[str, Any]:
        """Return plain containers and tensors, for a checkpoint. The episodes are left out: a pending one is never first."""
        state = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("groups", "trajectories")}
        return {**state, "groups": [{f.name: getattr(g, f.name) for f in fields(g)} for g in self.groups]}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> RolloutBatch:
        """Return the batch that `state` was taken from."""
        groups = [
            Group(**{_RENAMED_FIELDS.get(name, name): value for name, value in group.items()})
            for group in state["groups"]
        ]
        return cls(**{**state, "groups": groups})
