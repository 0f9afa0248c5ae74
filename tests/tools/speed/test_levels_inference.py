"""Counts of gold episodes against hand computation, and their table."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from cahl_pl.engines.base import Sampling
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.policy.loading import load_tokenizer
from cahl_pl.policy.policy import Policy
from cahl_pl.prompts import PromptBuilder
from cahl_pl.rollout.gold import executor_examples, planner_example, single_examples
from cahl_pl.toolworld.prompts import PROMPTS
from tools.speed import benchmark_levels, levels_inference

MODEL = "toolworld"  # its tokenizer makes a quarter of the tokens that the tiny model's makes


@pytest.fixture
def tool():
    return levels_inference


@pytest.fixture
def parse():
    def inference(*words):
        return benchmark_levels.parse(["inference", "--repeats", "1", *words])

    return inference


def builder_of() -> PromptBuilder:
    return PromptBuilder(load_tokenizer(PolicyConfig()), PROMPTS)


def test_a_single_level_episode_reads_each_token_once_but_the_last_one_of_a_prompt(tool, parse):
    options = parse("--tasks", "2")
    run = tool.infer(tool.ONE, "lora", 1, MODEL, options)
    episodes = [single_examples(builder_of(), task) for task in tool.tasks_of(2, 0)]
    turns = sum(map(len, episodes))
    generated = sum(len(example.completion) for episode in episodes for example in episode)
    read = sum(len(episode[-1].prompt) + len(episode) - 1 for episode in episodes)  # each prompt's last token again
    assert run["generated"] == generated
    assert run["computed"] == read + generated - turns
    # of a turn, one pass that all tokens but the last are frozen in, one for that, one a token behind the first
    assert run["passes"] == 2 * turns + generated - turns


def test_activated_adapters_read_the_request_once_for_both_roles(tool, parse):
    run = tool.infer(tool.TWO, "alora", 1, MODEL, parse("--tasks", "1"))
    (task,) = tool.tasks_of(1, 0)
    builder = builder_of()
    plan, steps = planner_example(builder, task), executor_examples(builder, task)

    def frozen(prompt, role):
        words = builder.invocation(role)
        return max(i for i in range(len(prompt)) if prompt[i : i + len(words)] == words)

    bare = [frozen(plan.prompt, "planner"), *(frozen(step.prompt, "executor") for step in steps)]
    assert bare[0] == bare[1]
    prompts = [plan.prompt, *(step.prompt for step in steps)]
    read = len(plan.prompt) + sum(len(p) - before for p, before in zip(prompts[1:], bare, strict=False))
    generated = len(plan.completion) + sum(len(step.completion) for step in steps)
    assert run["generated"] == generated
    assert run["computed"] == read + generated - len(prompts)
    assert all(a <= b for a, b in pairwise(bare))


def test_the_format_of_the_tools_makes_prompts_longer(tool, parse):
    compact, json = (
        tool.infer(tool.ONE, "alora", 1, MODEL, parse("--tasks", "1", "--tool-format", form))
        for form in ("compact", "json")
    )
    assert json["generated"] == compact["generated"]
    assert json["computed"] > 1.5 * compact["computed"]


@pytest.mark.parametrize("adapter", ["alora", "lora"])
def test_drafts_spare_passes_and_no_tokens(tool, parse, adapter):
    written, drafted = (tool.infer(of, adapter, 1, MODEL, parse("--tasks", "2")) for of in (tool.TWO, tool.DRAFTED))
    assert drafted["generated"] == written["generated"]
    tokens = written["by_role"]
    assert drafted["computed"] == written["computed"]
    assert drafted["passes"] == written["passes"] - tokens["executor generated"] + tokens["executor outputs"]


def test_a_draft_that_is_not_gold_stops_the_tool(tool, tiny_model):
    policy, engine = Policy(PolicyConfig(model=str(tiny_model))), tool.ScriptedEngine({(1, 2): [3]}, drafts=True)
    with pytest.raises(tool.ScriptError, match="a draft is not"):
        engine.generate_from_drafts(policy, "executor", [[1, 2]], [[4]], Sampling(), torch.Generator())


@pytest.mark.parametrize(("level", "adapter"), [(0, "alora"), (1, "lora"), (2, "alora")])
def test_episodes_of_different_lengths_stay_gold_side_by_side(tool, parse, level, adapter):
    options = parse("--tasks", "2")
    system = (tool.TWO, tool.ONE, tool.DRAFTED)[level]
    beside = tool.infer(system, adapter, 2, MODEL, options)
    episodes = [tool.examples_of(builder_of(), task, system) for task in tool.tasks_of(2, 0)]
    lengths = [[len(example.completion) for example in episode] for episode in episodes]
    assert lengths[0][0] != lengths[1][0]
    assert beside["generated"] == sum(map(sum, lengths))
    assert beside["passes"] < beside["generated"]


def test_an_episode_that_leaves_the_script_stops_the_tool(tool, tiny_model):
    policy = Policy(PolicyConfig(model=str(tiny_model)))
    with pytest.raises(tool.ScriptError, match="has left"):
        tool.ScriptedEngine({(1, 2): [3]}).generate(policy, "planner", [[1, 3]], 1, Sampling(), torch.Generator())


def test_the_table_of_inference_says_whether_the_target_is_met(tool):
    def run(seconds, tokens):
        return {"seconds": seconds, "generated": tokens, "computed": 2 * tokens, "passes": tokens}

    systems = {tool.TWO: [run(s, 150) for s in (1.0, 3.0, 2.6)], tool.ONE: [run(s, 100) for s in (2.0, 2.0, 9.0)]}
    table = tool.inference_table({"lora, 1": systems, "alora, 1": systems})
    assert (
        "| alora, 1 | planner + executor | 150 | 1.50 | 300 | 1.50 | 150 | 1.50 | 2.60 [1.00, 3.00] | 1.30 |" in table
    )
    assert table.endswith("Target, at most 1.25 x single-level: alora, 1, planner + executor: 1.300, not met.")
