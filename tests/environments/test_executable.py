from __future__ import annotations

import asyncio
import io
import json
import os
import sys

import pytest

from cahl_pl.environments import ExecutableEnvironment, RecordedEnvironment
from cahl_pl.errors import ConfigError, Interrupted
from cahl_pl.types import Feedback, Message, Task, ToolCall, ToolSpec


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no")

    __repr__ = __str__


def toolkit(state):
    def deposit(amount):
        state["balance"] += amount
        return state["balance"]

    def fail(message):
        raise ValueError(message)

    def grow(items):
        items.append(0)
        return items

    def odd(kind):
        if kind == "unprintable error":
            raise Unprintable
        if kind == "recursion":
            return odd(kind)
        cycle = []
        cycle.append(cycle)
        return {
            "nan": float("nan"),
            "cycle": cycle,
            "keys": {(1, 2): 3},
            "unprintable": Unprintable(),
            "none": None,
            "surrogate": "\ud800",
            "set": frozenset([1]),
            "long": "x" * 100,
        }[kind]

    return {"deposit": deposit, "fail": fail, "grow": grow, "odd": odd}


def interrupted(state):
    def stop():
        raise KeyboardInterrupt

    return {"stop": stop}


def tool(name, parameter, kind):
    schema = {"type": "object", "properties": {parameter: {"type": kind}}, "required": [parameter]}
    return ToolSpec(name, "", schema)


TASK = Task(
    "t",
    (Message("user", "go"),),
    (
        tool("deposit", "amount", "integer"),
        tool("fail", "message", "string"),
        tool("grow", "items", "array"),
        tool("odd", "kind", "string"),
    ),
    state={"balance": 10},
)


@pytest.fixture
def session():
    return ExecutableEnvironment(toolkit, max_characters=60).start(TASK)


def test_calls_run_with_coerced_arguments_and_share_the_session_state(session):
    assert session.call(ToolCall("deposit", {"amount": "5"})) == Feedback("15")
    assert session.call(ToolCall("deposit", {"amount": 1})) == Feedback("16")


def test_sessions_start_from_the_task_state(session):
    session.call(ToolCall("deposit", {"amount": 5}))
    other = ExecutableEnvironment(toolkit).start(TASK)
    assert other.call(ToolCall("deposit", {"amount": 1})) == Feedback("11")
    assert TASK.state == {"balance": 10}


def test_arguments_of_the_call_stay_as_written(session):
    call = ToolCall("grow", {"items": [1]})
    assert session.call(call) == Feedback("[1, 0]")
    assert call.arguments == {"items": [1]}


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (ToolCall("nothing", {}), "unknown_tool"),
        (ToolCall("deposit", {}), "missing"),
        (ToolCall("deposit", {"amount": 1, "state": {}}), "undeclared"),
        (ToolCall("deposit", {"amount": "many"}), "type"),
    ],
)
def test_calls_that_break_the_schema_are_not_executed(session, call, error):
    assert session.call(call).error == error
    assert session.call(ToolCall("deposit", {"amount": 0})) == Feedback("10")


def test_tool_errors_are_feedback(session):
    feedback = session.call(ToolCall("fail", {"message": "no such account"}))
    assert feedback == Feedback('{"error": "no such account"}', "tool")
    assert json.loads(session.call(ToolCall("fail", {"message": ""})).text) == {"error": "ValueError"}


def test_long_texts_are_cut(session):
    long_error = session.call(ToolCall("fail", {"message": "m" * 1000}))
    assert (long_error.text, long_error.error) == ('{"error": "' + "m" * 46 + "...", "tool")
    assert session.call(ToolCall("odd", {"kind": "long"})) == Feedback('"' + "x" * 56 + "...")


@pytest.mark.parametrize(
    ("kind", "feedback"),
    [
        ("none", Feedback("null")),
        ("surrogate", Feedback('"?"')),
        ("set", Feedback("[1]")),
        ("keys", Feedback('{"[1, 2]": 3}')),
        ("unprintable error", Feedback('{"error": "Unprintable"}', "tool")),
    ],
)
def test_odd_results(session, kind, feedback):
    assert session.call(ToolCall("odd", {"kind": kind})) == feedback


@pytest.mark.parametrize("kind", ["nan", "cycle", "unprintable", "recursion", "no such kind"])
def test_whatever_a_tool_does_is_feedback(session, kind):
    assert session.call(ToolCall("odd", {"kind": kind})).error == "tool"


def test_the_user_can_interrupt():
    task = Task("t", (Message("user", "go"),), (ToolSpec("stop", "", {"type": "object", "properties": {}}),))
    with pytest.raises(KeyboardInterrupt):
        ExecutableEnvironment(interrupted).start(task).call(ToolCall("stop", {}))


def test_toolkit_by_import_path():
    environment = ExecutableEnvironment("cahl_pl.toolworld.toolkit")
    assert callable(environment.toolkit)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_module.toolkit", "'no_such_module.toolkit' cannot be imported"),
        ("json.no_such_function", "'json.no_such_function' cannot be imported"),
        ("", "'' is no import path: write module and function with dots"),
        ("my_tools/toolkit", "is no import path"),
        ("math.pi", "'math.pi' is not a function, but a float"),
    ],
)
def test_bad_import_paths(path, message):
    with pytest.raises(ValueError, match=message):
        ExecutableEnvironment(path)


