"""Asking the planner again after a failed call: what it reads, what is carried out where, and what the episode says of it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from cahl_pl.engines.base import Completion, Engine, Sampling
from cahl_pl.environments import ExecutableEnvironment, RecordedEnvironment
from cahl_pl.metrics import is_success
from cahl_pl.parsing import format_call, format_plan, parse_action
from cahl_pl.prompts import PromptBuilder, PromptConfig
from cahl_pl.rewards.executor import ExecutorReward
from cahl_pl.rewards.outcome import is_fulfilled
from cahl_pl.rewards.planner import PlannerReward
from cahl_pl.rollout.config import InferenceConfig, RolloutConfig
from cahl_pl.rollout.test_time import ReplanningRollout
from cahl_pl.types import Feedback, GoldCall, Message, Outcome, Plan, Step, SubTask, Task, ToolCall, ToolSpec

TOOLS = tuple(
    ToolSpec(name, name, {"type": "object", "properties": {"item": {"type": "string"}}, "required": ["item"]})
    for name in ("take", "find")
)


def toolkit(state):
    """`take` works once `find` has been called, and leaves a trace in any case for the item "mud"."""

    def find(item):
        state["found"][item] = True
        return "shelf"

    def take(item):
        if item == "mud":
            state["dirty"] = True
        if not state["found"].get(item):
            raise ValueError(f"nobody knows where {item} is")
        return "taken"

    return {"find": find, "take": take}


ENVIRONMENT = ExecutableEnvironment(toolkit)
FIND, TAKE = ToolCall("find", {"item": "nut"}), ToolCall("take", {"item": "nut"})
WRONG = ToolCall("take", {"thing": "nut"})


def task(request="first"):
    gold = (GoldCall("find", FIND.arguments, "shelf"), GoldCall("take", TAKE.arguments, "taken"))
    outcome = Outcome(("taken",), {"found": {"nut": True}, "dirty": False})
    return Task(
        request,
        (Message("user", request),),
        TOOLS,
        gold,
        ordered=True,
        state={"found": {}, "dirty": False},
        outcome=outcome,
    )


def plan(*calls):
    return format_plan([SubTask("do it", call.name, call.arguments) for call in calls])


class Scripted(Engine):
    """Writes the plans of each request in their order; the executor's calls are those of its sub-tasks."""

    def __init__(self, builder, plans):
        self.builder, self.plans = builder, {request: list(texts) for request, texts in plans.items()}
        self.read, self.tokens = [], 0

    def generate(self, policy, role, prompts, num_samples, sampling, generator):
        texts = [self.builder.tokenizer.decode(prompt, skip_special_tokens=True) for prompt in prompts]
        if role == "planner":
            self.read += texts
            return [[self._write(self.plans[next(r for r in self.plans if r in text)].pop(0))] for text in texts]
        subtasks = [text[text.rindex("Do ") + 3 :].split("\n")[0] for text in texts]
        return [[self._write(self._call(json.loads(z)))] for z in subtasks]

    def _call(self, subtask):
        return format_call(ToolCall(subtask["tool"], subtask["parameters"])) if subtask["tool"] != "mumble" else "hm"

    def _write(self, text):
        ids = torch.tensor(self.builder.completion(text))
        self.tokens += len(ids)
        return Completion(ids, torch.zeros(len(ids)), ended=True)


@pytest.fixture(scope="module")
def builder(tiny_model):
    prompts = PromptConfig(system="", planner="Plan", executor="Do {subtask}", feedback="Result: {feedback}")
    return PromptBuilder(PreTrainedTokenizerFast.from_pretrained(tiny_model), prompts)


@pytest.fixture
def run(builder):
    """Runs requests with these plans: the episodes, the engine, what was told of them, the round's metrics."""

    def roll(plans, replans, **config):
        plans = plans if isinstance(plans, dict) else {"first": plans}
        engine, told = Scripted(builder, plans), []
        limits = RolloutConfig(1, 1, planner=Sampling(0.0), executor=Sampling(0.0), **config)
        inference = InferenceConfig(replans=replans)
        rollout = ReplanningRollout(engine, ENVIRONMENT, PlannerReward(), ExecutorReward(), limits, inference)
        rollout.watch = lambda task, event: told.append(event)
        result = rollout.run(None, builder, [task(r) for r in plans], torch.Generator().manual_seed(0))
        return result.trajectories, engine, told, result.metrics

    return roll


