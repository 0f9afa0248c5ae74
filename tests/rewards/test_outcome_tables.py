"""Outcome rewards where tables of the state come and go, and where nothing can be checked."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cahl_pl.environments import ExecutableEnvironment, RecordedEnvironment
from cahl_pl.errors import ConfigError
from cahl_pl.parsing import format_answer, format_call, parse_action, parse_plan
from cahl_pl.rewards import OutcomeExecutorReward, OutcomePlannerReward
from cahl_pl.rewards.outcome import outcome_reward
from cahl_pl.types import Message, Outcome, Step, SubTask, Task, ToolCall, ToolSpec, Trajectory


def tool(name, /, **parameters):
    schema = {"type": "object", "properties": {p: {"type": kind} for p, kind in parameters.items()}}
    return ToolSpec(name, "", {**schema, "required": list(parameters)})


def call(name, /, **arguments):
    return format_call(ToolCall(name, arguments))


def steps_of(*texts):
    return [Step(SubTask("do it", None), text, parse_action(text)) for text in texts]


def folders(state):
    def make_folder(name):
        state["files"][name] = {}

    def make_file(name, text):
        state["files"][name] = {"text": text}

    def remove(name):
        del state["files"][name]

    def read(name):
        return "x" * 30

    return {function.__name__: function for function in (make_folder, make_file, remove, read)}


FOLDERS = ExecutableEnvironment(folders, max_characters=20)


ANSWER = format_answer("Done.")
MAKE_A, MAKE_B = call("make_folder", name="a"), call("make_folder", name="b")


ANSWER = format_answer("Done.")
MAKE_A, MAKE_B = call("make_folder", name="a"), call("make_folder", name="b")


def change(before, after):
    """A task that wants the files to become others."""
    specs = (
        tool("make_folder", name="string"),
        tool("make_file", name="string", text="string"),
        tool("remove", name="string"),
    )
    return Task("t", (Message("user", "?"),), specs, (), state={"files": before}, outcome=Outcome((), {"files": after}))


@pytest.mark.parametrize(
    ("before", "after", "texts", "expected"),
    [
        ({}, {"a": {}}, [MAKE_A], 1),
        ({}, {"a": {}}, [ANSWER], 0),  # doing nothing is not the wanted folder
        ({}, {"a": {}}, [MAKE_B], 0),  # nor is another one
        ({}, {"a": {}}, [MAKE_A, MAKE_B], 1 / 2 * 1 / 2),  # one of two changes was wanted, one of two calls served
        ({"a": {}}, {}, [call("remove", name="a")], 1),
        ({"a": {}}, {}, [ANSWER], 0),
        # a table with an entry is one change, by its entry
        ({}, {"a": {"text": "hi"}}, [call("make_file", name="a", text="hi")], 1),
        ({}, {"a": {"text": "hi"}}, [MAKE_A], 0),
        (
            {},
            {"a": {}},
            [call("make_file", name="a", text="hi")],
            1 / 2,
        ),  # it is there, with something that was not wanted
    ],
)
def test_tables_that_come_and_go_empty_are_changes(before, after, texts, expected):
    assert outcome_reward(change(before, after), steps_of(*texts), FOLDERS) == expected


def test_a_wanted_result_that_no_answer_can_hold_is_refused():
    task = Task(
        "t",
        (Message("user", "?"),),
        (tool("read", name="string"),),
        (),
        state={"files": {}},
        outcome=Outcome(("x" * 30,)),
    )
    with pytest.raises(ConfigError, match=r"'t' wants a result longer than the 20 characters .*max_characters"):
        outcome_reward(task, steps_of(call("read", name="a")), FOLDERS)


@pytest.mark.parametrize(
    ("task", "environment", "message"),
    [
        (replace(change({}, {"a": {}}), outcome=None), FOLDERS, "does not say what its fulfilment can be checked by"),
        (change({}, {"a": {}}), None, "does not say what its fulfilment can be checked by"),
        (
            change({}, {"a": {}}),
            RecordedEnvironment(),
            "is to be checked by its state, which this environment does not",
        ),
    ],
)
def test_what_cannot_be_checked(task, environment, message):
    with pytest.raises(ConfigError, match=message):
        outcome_reward(task, steps_of(MAKE_A), environment)


def test_a_task_that_cannot_be_judged_is_refused_even_with_an_unreadable_plan():
    reward = OutcomePlannerReward()
    reward.environment = FOLDERS
    task = replace(change({}, {"a": {}}), outcome=None)
    plan = parse_plan("no plan")
    with pytest.raises(ConfigError, match="does not say what its fulfilment can be checked by"):
        reward.components(plan, [Trajectory(task, "no plan", plan, ())])


@pytest.mark.parametrize("weights", [(-1, 1, 1), (0, 0, 0), (1, 1, float("inf"))])
def test_bad_weights(weights):
    with pytest.raises(ValueError, match=r"reward weights must be .* got form=.*, syn=.*, outcome="):
        OutcomeExecutorReward(*weights)
