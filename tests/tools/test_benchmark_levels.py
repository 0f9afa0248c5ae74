"""Counts of gold episodes against hand computation, the bytes of what learning holds, and the tables."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import torch

from cahl_pl.policy import Policy, PolicyConfig, load_tokenizer
from cahl_pl.prompts import PromptBuilder
from cahl_pl.supervised import executor_examples, planner_example, single_examples
from cahl_pl.toolworld.prompts import PROMPTS

MODEL = "toolworld"  # its tokenizer makes a quarter of the tokens that the tiny model's makes


@pytest.fixture
def tool(import_tool):
    return import_tool("benchmark_levels")


def settings(tool, part, *words):
    return tool.parse([part, "--repeats", "1", *words])


def builder_of() -> PromptBuilder:
    return PromptBuilder(load_tokenizer(PolicyConfig()), PROMPTS)


def test_a_single_level_episode_reads_each_token_once_but_the_last_one_of_a_prompt(tool):
    options = settings(tool, "inference", "--tasks", "2")
    run = tool.infer(tool.ONE, "lora", 1, MODEL, options)
    episodes = [single_examples(builder_of(), task) for task in tool.tasks_of(2, 0)]
    turns = sum(map(len, episodes))
    generated = sum(len(example.completion) for episode in episodes for example in episode)
    read = sum(len(episode[-1].prompt) + len(episode) - 1 for episode in episodes)  # each prompt's last token again
    assert run["generated"] == generated
    assert run["computed"] == read + generated - turns
    # of a turn, one pass that all tokens but the last are frozen in, one for that, one a token behind the first
    assert run["passes"] == 2 * turns + generated - turns


def test_activated_adapters_read_the_request_once_for_both_roles(tool):
    run = tool.infer(tool.TWO, "alora", 1, MODEL, settings(tool, "inference", "--tasks", "1"))
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


@pytest.mark.parametrize(("level", "adapter"), [(0, "alora"), (1, "lora")])
def test_episodes_of_different_lengths_stay_gold_side_by_side(tool, level, adapter):
    options = settings(tool, "inference", "--tasks", "2")
    beside = tool.infer(tool.SYSTEMS[level], adapter, 2, MODEL, options)
    episodes = [tool.examples_of(builder_of(), task, tool.SYSTEMS[level]) for task in tool.tasks_of(2, 0)]
    lengths = [[len(example.completion) for example in episode] for episode in episodes]
    assert lengths[0][0] != lengths[1][0]
    assert beside["generated"] == sum(map(sum, lengths))
    assert beside["passes"] < beside["generated"]


def test_an_episode_that_leaves_the_script_stops_the_tool(tool, tiny_model):
    policy = Policy(PolicyConfig(model=str(tiny_model)))
    with pytest.raises(tool.ScriptError, match="has left"):
        tool.ScriptedEngine({(1, 2): [3]}).generate(policy, "planner", [[1, 3]], 1, tool.Sampling(), torch.Generator())


def test_bytes_are_those_of_the_tensors(tool, tiny_model):
    policy = Policy(PolicyConfig(model=str(tiny_model), lora_rank=4))
    policy.load()
    # two layers; query and output 32 -> 32, key and value 32 -> 16, gate and up 32 -> 64, down 64 -> 32; rank 4, 4 bytes
    adapter = 2 * 4 * 4 * (2 * 64 + 2 * 48 + 3 * 96)
    planner, executor = (torch.optim.AdamW(policy.parameters_of(role)) for role in ("planner", "executor"))
    for parameter in policy.parameters_of("executor"):
        parameter.grad = torch.ones_like(parameter)
    executor.step()
    assert tool.held_bytes(policy, [planner, executor]) == {
        "planner adapter": adapter,
        "executor adapter": adapter,
        "gradients": adapter,
        "moments": 2 * adapter + 4 * len(policy.parameters_of("executor")),  # and a count of steps a parameter
    }


def test_training_measures_rounds_after_the_first(tool, tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--tasks", "2", "--rounds", "2", "--group-size", "2", "--new-tokens", "4"]
    for system in tool.SYSTEMS:
        run = tool.train(system, str(tiny_model), settings(tool, "training", *words))
        assert len(run["seconds"]) == len(run["tokens"]) == 2
        assert min(run["seconds"]) > 0
        assert min(run["tokens"]) >= 2 * 2
        assert run["peak"] >= run["loaded"] > 100 * tool.MIB
        assert run["held"]["planner adapter"] == run["held"]["executor adapter"] > 0
    assert not list(tmp_path.iterdir())


def training_run(tool, seconds, peak):
    held = {"planner adapter": tool.MIB, "executor adapter": tool.MIB, "gradients": 2048, "moments": 4096}
    return {
        "seconds": [seconds, seconds],
        "tokens": [1000, 1000],
        "peak": peak * tool.MIB,
        "loaded": 50 * tool.MIB,
        "held": held,
    }


def test_the_table_of_training_takes_the_idle_adapter_off(tool):
    two = [training_run(tool, seconds, 105) for seconds in (3, 1, 2)]
    table = tool.training_table({tool.TWO: two, tool.ONE: [training_run(tool, 1, 101)]})
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:4]]
    assert rows[0] == [
        *("planner + executor", "105.0 [105.0, 105.0]", "1.05", "50.0", "55.0 [55.0, 55.0]", "1.08", "2,000"),
        *("2.000 [1.000, 3.000]", "2.00", "2,048", "2", "4"),
    ]
    assert rows[1][:3] == ["single-level", "100.0 [100.0, 100.0]", ""]
    assert rows[1][9] == "1,024"
    assert "peak memory: 1.050, met" in table


def test_the_table_of_inference_says_whether_the_target_is_met(tool):
    def run(seconds, tokens):
        return {"seconds": seconds, "generated": tokens, "computed": 2 * tokens, "passes": tokens}

    systems = {tool.TWO: [run(s, 150) for s in (1.0, 3.0, 2.6)], tool.ONE: [run(s, 100) for s in (2.0, 2.0, 9.0)]}
    table = tool.inference_table({"lora, 1": systems, "alora, 1": systems})
    assert (
        "| alora, 1 | planner + executor | 150 | 1.50 | 300 | 1.50 | 150 | 1.50 | 2.60 [1.00, 3.00] | 1.30 |" in table
    )
    assert table.endswith("Target, at most 1.25 x single-level: alora, 1: 1.300, not met.")


def test_systems_take_turns_and_everything_is_written(tool, tmp_path, monkeypatch, capsys):
    jobs = []

    def measure(job, model, options):
        jobs.append((*job, model))
        return {"seconds": 1.0, "generated": 1, "computed": 1, "passes": 1}

    monkeypatch.setattr(tool, "measure", measure)
    words = ["--repeats", "2", "--tasks", "4", "--adapters", "alora", "--model", "toolworld"]
    tool.main(["inference", *words, "--out", str(tmp_path / "new" / "levels.json")])
    turn = [(system, "alora", at_once, "toolworld") for at_once in (1, 4) for system in tool.SYSTEMS]
    assert jobs == turn + turn
    content = json.loads((tmp_path / "new" / "levels.json").read_text())
    assert len(content["results"]["alora, 4"][tool.ONE]) == 2
    assert content["machine"]["threads"] == 1
    assert content["options"]["tasks"] == 4
    assert "alora, 1: 1.000, met; alora, 4: 1.000, met" in capsys.readouterr().out
