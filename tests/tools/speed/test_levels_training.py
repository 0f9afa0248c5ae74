"""The bytes of what learning holds, rounds after the first, and their table."""

from __future__ import annotations

import pytest
import torch

from cahl_pl.policy.config import PolicyConfig
from cahl_pl.policy.policy import Policy
from tools.speed import benchmark_levels, levels_training

MIB = 2**20


@pytest.fixture
def tool():
    return levels_training


@pytest.fixture
def parse():
    def training(*words):
        return benchmark_levels.parse(["training", "--repeats", "1", *words])

    return training


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


def test_training_measures_rounds_after_the_first(tool, parse, tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--tasks", "2", "--rounds", "2", "--group-size", "2", "--new-tokens", "4"]
    for system in (tool.TWO, tool.ONE):
        run = tool.train(system, str(tiny_model), parse(*words))
        assert len(run["seconds"]) == len(run["tokens"]) == 2
        assert min(run["seconds"]) > 0
        assert min(run["tokens"]) >= 2 * 2
        assert run["peak"] >= run["loaded"] > 100 * MIB
        assert run["held"]["planner adapter"] == run["held"]["executor adapter"] > 0
    assert not list(tmp_path.iterdir())


def training_run(seconds, peak):
    held = {"planner adapter": MIB, "executor adapter": MIB, "gradients": 2048, "moments": 4096}
    return {
        "seconds": [seconds, seconds],
        "tokens": [1000, 1000],
        "peak": peak * MIB,
        "loaded": 50 * MIB,
        "held": held,
    }


def test_the_table_of_training_takes_the_idle_adapter_off(tool):
    two = [training_run(seconds, 105) for seconds in (3, 1, 2)]
    table = tool.training_table({tool.TWO: two, tool.ONE: [training_run(1, 101)]})
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:4]]
    assert rows[0] == [
        *("planner + executor", "105.0 [105.0, 105.0]", "1.05", "50.0", "55.0 [55.0, 55.0]", "1.08", "2,000"),
        *("2.000 [1.000, 3.000]", "2.00", "2,048", "2", "4"),
    ]
    assert rows[1][:3] == ["single-level", "100.0 [100.0, 100.0]", ""]
    assert rows[1][9] == "1,024"
    assert "peak memory: 1.050, met" in table
