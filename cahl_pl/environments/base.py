"""Interface of an environment, and the format of its answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from cahl_pl.errors import ConfigError, Interrupted, UserError
from cahl_pl.errors.own_code import path_of, raised_by
from cahl_pl.python_tools.results import json_text
from cahl_pl.schema import find_problems
from cahl_pl.schema.wording import kind_word, show
from cahl_pl.types import Feedback, FeedbackError, Task, ToolCall


class MissingToolsError(ConfigError):
    """Error that a task offers tools that the environment lacks.

    Attributes:
        names: names of these tools.
    """

    def __init__(self, message: str, names: Sequence[str]) -> None:
        super().__init__(message)
        self.names = tuple(names)


class LeavesEpisode(Exception):
    """Signal by which one of our environments ends the episode that it is called in; the episode's player lets it pass."""


class Session(ABC):
    """One execution of one plan: its calls see each other's effects, those of other sessions do not."""

    @abstractmethod
    def call(self, call: ToolCall) -> Feedback:
        """Return the answer to a call: f_k. Must not raise on anything that a model wrote."""

    def state(self) -> Mapping[str, Any] | None:
        """Return the state after the calls so far, for rewards that check it; None if the environment cannot tell."""
        return None


class Environment(ABC):
    """Source of answers to the calls of an execution.

    Attributes:
        runs_tools: whether answers come from running tools.
        tools_option: the option of the class that says which tools it has; empty if it has none of its own.
        tools_source: the value of that option.
    """

    runs_tools: bool = False
    tools_option: str = ""
    tools_source: str = ""

    @abstractmethod
    def start(self, task: Task) -> Session:
        """Return a fresh session for one execution of a plan of this task."""


def started(environment: Environment, task: Task) -> Session:
    """Return a session of an environment, which may be a user's own.

    Raises:
        ConfigError: it raises anything but a `UserError`, or returns no session; the sentence names its class and the task,
            and the run's progress is saved.
    """
    try:
        session = environment.start(task)
    except (UserError, *_OF_THE_RUN):
        raise
    except (Exception, SystemExit) as error:
        raise _fault_of(environment, "start", task, error) from error
    if not callable(getattr(session, "call", None)):
        raise ConfigError(
            f"{path_of(environment)}.start gives {kind_word(session)} for task {task.id!r}: give a Session"
        )
    return session


def answered(session: Session, call: ToolCall, task: Task) -> Feedback:
    """Return the answer of a session, which may be a user's own.

    Raises:
        ConfigError: as `started`.
    """
    try:
        feedback = session.call(call)
    except (UserError, *_OF_THE_RUN):
        raise
    except (Exception, SystemExit) as error:
        raise _fault_of(session, "call", task, error) from error
    if not isinstance(feedback, Feedback):
        raise ConfigError(
            f"{path_of(session)}.call answers {call.name} in task {task.id!r} by {kind_word(feedback)}: give a Feedback"
        )
    if not isinstance(feedback.text, str) or feedback.error not in (None, *get_args(FeedbackError)):
        what = "error" if isinstance(feedback.text, str) else "text"
        right = "text, such as json.dumps makes of any result" if what == "text" else "None or one of its kinds, such as 'tool'"
        raise ConfigError(
            f"{path_of(session)}.call answers {call.name} in task {task.id!r} by a Feedback whose {what} is "
            f"{show(getattr(feedback, what))}: give it {right}"
        )
    return feedback


def state_of(session: Session, task: Task) -> Mapping[str, Any] | None:
    """Return the state after the calls of a session, which may be a user's own.

    Raises:
        ConfigError: as `started`.
    """
    try:
        state = session.state()
    except (UserError, *_OF_THE_RUN):
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{raised_by(session, 'state', f'task {task.id!r}', error)}: correct it") from error
    if state is not None and not isinstance(state, Mapping):
        raise ConfigError(
            f"{path_of(session)}.state gives {kind_word(state)} for task {task.id!r}: give a mapping, or None where it is "
            "not known"
        )
    return state


_OF_THE_RUN = (Interrupted, KeyboardInterrupt, LeavesEpisode)  # a signal may come at any time


def _fault_of(own: object, method: str, task: Task, error: BaseException) -> ConfigError:
    return ConfigError(
        f"{raised_by(own, method, f'task {task.id!r}', error)}: correct it; what a model writes and a tool cannot do "
        "is answered, by cahl_pl.environments.base.failure(MESSAGE, 'tool')"
    )


def refusal(call: ToolCall, task: Task) -> Feedback | None:
    """Return the feedback to a call that breaks its schema, naming the first problem; None for a valid call."""
    problems = find_problems(call, task.tools)
    return failure(problems[0].message, problems[0].cause) if problems else None


def failure(message: str, error: FeedbackError) -> Feedback:
    """Return the feedback `{"error": message}`."""
    return Feedback(json_text({"error": message}), error)


def is_failure(result: Any) -> bool:
    """Return whether a stored result is one that `failure` writes: `{"error": message}` and nothing else."""
    return isinstance(result, Mapping) and result.keys() == {"error"} and bool(result["error"])
