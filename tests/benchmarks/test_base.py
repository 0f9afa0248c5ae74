"""What benchmarks share: picking a share of the tasks, the dialogue of the next turn, records and their counts."""

from __future__ import annotations

import pytest

from cahl_pl.benchmarks.base import by_group, make_record, spread
from cahl_pl.environments import AcknowledgingEnvironment
from cahl_pl.errors import ConfigError
from cahl_pl.prompts import dialogue
from cahl_pl.types import GoldCall, Message, Task, ToolCall, ToolSpec

ADD = ToolSpec("add", "", {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
TASK = Task("t", (Message("user", "q"),), (ADD,), (GoldCall("add", {"a": 1}),))
GOLD = ToolCall("add", {"a": 1})


def episode(writing, *written):
    (trajectory,) = writing(lambda task: list(written))([TASK], AcknowledgingEnvironment())
    return trajectory


def test_a_share_is_taken_in_turn_from_each_group():
    groups = ["a", "a", "a", "b", "b", "c"]
    assert spread(groups, 4) == [0, 1, 3, 5]
    assert spread(groups, 2) == [0, 3]
    assert spread(groups, None) == spread(groups, 9) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("max_tasks", [0, -1])
def test_no_tasks_are_refused(max_tasks):
    with pytest.raises(ConfigError, match=f"max_tasks is {max_tasks}: give 1 or more, or null"):
        spread(["a", "a", "b"], max_tasks)


def test_answers_do_not_depend_on_the_gold(writing):
    calls = (GOLD, ToolCall("add", {"a": 2}), ToolCall("add", {}))
    right, wrong, invalid = (episode(writing, call).steps[0].feedback for call in calls)
    assert right == wrong
    assert (right.text, right.error) == ('{"status": "ok"}', None)
    assert invalid.error == "missing"


def test_the_next_turn_sees_calls_answers_and_results(writing):
    assert dialogue(episode(writing, GOLD, "one")) == [
        Message("assistant", '<tool_call>{"name": "add", "parameters": {"a": 1}}</tool_call>'),
        Message("tool", '{"status": "ok"}'),
        Message("assistant", "one"),
    ]


def test_a_record_counts_over_all_turns(writing):
    turns = [episode(writing, GOLD), episode(writing, GOLD, "done")]
    one = make_record("t", "g", turns, success=True, gold_calls=1, note="n")
    assert (one["id"], one["group"], one["success"], one["note"]) == ("t", "g", True, "n")
    counts = {key: value for key, value in one["counts"].items() if value}
    # two calls, the second repeats the first and is one more than needed
    assert counts == {
        "trajectories": 1,
        "successes": 1,
        "calls": 2,
        "calls_in_successes": 2,
        "redundant": 1,
        "surplus": 1,
        "subtasks": 3,
    }
    assert [len(shown["steps"]) for shown in one["episodes"]] == [1, 2]
    assert all("success" not in shown for shown in one["episodes"])
    assert "surplus" not in make_record("t", "g", turns, success=True)["counts"]


def test_groups_keep_their_order():
    records = [{"group": "b", "success": True}, {"group": "a", "success": False}, {"group": "b", "success": False}]
    assert list(by_group(records).items()) == [("b", 0.5), ("a", 0.0)]
