"""An environment of a user's own that raises, or answers by what is no answer: one sentence with its class and the task."""

from __future__ import annotations

import re
from typing import Any

import pytest

from cahl_pl.environments import Environment, Session
from cahl_pl.environments.base import answered, started, state_of
from cahl_pl.errors import ConfigError, Interrupted
from cahl_pl.types import Feedback, Message, Task, ToolCall

TASK = Task("trip-1", (Message("user", "q"),), ())
CALL = ToolCall("f", {})

BY = f"{__name__}.Mine.call answers f in task 'trip-1' by a Feedback whose "


class Mine(Environment, Session):
    """Gives or raises what it is told to, at its start or at a call."""

    def __init__(self, at: str, what: Any) -> None:
        self.at, self.what = at, what

    def _do(self, at: str, good: Any) -> Any:
        if at != self.at:
            return good
        if isinstance(self.what, BaseException):
            raise self.what
        return self.what

    def start(self, task: Task) -> Any:
        return self._do("start", self)

    def call(self, call: ToolCall) -> Any:
        return self._do("call", Feedback("1"))


def run(at: str, what: Any) -> Feedback:
    return answered(started(Mine(at, what), TASK), CALL, TASK)


@pytest.mark.parametrize("error", [ValueError("no such city\n"), KeyError("x"), ZeroDivisionError(), SystemExit(0)])
@pytest.mark.parametrize("at", ["start", "call"])
def test_what_it_raises_is_told(at: str, error: BaseException) -> None:
    with pytest.raises(ConfigError) as raised:
        run(at, error)
    text = " ".join(str(error).split())
    said = f"{__name__}.Mine.{at} raised {type(error).__name__}{text and f' ({text})'} for task 'trip-1' in {__file__}, line "
    assert str(raised.value).startswith(said)
    assert re.search(
        r"line \d+: correct it; what a model writes and a tool cannot do is answered, by ", str(raised.value)
    )
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("at", "what", "said"),
    [
        ("start", None, f"{__name__}.Mine.start gives null for task 'trip-1': give a Session"),
        ("call", None, f"{__name__}.Mine.call answers f in task 'trip-1' by null: give a Feedback"),
        ("call", "sunny", f"{__name__}.Mine.call answers f in task 'trip-1' by text: give a Feedback"),
        ("call", Feedback(5), f"{BY}text is 5: give it text, such as json.dumps makes of any result"),  # type: ignore[arg-type]
        ("call", Feedback(None), f"{BY}text is None: give it text, such as json.dumps makes of any result"),  # type: ignore
        ("call", Feedback("x", "mine"), f"{BY}error is 'mine': give it None or one of its kinds, such as 'tool'"),  # type: ignore
    ],
)
def test_what_is_no_answer_is_told(at: str, what: Any, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        run(at, what)
    assert str(raised.value) == said


@pytest.mark.parametrize("error", [Interrupted(143), KeyboardInterrupt(), ConfigError("mine")])
def test_what_is_meant_for_the_run_passes(error: BaseException) -> None:
    with pytest.raises(type(error)) as raised:
        run("call", error)
    assert raised.value is error
    assert run("", None) == Feedback("1")


@pytest.mark.parametrize("state", [[1], "sunny", 5])
def test_a_state_that_is_none_is_told(state: Any) -> None:
    class Stateful(Mine):
        def state(self) -> Any:
            return self.what

    with pytest.raises(ConfigError, match=r"Stateful\.state gives .* for task .trip-1.: give a mapping, or None"):
        state_of(Stateful("", state), TASK)
    assert state_of(Stateful("", {"a": 1}), TASK) == {"a": 1}
    assert state_of(Stateful("", None), TASK) is None


def test_a_state_that_raises_is_told() -> None:
    class Broken(Mine):
        def state(self) -> Any:
            raise KeyError("x")

    with pytest.raises(ConfigError, match=r"Broken\.state raised KeyError .* for task .trip-1. in .*, line \d+: correct it$"):
        state_of(Broken("", None), TASK)
