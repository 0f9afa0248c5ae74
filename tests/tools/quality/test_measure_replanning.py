"""The table of further plans: hand-computed values of episodes that the test writes, and what stops the tool."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from cahl_pl.environments import ExecutableEnvironment
from cahl_pl.parsing import format_call, parse_action
from cahl_pl.rollout.config import InferenceConfig
from cahl_pl.toolworld import ToolWorld
from cahl_pl.types import Plan, Step, SubTask, ToolCall, Trajectory
from tools.quality import measure_replanning


def episode(task, *calls):
    """An episode of these calls, answered by the task's tools."""
    session = ExecutableEnvironment("cahl_pl.toolworld.toolkit").start(task)
    steps = []
    for call in calls:
        text = format_call(call)
        steps.append(Step(SubTask("do it", call.name), text, parse_action(text), session.call(call)))
    return Trajectory(task, "", Plan(tuple(step.subtask for step in steps)), tuple(steps))


def test_a_call_made_in_vain_is_a_failure_that_was_fulfilled():
    tool = measure_replanning
    tasks = [task for task in ToolWorld("test", 60) if len(task.gold) == 1][:4]
    vain = ToolCall("no_such_tool", {})
    written = [[], [vain], [], [vain]]

    class Data(SimpleNamespace):
        def evaluate(self, chosen):
            self.evaluated_tokens += 10 * len(chosen)
            calls = [[*written.pop(0), task.gold[0].call] for task in chosen]
            return [episode(task, *made) for task, made in zip(chosen, calls, strict=True)]

    data = Data(
        inference=InferenceConfig(),
        test_tasks={"test": tasks},
        eval_batch_size=3,
        evaluated_tokens=7,
        rollout=SimpleNamespace(environment=ExecutableEnvironment("cahl_pl.toolworld.toolkit")),
    )
    assert tool.measure(data, "test", 4, 2) == pytest.approx((2, 50.0, 100.0, 1.5, 100 * 2 / 6, 10.0))
    assert data.inference.replans == 2


def test_a_checkpoint_that_is_not_there_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["measure_replanning.py"])
    with pytest.raises(SystemExit):
        measure_replanning.run(["--ckpt_path", "none.ckpt", "-c", "configs/quickstart.yaml"])
    assert capsys.readouterr().err.startswith("error: --ckpt_path names 'none.ckpt', which cannot be read")
