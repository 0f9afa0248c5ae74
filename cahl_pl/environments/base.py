"""The interface of an environment, and how its answers are written."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from cahl_pl.errors import ConfigError
from cahl_pl.python_tools.results import json_text
from cahl_pl.schema import find_problems
from cahl_pl.types import Feedback, FeedbackError, Task, ToolCall


class MissingToolsError(ConfigError):
    """A task offers tools that the environment lacks.

    Attributes:
        names: theirs.
    """

    def __init__(self, message: str, names: Sequence[str]) -> None:
        super().__init__(message)
        self.names = tuple(names)


class Session(ABC):
    """One execution of one plan: its calls see each other's effects, those of other sessions do not."""

    @abstractmethod
    def call(self, call: ToolCall) -> Feedback:
        """Return answers a call: f_k. Must not raise on anything that a model wrote."""

    def state(self) -> Mapping[str, Any] | None:
        """Return what the calls so far have left behind, for rewards that check it; None where the environment cannot tell."""
        return None


class Environment(ABC):
    """Source of answers to the calls of an execution.

    Attributes:
        runs_tools: whether answers are what tools really say.
        tools_option: the option of the class that says which tools it has; empty where it has none of its own.
        tools_source: what that option was.
    """

    runs_tools: bool = False
    tools_option: str = ""
    tools_source: str = ""

    @abstractmethod
    def start(self, task: Task) -> Session:
        """Return a fresh session for one execution of a plan of this task."""


def refusal(call: ToolCall, task: Task) -> Feedback | None:
    """Return the feedback to a call that breaks its schema, naming the first problem; None for a valid call."""
    problems = find_problems(call, task.tools)
    return failure(problems[0].message, problems[0].cause) if problems else None


def failure(message: str, error: FeedbackError) -> Feedback:
    """Return the feedback `{"error": message}`."""
    return Feedback(json_text({"error": message}), error)


def is_failure(result: Any) -> bool:
    """Return whether a stored result is what `failure` writes: `{"error": message}`, with a message and nothing else."""
    return isinstance(result, Mapping) and result.keys() == {"error"} and bool(result["error"])
