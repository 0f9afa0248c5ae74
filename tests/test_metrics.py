"""Success and economy of tool calls, on episodes counted by hand."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
import torch

from cahl_pl.metrics import INVALID_CAUSES, ToolUse, is_success
from cahl_pl.types import (
    Action,
    Feedback,
    GoldCall,
    Message,
    Plan,
    Step,
    SubTask,
    Task,
    ToolCall,
    ToolSpec,
    Trajectory,
)

WEATHER = ToolSpec(
    "weather",
    "",
    {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city"],
    },
)
SUBTASK = SubTask("look", "weather")
OSLO = {"city": "Oslo", "days": 3}
ROME = {"city": "Rome", "days": 3}


def call(arguments, error=None, name="weather"):
    return Step(SUBTASK, "text", Action(call=ToolCall(name, arguments), well_formed=True), Feedback("f", error))


def answer(well_formed=True):
    return Step(SUBTASK, "text", Action(answer="hello", well_formed=well_formed))


UNREADABLE = Step(SUBTASK, "text", Action(error="no call"), Feedback("f", "parse"))


def episode(*steps, gold=(OSLO,), error=None, subtasks=1):
    task = Task("t", (Message("user", "q"),), (WEATHER,), tuple(GoldCall("weather", a) for a in gold))
    plan = Plan((SUBTASK,) * subtasks) if error is None else Plan(error=error)
    return Trajectory(task, "plan", plan, steps)


def computed(*trajectories):
    metric = ToolUse()
    metric.update(trajectories)
    return {name: value.item() for name, value in metric.compute().items()}


@pytest.mark.parametrize(
    ("trajectory", "expected"),
    [
        (episode(call(OSLO)), True),
        (episode(call({"days": "3", "city": "Oslo"})), True),  # coerced by the schema
        (episode(call({**OSLO, "days": 4})), False),
        (episode(call(OSLO), call(OSLO)), False),  # once too often
        (episode(call(OSLO), call(OSLO), gold=(OSLO, OSLO)), True),
        (episode(call(OSLO), gold=(OSLO, OSLO)), False),
        (episode(call(ROME), call(OSLO), gold=(OSLO, ROME)), True),  # order does not count
        (episode(call(OSLO), gold=(OSLO, ROME)), False),
        (episode(call(OSLO, name="wether")), False),
        (episode(answer()), False),
        (episode(), False),
        (episode(call(OSLO), answer()), True),
        (episode(answer(), gold=()), True),
        (episode(answer(well_formed=False), gold=()), False),
        (episode(answer(), gold=(), error="broken"), False),
        (episode(answer(), call(OSLO), gold=()), False),
        (episode(gold=()), False),
    ],
)
def test_success(trajectory, expected):
    assert is_success(trajectory) is expected


def test_rates_counted_by_hand():
    values = computed(
        episode(call(OSLO), call(ROME), gold=(OSLO, ROME), subtasks=2),  # success, 2 calls
        episode(call(OSLO), UNREADABLE, answer(), subtasks=3),  # success, 2 calls: 1 surplus, 1 parse
        # no success, 5 calls: 4 surplus; 1 redundant (equal once coerced), 1 of the tool's own errors
        episode(
            call(ROME, "tool"),
            call({**ROME, "days": "3"}),
            call({}, "missing"),
            call({}, "unknown_tool", name="x"),
            call({"city": 1}, "unmatched"),
        ),
        replace(episode(error="broken"), cut=True),
    )
    assert values == pytest.approx(
        {
            "task/success": 2 / 4,
            "task/cut": 1 / 4,
            "tools/calls_per_task": 9 / 4,
            "tools/calls_per_success": 4 / 2,
            "tools/invalid_rate": 4 / 9,
            "tools/invalid_rate/parse": 1 / 9,
            "tools/invalid_rate/unknown_tool": 1 / 9,
            "tools/invalid_rate/missing": 1 / 9,
            "tools/invalid_rate/undeclared": 0,
            "tools/invalid_rate/type": 0,
            "tools/invalid_rate/unmatched": 1 / 9,
            "tools/error_rate": 1 / 9,
            "tools/redundant_rate": 1 / 9,
            "tools/excess": 5 / 9,
            "plan/subtasks": 6 / 3,
            "plan/parse_error_rate": 1 / 4,
            "plan/thinking_tokens": 0,
            "tools/thinking_tokens": 0,
        }
    )


def test_tokens_of_thought_are_means_over_trajectories():
    thinking = replace(call(OSLO), thinking_tokens=5)
    first = replace(episode(thinking, replace(answer(), thinking_tokens=2)), plan_thinking_tokens=10)
    values = computed(first, episode(error="broken"))
    assert (values["plan/thinking_tokens"], values["tools/thinking_tokens"]) == (10 / 2, (5 + 2) / 2)


@pytest.mark.parametrize("cause", INVALID_CAUSES)
def test_every_cause_has_its_rate(cause):
    values = computed(episode(UNREADABLE if cause == "parse" else call(OSLO, cause)))
    assert {name for name, value in values.items() if name.startswith("tools/invalid") and value} == {
        "tools/invalid_rate",
        f"tools/invalid_rate/{cause}",
    }


def test_answers_are_no_calls():
    values = computed(episode(answer(), answer(), gold=()))
    assert values["tools/calls_per_task"] == 0
    assert values["tools/excess"] == 0


def test_same_call_in_another_trajectory_is_not_redundant():
    assert computed(episode(call(OSLO)), episode(call(OSLO)))["tools/redundant_rate"] == 0


def test_nothing_counted_gives_zeros():
    metric = ToolUse()
    metric.update([])
    assert all(value == 0 for value in metric.compute().values())


def test_updates_add_up_in_any_order_and_reset():
    first, second = [episode(call(OSLO)), episode(error="x")], [episode(call(ROME, "tool"))]
    forward, backward = ToolUse(), ToolUse()
    for batch in (first, second):
        forward.update(batch)
    for batch in (second, first):
        backward.update(batch)
    assert forward.compute() == backward.compute()
    assert forward.compute()["task/success"] == pytest.approx(1 / 3)
    copy = pickle.loads(pickle.dumps(forward))
    assert copy.compute() == forward.compute()
    forward.reset()
    forward.update(second)
    assert forward.compute()["task/success"] == 0


def test_two_processes_give_the_counts_of_both(monkeypatch):
    mine, other = ToolUse(), ToolUse()
    mine.update([episode(call(OSLO))])
    other.update([episode(call(ROME)), episode(call(ROME), call(ROME))])
    monkeypatch.setattr(mine, "distributed_available_fn", lambda: True)
    monkeypatch.setattr(mine, "dist_sync_fn", lambda state, group: [state, other.counts])
    values = mine.compute()
    assert values["task/success"] == pytest.approx(1 / 3)
    assert values["tools/redundant_rate"] == pytest.approx(1 / 4)
    assert torch.equal(mine.counts[:1], torch.tensor([1])), "after computing, the own counts are back"


@pytest.mark.parametrize(("outcome", "expected"), [(1.0, True), (0.999, False), (0.0, False)])
@pytest.mark.parametrize("trajectory", [episode(call(OSLO), gold=()), episode(answer(), gold=()), episode(gold=())])
def test_an_outcome_decides_alone(trajectory, outcome, expected):
    assert is_success(replace(trajectory, outcome=outcome)) is expected


def test_outcomes_count_among_the_successes():
    found = replace(episode(call(OSLO), answer(), gold=()), outcome=1.0)
    missed = replace(found, outcome=0.5)
    values = computed(found, missed, episode(call(OSLO)))
    assert values["task/success"] == pytest.approx(2 / 3)
    assert values["tools/calls_per_success"] == 1
