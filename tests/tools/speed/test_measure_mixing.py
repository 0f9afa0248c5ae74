"""Passes of a round apart and mixed against hand computation, and a mixed pass against two of one adapter each."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from tools.speed import measure_mixing

EPISODES = [(4, [[2, 2], [3, 3]]), (2, [[3, 3]])]  # a plan of 4 tokens and two steps; one of 2 and one step


@pytest.fixture
def tool():
    return measure_mixing


def test_apart_every_phase_lasts_as_long_as_its_longest_output(tool):
    plans = [(2, 0), (1, 0), (1, 0)]  # the first token comes from the pass that reads the prompt
    first, second = [(0, 4), (0, 2)], [(0, 2), (0, 2)]
    assert tool.apart(EPISODES) == plans + first + second


def test_mixed_an_episode_goes_on_when_its_own_plan_has_ended(tool):
    passes = tool.mixed(EPISODES, torch.Generator().manual_seed(0))
    # the second episode's outputs take the passes 2 and 3; the first one's the pass 4, and 6 and 7
    assert passes == [(2, 0), (1, 0), (1, 2), (0, 2), (0, 2), (0, 2), (0, 2)]
    assert sum(map(sum, passes)) == sum(map(sum, tool.apart(EPISODES)))


def test_passes_cost_what_lies_between_the_timed_ones(tool):
    one, both = {4: 1.0, 8: 2.0}, {4: 3.0, 8: 5.0}
    assert tool.seconds_of([(4, 0), (0, 6), (2, 4)], one, both) == pytest.approx(1.0 + 1.5 + 4.0)


def test_a_mixed_pass_gives_each_row_its_own_adapter(tool, policy):
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    with torch.no_grad():
        with tool.mixing(policy, ["planner", "executor"]):
            mixed = policy.causal_lm.base_model(input_ids=ids).last_hidden_state
        rows = []
        for i, role in enumerate(("planner", "executor")):
            policy.activate(role)
            rows.append(policy.causal_lm.base_model(input_ids=ids[i : i + 1]).last_hidden_state[0])
    torch.testing.assert_close(mixed, torch.stack(rows), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(mixed[0, -1], policy.causal_lm.base_model(input_ids=ids).last_hidden_state[0, -1])


def test_it_prints_both_tables(tool, monkeypatch, capsys, tmp_path):
    out = tmp_path / "mixing.json"
    words = ["--tasks", "1", "2", "--rows", "4", "8", "--repeats", "1", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["measure_mixing.py", *words])
    tool.main()
    printed = capsys.readouterr().out
    assert "| rows of a pass | one adapter, ms | both, ms | ratio |" in printed
    assert printed.count("\n| 1 | ") == printed.count("\n| 2 | ") == 1
    rounds = json.loads(out.read_text())["rounds"]
    assert all(0 < found["mixed passes"] <= found["apart passes"] for found in rounds.values())