def test_missing_functions_and_bad_limit():
    task = Task("t7", (Message("user", "go"),), (tool("absent", "a", "string"),), state={"balance": 1})
    with pytest.raises(ValueError, match=r"task 't7' offers tools .* \['absent'\]"):
        ExecutableEnvironment(toolkit).start(task)
    with pytest.raises(ValueError, match="max_characters must be at least 3, got 2"):
        ExecutableEnvironment(toolkit, max_characters=2)


def test_a_state_that_the_toolkit_does_not_know():
    task = Task("t7", (Message("user", "go"),), (), state={"other": 1})
    with pytest.raises(
        ConfigError, match=r"task 't7': the toolkit fails on its state \(KeyError: 'balance'\); are data"
    ):
        ExecutableEnvironment(lambda state: {"f": state["balance"].real}).start(task)


def test_the_state_is_a_copy_of_what_the_calls_left_behind(session):
    before = session.state()
    assert before == {"balance": 10}
    session.call(ToolCall("deposit", {"amount": 5}))
    after = session.state()
    assert (before, after) == ({"balance": 10}, {"balance": 15})
    after["balance"] = 0
    assert session.state() == {"balance": 15}
    assert session.call(ToolCall("deposit", {"amount": 1})) == Feedback("16")
    session.call(ToolCall("deposit", {}))  # refused
    assert session.state() == {"balance": 16}


def test_the_copy_goes_to_the_bottom():
    task = Task("t", TASK.messages, TASK.tools, state={"balance": 10, "log": [["a"]]})
    session = ExecutableEnvironment(toolkit).start(task)
    session.state()["log"][0].append("b")
    assert session.state()["log"] == task.state["log"] == [["a"]]


def test_where_there_is_no_state_there_is_none():
    task = Task("t", TASK.messages, (tool("fail", "message", "string"),))
    assert ExecutableEnvironment(toolkit).start(task).state() is None
    assert RecordedEnvironment().start(TASK).state() is None


def exiting(state):
    class Exits:
        def __str__(self):
            raise SystemExit(0)

    def stop(how):
        if how == "now":
            raise SystemExit(0)
        if how == "error":
            raise ValueError(Exits())
        if how == "state":
            state["made"] = (number for number in range(3))  # like an open file, it cannot be copied
            return 1
        return Exits()

    return {"stop": stop}


def test_a_tool_that_exits_has_failed():
    task = Task("t", (Message("user", "go"),), (tool("stop", "how", "string"),), state={})
    session = ExecutableEnvironment(exiting).start(task)
    assert session.call(ToolCall("stop", {"how": "now"})) == Feedback('{"error": "SystemExit"}', "tool")
    assert session.call(ToolCall("stop", {"how": "error"})) == Feedback('{"error": "ValueError"}', "tool")
    assert session.call(ToolCall("stop", {"how": "result"})).error == "tool"
    assert session.state() == {}
    session.call(ToolCall("stop", {"how": "state"}))
    with pytest.raises(
        ConfigError, match=r"^the tools of task 't' have left a state that cannot be copied \(.*generator"
    ):
        session.state()


class Odd(BaseException):
    def __str__(self):
        raise Odd


@pytest.mark.parametrize("error", [asyncio.CancelledError("late"), GeneratorExit("x"), Odd()])
def test_whatever_a_tool_raises_is_its_answer(error):
    def stop(how):
        raise error

    task = Task("t", TASK.messages, (tool("stop", "how", "string"),))
    feedback = ExecutableEnvironment(lambda state: {"stop": stop}).start(task).call(ToolCall("stop", {"how": "now"}))
    assert feedback.error == "tool"


@pytest.mark.parametrize("error", [Interrupted(143), KeyboardInterrupt()])
def test_a_signal_that_comes_while_a_tool_runs_is_not_the_tools_error(error):
    def stop(how):
        raise error

    task = Task("t", TASK.messages, (tool("stop", "how", "string"),))
    with pytest.raises(type(error)):
        ExecutableEnvironment(lambda state: {"stop": stop}).start(task).call(ToolCall("stop", {"how": "now"}))


@pytest.mark.parametrize("depth", [70, 470, 600, 900, 5000])
def test_lists_without_end_as_text_are_refused(session, depth):
    feedback = session.call(ToolCall("grow", {"items": "[" * depth + "]" * depth}))
    assert feedback.error == "type"


def careless(state):
    def move(path):
        os.chdir(path)
        return os.getcwd()

    def confirm():
        return input("sure? ")

    return {"move": move, "confirm": confirm}


def test_a_tool_that_changes_the_folder_or_asks_at_the_terminal_changes_nothing_of_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", reading := io.StringIO("yes\n"))
    tools = (tool("move", "path", "string"), ToolSpec("confirm", "", {"type": "object", "properties": {}}))
    folder = os.getcwd()
    session = ExecutableEnvironment(careless).start(Task("t", (Message("user", "go"),), tools))
    assert session.call(ToolCall("move", {"path": str(tmp_path)})) == Feedback(json.dumps(str(tmp_path)))
    assert os.getcwd() == folder  # to which a relative save_dir, such as `runs`, belongs
    assert session.call(ToolCall("confirm", {})).error == "tool"
    assert sys.stdin is reading
    assert reading.read() == "yes\n"
