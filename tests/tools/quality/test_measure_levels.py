"""How far the two levels of ToolWorld 2 depend on each other: the figures by hand, and a small measurement."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cahl_pl.cli import main
from cahl_pl.policy import Policy
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.types import GoldCall, Message, Plan, SubTask, Task, ToolSpec
from tools.quality.measure_levels import Levels, correlation, likeness, measure, table, ways_of


def tool(name):
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    return ToolSpec(name, "", parameters)


ONE = GoldCall("both", {"city": "Oslo"})
TWO = (GoldCall("first", {"city": "Oslo"}), GoldCall("second", {"city": "Rome"}))
TASK = Task("1", (Message("user", "x"),), (tool("both"), tool("first"), tool("second")), (ONE,), alternatives=(TWO,))


@pytest.mark.parametrize(
    ("subtasks", "expected"),
    [
        ([SubTask("in Oslo", "both")], 1.0),
        ([SubTask("in Paris", "both")], 1 / 3),  # the tool alone is right
        ([SubTask("in Oslo", "first"), SubTask("Rome", "second")], 1.0),  # the other way
        ([SubTask("", "first", {"city": "Oslo"}), SubTask("Rome", "second")], 1.0),  # parameters or words
        ([SubTask("in Oslo", "first")], 1 / 2),
        ([SubTask("in Oslo", "both"), SubTask("in Oslo", "both")], 1 / 2),
        ([SubTask("just say so", None)], 0.0),
    ],
)
def test_likeness_to_the_way_that_a_plan_takes(subtasks, expected):
    assert likeness(Plan(tuple(subtasks)), TASK) == pytest.approx(expected)
    assert likeness(Plan(error="unreadable"), TASK) == 0.0


def test_correlation_is_within_groups():
    worth = torch.tensor([[0.0, 1.0], [5.0, 6.0]])
    assert correlation(worth, torch.tensor([[9.0, 10.0], [0.0, 1.0]])) == pytest.approx(1.0)
    assert correlation(worth, torch.tensor([[1.0, 0.0], [1.0, 0.0]])) == pytest.approx(-1.0)
    assert correlation(worth, torch.ones(2, 2)) == 0.0


def test_ways_are_told_by_their_length():
    assert [len(way.gold) for way in ways_of(TASK)] == [1, 2]


def test_a_small_measurement(tmp_path):
    policy = Policy(PolicyConfig(model="toolworld"))
    policy.load()
    for name in ("a", "b"):
        policy.lm.save_pretrained(tmp_path / name, selected_adapters=["planner", "executor"])
    config = Path(__file__).parents[3] / "configs" / "toolworld2.yaml"
    levels = Levels(main(["-c", str(config)], run=False))
    tests = levels.cli.datamodule.test_tasks["test"]
    tasks = [tests[i] for i in range(4)]
    found = measure(levels, {name: tmp_path / name for name in ("a", "b")}, tasks, plans=2, executions=2)
    assert found["tasks"] == 4
    one, other = found["executors"]["a"], found["executors"]["b"]
    assert one["worth"] == other["worth"]  # the same adapters, the same seeds
    assert set(one["correlation"]) == set(one["worth"]) == {"exe", "prob"}
    assert one["worth"]["prob"] != one["worth"]["exe"]
    assert set(one["success"]) == {"fewest", "most", "oracle of a", "oracle of b"}
    assert one["success"]["oracle of a"] >= max(one["success"]["fewest"], one["success"]["most"])
    assert "| a |" in table(found)
    assert "| oracle of b | correlation of R_h,exe | correlation of R_h,prob |" in table(found)
