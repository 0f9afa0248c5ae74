"""Answers without information: for calls that are only compared, or that nobody can run."""

from __future__ import annotations

from cahl_pl.environments.base import Environment, Session, refusal
from cahl_pl.types import Feedback, Task, ToolCall


class AcknowledgingEnvironment(Environment):
    """Environment that answers every call that its schema allows with `{"status": "ok"}`.

    For benchmarks that only compare calls: an answer that depended on the gold would give it away.
    """

    def start(self, task: Task) -> Session:
        """Return a session without state."""
        return _AcknowledgingSession(task)


class _AcknowledgingSession(Session):
    def __init__(self, task: Task) -> None:
        self._task = task

    def call(self, call: ToolCall) -> Feedback:
        return refusal(call, self._task) or Feedback('{"status": "ok"}')