def made(episode):
    """Calls with the error of each."""
    return [(step.action.call, step.feedback.error) for step in episode.steps]


def test_a_failed_call_is_planned_again_in_the_same_session(run):
    first, second = plan(TAKE, FIND), plan(FIND, TAKE)
    (episode,), engine, told, metrics = run([first, second], 1)
    assert made(episode) == [(TAKE, "tool"), (FIND, None), (TAKE, None)]  # the first plan's `find` is dropped
    assert episode.plan_text == f"{first}\n\n{second}"
    assert [z.tool for z in episode.plan.subtasks] == ["take", "find", "take"]
    assert episode.plan.error is None
    assert episode.task == task()  # without the further dialogue
    assert [type(event).__name__ for event in told] == [
        "Plan",
        *["Action", "Feedback"],
        "Plan",
        *["Action", "Feedback"] * 2,
    ]
    assert metrics["rollout/tokens"] == engine.tokens


def test_the_planner_reads_the_calls_made_and_their_answers(run):
    _, engine, *_ = run([plan(FIND, WRONG, TAKE), plan(TAKE)], 1)
    before, after = engine.read
    assert format_call(FIND) not in before
    assert after.index("first") < after.index(format_call(FIND)) < after.index('Result: "shelf"')
    assert after.index('Result: "shelf"') < after.index(format_call(WRONG)) < after.index('Result: {"error": ')
    assert after.rindex("Plan") > after.index('Result: {"error": ')


def test_what_an_earlier_plan_changed_stays_changed(run):
    (episode,), *_ = run([plan(FIND, WRONG), plan(TAKE)], 1)
    assert made(episode) == [(FIND, None), (WRONG, "missing"), (TAKE, None)]


@pytest.mark.parametrize(
    ("replans", "plans", "calls"),
    [
        (0, 1, [(TAKE, "tool"), (FIND, None)]),  # as ever: the rest of the plan is carried out
        (1, 2, [(TAKE, "tool"), (TAKE, "tool"), (FIND, None)]),
        (2, 3, [(TAKE, "tool"), (TAKE, "tool"), (TAKE, "tool"), (FIND, None)]),
    ],
)
def test_the_planner_is_asked_no_more_often_than_allowed(run, replans, plans, calls):
    (episode,), engine, *_ = run([plan(TAKE, FIND)] * 9, replans)
    assert len(engine.read) == plans
    assert made(episode) == calls


@pytest.mark.parametrize("environment", [ENVIRONMENT, RecordedEnvironment()])
def test_a_further_plan_may_take_another_way(builder, environment):
    """The first plan takes the way of one call, which fails; the second that of two."""
    short = (GoldCall("take", {"item": "nut", "by": "hand"}, "taken"),)
    request = replace(task(), alternatives=(task().gold,), gold=short)
    engine = Scripted(builder, {"first": [plan(WRONG), plan(FIND, TAKE)]})
    limits = RolloutConfig(1, 1, planner=Sampling(0.0), executor=Sampling(0.0))
    rollout = ReplanningRollout(
        engine, environment, PlannerReward(), ExecutorReward(), limits, InferenceConfig(replans=1)
    )
    (episode,) = rollout.run(None, builder, [request], torch.Generator().manual_seed(0)).trajectories
    assert [step.feedback.error for step in episode.steps] == ["missing", None, None]
    assert episode.task.gold == task().gold
    assert episode.task.messages == request.messages


def test_without_a_failure_nobody_is_asked_again(run):
    (episode,), engine, *_ = run([plan(FIND, TAKE)], 2)
    assert (len(engine.read), is_success(episode)) == (1, True)


