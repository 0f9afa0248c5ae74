"""The warm start keeps to the limits of prompts and outputs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cahl_pl.engines.base import Sampling
from cahl_pl.errors import ConfigError
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.policy.loading import load_tokenizer
from cahl_pl.prompts import PromptBuilder, PromptConfig
from cahl_pl.rollout.batches import gold_batches
from cahl_pl.rollout.config import RolloutConfig
from cahl_pl.types import GoldCall, Message, Task, ToolSpec

FIND = ToolSpec("find", "Find.", {"type": "object", "properties": {"x": {"type": "string"}}})


def task(name, words="q", result="r", value="v"):
    gold = (GoldCall("find", {"x": "a"}, result), GoldCall("find", {"x": value}))
    return Task(name, (Message("user", words),), (FIND,), gold, ordered=True)


@pytest.fixture(scope="module")
def builder(tiny_model):
    return PromptBuilder(load_tokenizer(PolicyConfig(model=str(tiny_model))), PromptConfig())


def batches(builder, tasks, single_level=False, roles=("planner", "executor"), **limits):
    config = replace(RolloutConfig(max_prompt_tokens=2000), **limits)
    return gold_batches(roles, {"planner": 0, "executor": 0}, builder, tasks, single_level, config)


def test_long_results_and_long_requests_are_left_out_and_counted(builder):
    tasks = [task("short"), task("long answer", result="r" * 5000), task("long request", words="q" * 5000)]
    planner, executor = batches(builder, tasks)
    assert (len(planner.groups), len(executor.groups)) == (2, 3)  # of the long answer, the call before it
    assert max(len(g.prompt_ids) for b in (planner, executor) for g in b.groups) <= 2000
    assert planner.metrics["rollout/tasks_too_long"] == executor.metrics["rollout/tasks_too_long"] == 1
    assert executor.metrics["executor/warm_start/left_out"] == 1
    (single,) = batches(builder, tasks, single_level=True, roles=("executor",))
    assert len(single.groups) == 3 + 1


def test_no_sequence_is_longer_than_one_that_is_sampled(builder):
    short = Sampling(max_new_tokens=100)
    planner, executor = batches(builder, [task("t", value="v" * 2000)], executor=short, planner=short)
    assert (len(planner.groups), len(executor.groups)) == (0, 1)
    assert planner.metrics["planner/warm_start/left_out"] == 1


def test_what_is_too_long_is_dealt_with_as_elsewhere(builder):
    with pytest.raises(
        ConfigError, match=r"the prompt of task 'x' has .* tokens, more than data.rollout.max_prompt_tok"
    ):
        batches(builder, [task("x", words="q" * 5000)], too_long="fail")
    long = task("x")
    long = replace(long, messages=(Message("user", "q" * 5000), Message("assistant", "a"), Message("user", "b")))
    planner, _ = batches(builder, [long], too_long="truncate")
    assert (len(planner.groups), planner.metrics["rollout/tasks_truncated"]) == (1, 1)
