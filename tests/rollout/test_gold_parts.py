"""Gold of tasks of which not all can be foreseen: what is imitated is what a further plan meets."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from cahl_pl.engines.base import Completion, Engine, Sampling
from cahl_pl.environments import RecordedEnvironment
from cahl_pl.prompts import PromptBuilder
from cahl_pl.rewards.executor import ExecutorReward
from cahl_pl.rewards.planner import PlannerReward
from cahl_pl.rollout.config import InferenceConfig, RolloutConfig
from cahl_pl.rollout.gold import (
    executor_examples,
    gold_parts,
    gold_plan,
    gold_turns,
    next_calls,
    planner_examples,
    supervised_groups,
)
from cahl_pl.rollout.test_time import ReplanningRollout
from cahl_pl.rollout.two_level import Rollout
from cahl_pl.toolworld import ToolWorldRecover
from cahl_pl.toolworld.prompts import PROMPTS
from cahl_pl.types import GoldCall, Message, Task, ToolSpec

TOOL = ToolSpec("ask", "ask", {"type": "object", "properties": {"who": {"type": "string"}}})
A, B, C, D = (GoldCall("ask", {"who": who}, who) for who in "ABCD")
FAILED = replace(A, result={"error": "ask C"})
PAIR = Task("pair", (Message("user", "ask A and B"),), (TOOL,), (FAILED, B, C), ordered=True, foreseen=2)


@pytest.fixture(scope="module")
def builder(tiny_model):
    return PromptBuilder(PreTrainedTokenizerFast.from_pretrained(tiny_model), PROMPTS)


class Gold(Engine):
    """Writes gold: the n-th request for samples gets the n-th completions."""

    def __init__(self, *completions):
        self.completions, self.prompts = list(completions), []

    def generate(self, policy, role, prompts, num_samples, sampling, generator):
        self.prompts += prompts
        ids = torch.tensor(self.completions.pop(0))
        return [[Completion(ids, torch.zeros(len(ids)), ended=True)] * num_samples for _ in prompts]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("index", range(4))
def test_what_is_imitated_is_what_is_met(builder, index, training):
    """The gold plans and calls, written in their order, meet the very prompts of the warm start."""
    task = ToolWorldRecover("train", size=4, proportions={"recover": 1})[index]
    (plan, further), (call, second) = planner_examples(builder, task), executor_examples(builder, task)
    order = [plan, call, further, second]
    engine = Gold(*(example.completion for example in order))
    rewards = PlannerReward(), ExecutorReward()
    if training:
        rollout = Rollout(engine, RecordedEnvironment(), *rewards, RolloutConfig(1, 1, replans=1))
    else:
        limits = RolloutConfig(1, 1, planner=Sampling(0.0), executor=Sampling(0.0))
        rollout = ReplanningRollout(engine, RecordedEnvironment(), *rewards, limits, InferenceConfig(replans=1))
    result = rollout.run(None, builder, [task], torch.Generator())
    assert engine.prompts == [example.prompt for example in order]
    if training:
        assert [g.rewards.tolist() for role in result.groups.values() for g in role] == [[1.0]] * 4


def test_a_further_plan_is_made_after_the_first_failure():
    first, further = gold_parts(PAIR)
    assert (first.gold, first.foreseen) == ((FAILED, B), None)
    assert (further.gold, further.foreseen) == ((B, C), None)
    assert [message.content for message in further.messages[2:]] == ['{"error": "ask C"}']


def test_where_none_is_known_to_fail_it_is_made_after_all_that_can_be_foreseen():
    assert gold_parts(replace(PAIR, gold=(A, B, C)))[1].gold == (C,)


@pytest.mark.parametrize("foreseen", [None, 3])
def test_a_task_that_can_be_foreseen_has_one_plan(foreseen):
    task = replace(PAIR, foreseen=foreseen)
    assert gold_parts(task) == [task]
    assert [z.parameters["who"] for z in gold_plan(task)] == ["A", "B", "C"]


def test_the_gold_plan_is_the_first_one():
    assert [z.parameters["who"] for z in gold_plan(PAIR)] == ["A", "B"]
    assert [z.parameters["who"] for z in gold_plan(PAIR, in_words=False)] == ["A", "B"]


def test_both_plans_and_all_calls_are_trained_on(builder):
    assert len(supervised_groups(builder, PAIR, "planner")) == 2
    assert len(supervised_groups(builder, PAIR, "executor")) == 2 + 2
    assert len(supervised_groups(builder, PAIR, "executor", single_level=True)) == 3 + 1


def test_what_cannot_be_foreseen_is_due_once_all_that_can_be_has_been_made():
    together = replace(PAIR, gold=(FAILED, B, C, D), ordered=False)
    assert next_calls(together, []) == (FAILED, B)
    assert next_calls(together, [B.call]) == (FAILED,)
    assert next_calls(together, [A.call, B.call]) == (C, D)
    assert gold_turns(together) == [(FAILED, B), (C, D)]
    assert gold_turns(replace(together, ordered=True)) == [(FAILED,), (B,), (C,), (D,)]
    assert gold_turns(replace(together, foreseen=None)) == [(FAILED, B, C, D)]
