"""Answers by running Python functions."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from cahl_pl.environments.base import Environment, MissingToolsError, Session, failure, refusal
from cahl_pl.errors import ArgumentError, ConfigError, Interrupted, ToolWarning
from cahl_pl.import_path import import_function
from cahl_pl.python_tools.apart import apart
from cahl_pl.python_tools.awaiting import finished
from cahl_pl.python_tools.loading import names_tools
from cahl_pl.python_tools.results import result_text
from cahl_pl.python_tools.toolkit import PythonToolkit
from cahl_pl.schema import coerce_call
from cahl_pl.types import Feedback, Task, ToolCall

_OURS = (Interrupted, KeyboardInterrupt)  # meant for the run, even if a tool was running when the signal came

Toolkit: TypeAlias = Callable[[Mapping[str, Any] | None], Mapping[str, Callable[..., Any]]]
"""Function from a task's initial state to its tools' functions by name, bound to that very object, which they may change."""


class ExecutableEnvironment(Environment):
    """Environment that runs each call as a Python function; a tool that raises, or exits, answers with an error.

    The functions run in this process with all its rights and no time limit: offer only tools that are safe
    to run on any argument. They have no standard input, and the working directory is the program's again after each call.

    Args:
        toolkit: function that makes a session's functions from a copy of the task's state; or its import path,
            such as `"cahl_pl.toolworld.toolkit"`; or a Python file whose functions are the tools, such as `"my_tools.py"`, or
            a class of one, `"my_tools.py:Shop"` (see `PythonTools`).
        max_characters: longer answers are cut and end with "...".

    Raises:
        ConfigError: the import path leads to nothing that can be called, or the file cannot be used.
        ValueError: `max_characters` is below 3.
    """

    runs_tools = True
    tools_option = "toolkit"

    def __init__(self, toolkit: str | Toolkit, max_characters: int = 2000) -> None:
        if max_characters < 3:
            raise ValueError(f"max_characters must be at least 3, got {max_characters}")
        self.tools_source = toolkit if isinstance(toolkit, str) else _path_of(toolkit)
        self.toolkit: Toolkit
        if isinstance(toolkit, str):
            self.toolkit = PythonToolkit(toolkit) if names_tools(toolkit) else import_function(toolkit, "toolkit")
        else:
            self.toolkit = toolkit
        self.max_characters = max_characters

    def start(self, task: Task) -> Session:
        """Return a session with fresh functions, bound to a copy of the task's state.

        Raises:
            ConfigError: the toolkit has no function for a tool that the task offers, or fails on the task's state.
        """
        if told := getattr(self.toolkit, "shared_state", str)():
            warnings.warn(told, ToolWarning, stacklevel=2)
        state = copy.deepcopy(task.state)
        try:
            with apart():
                functions = self.toolkit(state)
        except _OURS:
            raise
        except ConfigError as error:
            raise ConfigError(f"task {task.id!r}: {error}") from None
        except BaseException as error:
            raise ConfigError(
                f"task {task.id!r}: the toolkit fails on its state ({type(error).__name__}: {_message(error)}); are data "
                "and data.environment made for each other?"
            ) from error
        missing = [tool.name for tool in task.tools if tool.name not in functions]
        if missing:
            raise MissingToolsError(
                f"task {task.id!r} offers tools that the toolkit has no function for: {missing}", missing
            )
        return _ExecutableSession(task, state, functions, self.max_characters)


class _ExecutableSession(Session):
    def __init__(
        self,
        task: Task,
        state: Mapping[str, Any] | None,
        functions: Mapping[str, Callable[..., Any]],
        max_characters: int,
    ) -> None:
        self._task = task
        self._state = state
        self._functions = functions
        self._max_characters = max_characters

    def state(self) -> Mapping[str, Any] | None:
        """Return a copy of the current state.

        Raises:
            ConfigError: a tool has put something into it that cannot be copied, such as an open file.
        """
        try:
            return copy.deepcopy(self._state)
        except _OURS:
            raise
        except BaseException as error:
            raise ConfigError(
                f"the tools of task {self._task.id!r} have left a state that cannot be copied ({_message(error)}); let them "
                "put only values into it that JSON has"
            ) from error

    def call(self, call: ToolCall) -> Feedback:
        refused = refusal(call, self._task)
        if refused is not None:
            return refused
        # A copy, since the tool may change its arguments in place and the call has yet to be scored.
        arguments = copy.deepcopy(dict(coerce_call(call, self._task.tools).arguments))
        try:
            with apart():
                result = finished(self._functions[call.name](**arguments))
        except _OURS:
            raise
        except ArgumentError as error:
            return self._cut(failure(str(error), "type"))
        except BaseException as error:
            return self._cut(failure(_message(error), "tool"))
        try:
            return self._cut(Feedback(result_text(result)))
        except _OURS:
            raise
        except TypeError as error:
            return self._cut(failure(_message(error), "tool"))
        except BaseException:  # the result's own __str__ may raise anything
            return failure("the tool's result cannot be written as JSON", "tool")

    def _cut(self, feedback: Feedback) -> Feedback:
        if len(feedback.text) <= self._max_characters:
            return feedback
        return Feedback(feedback.text[: self._max_characters - 3] + "...", feedback.error)


def _path_of(toolkit: Toolkit) -> str:
    """Return the import path of a function; for another object, that of its class."""
    named = toolkit if hasattr(toolkit, "__qualname__") else type(toolkit)
    return f"{named.__module__}.{named.__qualname__}"


def _message(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return "SystemExit"  # its text is a status, such as 0
    try:
        return str(error) or type(error).__name__
    except _OURS:
        raise
    except BaseException:
        return type(error).__name__
