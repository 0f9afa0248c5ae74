"""Votes on plans, with a planner that writes what the test says and an executor that does what its sub-task says."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from cahl_pl.engines.base import Completion, Engine, Sampling
from cahl_pl.environments import Environment, ExecutableEnvironment
from cahl_pl.parsing import format_call, format_plan
from cahl_pl.prompts import PromptBuilder, PromptConfig
from cahl_pl.rewards.executor import ExecutorReward
from cahl_pl.rewards.planner import PlannerReward
from cahl_pl.rollout.config import InferenceConfig, RolloutConfig
from cahl_pl.rollout.test_time import VotingRollout, plan_key
from cahl_pl.types import Message, Plan, SubTask, Task, ToolCall, ToolSpec

LIMIT = 77


class Council(Engine):
    """Writes the planner's texts of each request in their order; the executor's calls are those of its sub-tasks."""

    def __init__(self, builder, texts):
        self.builder, self.texts = builder, {request: list(plans) for request, plans in texts.items()}
        self.asked, self.samplings, self.tokens = [], [], 0

    def generate(self, policy, role, prompts, num_samples, sampling, generator):
        assert num_samples == 1
        read = [self.builder.tokenizer.decode(prompt, skip_special_tokens=True) for prompt in prompts]
        if role == "planner":
            requests = [next(request for request in self.texts if request in text) for text in read]
            self.asked.append(requests)
            self.samplings.append(sampling)
            return [[self._completion(self.texts[request].pop(0))] for request in requests]
        subtasks = [json.loads(text[text.rindex("Do ") + 3 :].split("\n")[0]) for text in read]
        return [[self._completion(format_call(ToolCall(z["tool"], z["parameters"])))] for z in subtasks]

    def _completion(self, text):
        ids = torch.tensor(self.builder.completion(text))
        self.tokens += len(ids)
        return Completion(ids, torch.zeros(len(ids)), ended=True)


class Counting(Environment):
    """Keeps the calls of each task, and how often a session of it was started."""

    def __init__(self):
        self.inner = ExecutableEnvironment(lambda state: {"add": self.note("add"), "double": self.note("double")})
        self.sessions, self.calls = [], []

    def note(self, name):
        return lambda **arguments: self.calls.append((name, *arguments.values()))

    def start(self, task):
        self.sessions.append(task.request)
        return self.inner.start(task)


def spec(name, **types):
    properties = {key: {"type": value} for key, value in types.items()}
    return ToolSpec(name, f"{name} it", {"type": "object", "properties": properties, "required": list(types)})


def task(request="first"):
    return Task(
        request, (Message("user", request),), (spec("add", a="integer", b="integer"), spec("double", x="integer"))
    )


def subtask(tool, words="do it", **parameters):
    return SubTask(words, tool, parameters)


def plan(*subtasks):
    return format_plan(subtasks)


A = plan(subtask("add", a=1, b=1))
B = plan(subtask("add", a=2, b=2))
C = plan(subtask("add", a=3, b=3))
NO_PLAN = "I think that"


@pytest.fixture(scope="module")
def builder(tiny_model):
    prompts = PromptConfig(system="", planner="Plan", executor="Do {subtask}")
    return PromptBuilder(PreTrainedTokenizerFast.from_pretrained(tiny_model), prompts)


def run(builder, texts, **inference):
    """The round of one task, or of several by their requests; the engine; the environment."""
    texts = texts if isinstance(texts, dict) else {"first": texts}
    engine, environment = Council(builder, texts), Counting()
    config = RolloutConfig(1, 1, planner=Sampling(0.0, max_new_tokens=LIMIT), executor=Sampling(0.0))
    rollout = VotingRollout(
        engine, environment, PlannerReward(), ExecutorReward(), config, InferenceConfig(**inference)
    )
    tasks = [task(request) for request in texts]
    return rollout.run(None, builder, tasks, torch.Generator().manual_seed(0)), engine, environment


def test_the_likeliest_plan_comes_first_and_samples_after_it(builder):
    _, engine, _ = run(builder, [A, B, C], plans=3, temperature=0.7)
    assert engine.samplings == [Sampling(temperature, max_new_tokens=LIMIT) for temperature in (0.0, 0.7, 0.7)]


@pytest.mark.parametrize(
    ("texts", "plans", "agree", "asked", "winner"),
    [
        ([A, A, B], 7, 2, 2, A),
        ([A, B, A, B], 7, 2, 3, A),
        ([A, B, B, A], 7, 2, 3, B),  # the likeliest plan is outvoted
        ([A, B, B, A, B], 7, 3, 5, B),
        ([A, B], 7, 1, 1, A),
        ([B, A, C], 3, 2, 3, B),  # one vote each: the earliest
        ([B, A, A, B], 4, 3, 4, B),  # two votes each: the earliest, though the other had them sooner
        ([C, B, A, A, B], 5, 3, 5, B),
        ([NO_PLAN, NO_PLAN, A], 3, 2, 3, A),  # two that cannot be read do not agree
        ([NO_PLAN, NO_PLAN, NO_PLAN, B, B], 7, 2, 5, B),
        ([A, NO_PLAN, NO_PLAN, B, B], 7, 2, 5, B),
    ],
)
def test_the_plan_with_most_votes_is_carried_out_and_no_other(builder, texts, plans, agree, asked, winner):
    result, engine, environment = run(builder, texts, plans=plans, agree=agree)
    assert engine.asked == [["first"]] * asked
    (episode,) = result.trajectories
    assert episode.plan_text == winner
    assert environment.sessions == ["first"]
    number = {A: 1, B: 2, C: 3}[winner]
    assert environment.calls == [("add", number, number)]


def test_where_nothing_can_be_read_the_episode_says_so(builder):
    result, engine, environment = run(builder, [NO_PLAN, "<plan>", ""], plans=3)
    assert len(engine.asked) == 3
    (episode,) = result.trajectories
    assert episode.plan_text == NO_PLAN
    assert episode.plan.error
    assert (episode.steps, environment.calls) == ((), [])


def test_each_request_is_asked_for_as_long_as_it_is_open(builder):
    texts = {"first": [A, A], "second": [A, B, B], "third": [C, NO_PLAN, A, B]}
    result, engine, environment = run(builder, texts, plans=4)
    assert engine.asked == [["first", "second", "third"]] * 2 + [["second", "third"], ["third"]]
    assert [(t.task.request, t.plan_text) for t in result.trajectories] == [("first", A), ("second", B), ("third", C)]
    assert environment.calls == [("add", 1, 1), ("add", 2, 2), ("add", 3, 3)]
    (group,) = {len(group.completion_ids) for group in result.groups["planner"]}
    assert group == 1


def test_the_tokens_of_all_plans_are_counted(builder):
    result, engine, _ = run(builder, [A, NO_PLAN, B, B], plans=4)
    winner = sum(len(ids) for groups in result.groups.values() for group in groups for ids in group.completion_ids)
    assert result.metrics["rollout/tokens"] == engine.tokens
    assert engine.tokens == winner + sum(len(builder.completion(text)) for text in (A, NO_PLAN, B))


ADD, OTHER = subtask("add", a=1, b=1), subtask("double", x=4)
PRICE = subtask("add", a="$5 at most", b=1)
FIRST, NEXT = subtask("add", a=2, b=3), subtask("double", x="$1")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ((ADD, OTHER), (OTHER, ADD), True),  # parallel
        ((FIRST, NEXT), (FIRST, NEXT), True),
        ((FIRST, NEXT), (NEXT, FIRST), False),  # nested: "$1" means another result
        ((FIRST, subtask("double", x=["$1"])), (subtask("double", x=["$1"]), FIRST), False),
        ((PRICE, OTHER), (OTHER, PRICE), True),  # an amount is no reference
        ((ADD,), (subtask("add", "in other words", b=1, a=1),), True),
        ((ADD,), (subtask("add", a="1", b=1.0),), True),  # as the schema reads them
        ((ADD,), (ADD, ADD), False),
        ((ADD, ADD), (ADD, ADD), True),
        ((ADD,), (subtask("add", a=1, b=2),), False),
        ((ADD,), (subtask("added", a=1, b=1),), False),
        ((ADD,), (ADD, subtask(None, "tell the user")), True),  # asks for the same calls
        ((subtask(None, "greet"),), (subtask(None, "say hello"),), True),
        ((subtask(None, "greet"),), (ADD,), False),
    ],
)
def test_plans_that_ask_for_the_same_calls_agree(builder, one, other, same):
    assert (plan_key(Plan(one), task()) == plan_key(Plan(other), task())) is same
    _, engine, _ = run(builder, [plan(*one), plan(*other), NO_PLAN], plans=3)
    assert len(engine.asked) == (2 if same else 3)


def test_of_plans_that_agree_the_first_written_is_carried_out(builder):
    *_, environment = run(builder, [plan(OTHER, ADD), plan(ADD, OTHER)], plans=5)
    assert environment.calls == [("double", 4), ("add", 1, 1)]


@pytest.mark.parametrize("option", [{"plans": 0}, {"agree": 0}, {"temperature": 0.0}, {"temperature": float("nan")}])
def test_numbers_out_of_range_are_refused(option):
    with pytest.raises(ValueError, match=r"data\.inference needs plans >= 1, agree >= 1 and temperature > 0, not"):
        InferenceConfig(**option)
