from __future__ import annotations

import json

import pytest

from cahl_pl.environments import RecordedEnvironment
from cahl_pl.types import Feedback, GoldCall, Message, Task, ToolCall, ToolSpec

TOOL = ToolSpec(
    "f",
    "A tool.",
    {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "object"}}, "required": ["a"]},
)


@pytest.fixture
def session():
    gold = (
        GoldCall("f", {"a": 1}, result="first \u00e9"),
        GoldCall("f", {"a": "2", "b": {"x": 1, "y": 2}}, result={"ok": True}),
        GoldCall("f", {"a": 1}, result=7),
        GoldCall("f", {"a": 4}),
    )
    return RecordedEnvironment().start(Task("t", (Message("user", "go"),), (TOOL,), gold))


def test_gold_calls_are_answered_once_each_in_any_order(session):
    assert session.call(ToolCall("f", {"b": {"y": 2.0, "x": 1}, "a": 2})) == Feedback('{"ok": true}')
    assert session.call(ToolCall("f", {"a": "1"})) == Feedback('"first \u00e9"')
    assert session.call(ToolCall("f", {"a": 1.0})) == Feedback("7")
    assert session.call(ToolCall("f", {"a": 1})).error == "unmatched"
    assert session.call(ToolCall("f", {"a": 4})) == Feedback('{"status": "ok"}')


def test_calls_of_every_way_are_answered_and_shared_ones_once():
    one, two, three = (GoldCall("f", {"a": a}, result=a) for a in (1, 2, 3))
    task = Task("t", (Message("user", "go"),), (TOOL,), (one, two), alternatives=((one, three), (one, one)))
    session = RecordedEnvironment().start(task)
    answers = [session.call(ToolCall("f", {"a": a})) for a in (1, 2, 3, 1, 1)]
    assert [answer.text for answer in answers[:4]] == ["1", "2", "3", "1"]
    assert answers[4].error == "unmatched"


def test_sessions_are_independent(session):
    environment = RecordedEnvironment()
    task = Task("t", (Message("user", "go"),), (TOOL,), (GoldCall("f", {"a": 1}, result=1),))
    assert [environment.start(task).call(ToolCall("f", {"a": 1})).text for _ in range(2)] == ["1", "1"]


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (ToolCall("g", {"a": 1}), "unknown_tool"),
        (ToolCall("f", {}), "missing"),
        (ToolCall("f", {"a": 1, "c": 2}), "undeclared"),
        (ToolCall("f", {"a": "x"}), "type"),
        (ToolCall("f", {"a": 3}), "unmatched"),
        (ToolCall("f", {"a": True}), "type"),
        (ToolCall("\ud800", {"\ud800": [[[]]]}), "unknown_tool"),
    ],
)
def test_other_calls_are_errors(session, call, error):
    feedback = session.call(call)
    assert feedback.error == error
    assert list(json.loads(feedback.text)) == ["error"]
    assert len(feedback.text.encode()) < 300


@pytest.mark.parametrize(
    ("result", "error"),
    [
        ({"error": "no such city"}, "tool"),
        ({"error": {"code": 404}}, "tool"),
        ({"error": None}, None),
        ({"error": ""}, None),
        ({"error": "", "response": "ok"}, None),
        ({"error": "slow", "response": "ok"}, None),  # other tools' notes
        ('{"error": "text"}', None),
        ("error", None),
    ],
)
def test_a_failure_that_was_recorded_fails_again(result, error):
    task = Task("t", (Message("user", "go"),), (TOOL,), (GoldCall("f", {"a": 1}, result),))
    assert RecordedEnvironment().start(task).call(ToolCall("f", {"a": 1})) == Feedback(json.dumps(result), error)