@pytest.mark.parametrize("rest", [(), (FIND,)])
def test_an_output_without_a_call_is_no_reason_to_ask_again(run, rest):
    (episode,), engine, *_ = run([plan(ToolCall("mumble", {}), *rest)], 2)
    assert len(engine.read) == 1
    assert made(episode) == [(None, "parse"), *((call, None) for call in rest)]


def test_a_further_plan_that_cannot_be_read_ends_the_episode(run):
    (episode,), engine, *_ = run([plan(TAKE), "hm", plan(FIND)], 2)
    assert len(engine.read) == 2
    assert (made(episode), episode.plan_text) == ([(TAKE, "tool")], f"{plan(TAKE)}\n\nhm")


def test_a_dialogue_that_grows_too_long_ends_the_episode(run, builder):
    limit = len(builder.executor(task(), SubTask("do it", "take", TAKE.arguments)))
    (episode,), engine, *_ = run([plan(TAKE, FIND), plan(FIND)], 2, max_prompt_tokens=limit)
    assert len(engine.read) == 1
    assert made(episode) == [(TAKE, "tool")]
    assert episode.cut


def test_of_several_requests_only_those_that_failed_are_planned_again(run):
    plans = {
        "first": [plan(FIND, TAKE)],
        "second": [plan(TAKE), plan(WRONG), plan(FIND, TAKE)],
        "third": [plan(TAKE), plan(FIND)],
    }
    (one, two, three), engine, *_ = run(plans, 2)
    assert len(engine.read) == 3 + 2 + 1
    assert made(one) == [(FIND, None), (TAKE, None)]
    assert [episode.cut for episode in (one, two, three)] == [False] * 3
    assert made(two) == [(TAKE, "tool"), (WRONG, "missing"), (FIND, None), (TAKE, None)]
    assert made(three) == [(TAKE, "tool"), (FIND, None)]
    assert (one.task.request, two.task.request, three.task.request) == ("first", "second", "third")


def test_calls_made_in_vain_spoil_the_success_but_not_what_was_fulfilled(run):
    (episode,), *_ = run([plan(TAKE), plan(FIND, TAKE)], 1)
    assert not is_success(episode)
    assert is_fulfilled(episode.task, episode.steps, ENVIRONMENT)


@pytest.mark.parametrize(
    ("calls", "fulfilled"),
    [
        ([FIND, TAKE], True),
        ([WRONG, FIND, TAKE], True),
        ([FIND], False),  # a result is missing
        ([FIND, TAKE, FIND], False),  # surplus, and it did not fail
        ([ToolCall("take", {"item": "mud"}), FIND, TAKE], False),  # failed, but left something behind
        ([], False),
    ],
)
def test_what_is_forgiven(calls, fulfilled):
    steps = [_step(format_call(call)) for call in calls]
    assert is_fulfilled(task(), steps, ENVIRONMENT) is fulfilled


def test_a_request_that_needs_no_tool_is_fulfilled_by_an_answer():
    thanks = Task("t", (Message("user", "Thanks!"),), TOOLS, state={"found": {}}, outcome=Outcome())
    answer = _step("<answer>You are welcome.</answer>")
    assert is_fulfilled(thanks, [answer], ENVIRONMENT)
    assert is_fulfilled(thanks, [_step(format_call(WRONG)), answer], ENVIRONMENT)
    assert not is_fulfilled(thanks, [_step(format_call(FIND)), answer], ENVIRONMENT)
    assert not is_fulfilled(thanks, [_step(format_call(WRONG))], ENVIRONMENT)


def _step(text):
    return Step(SubTask("do it", None), text, parse_action(text))


def test_a_negative_number_is_refused():
    with pytest.raises(ValueError, match=r"data\.inference\.replans must be at least 0, not -1"):
        InferenceConfig(replans=-1)


def test_what_is_told_is_what_was_carried_out(run):
    (episode,), _, told, _ = run([plan(TAKE, FIND), "hm"], 1)
    assert [event for event in told if isinstance(event, Feedback)] == [step.feedback for step in episode.steps]
    assert told[0] == Plan((SubTask("do it", "take", TAKE.arguments), SubTask("do it", "find", FIND.arguments)))
    assert told[-1].error
