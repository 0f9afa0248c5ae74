"""Answers from the gold trajectory: for data whose tools cannot be run."""

from __future__ import annotations

from typing import Any

from cahl_pl.environments.base import Environment, Session, failure, is_failure, refusal
from cahl_pl.python_tools.results import json_text
from cahl_pl.schema import call_key
from cahl_pl.types import NO_RESULT, Feedback, Task, ToolCall


class RecordedEnvironment(Environment):
    """Environment that answers each gold call once with its stored result, and any other call with the error `unmatched`.

    A gold call with no stored result is answered `{"status": "ok"}`. One whose result is an error as environments write
    it, `{"error": "why"}` and nothing else, fails with the error `tool`, as it did when it was recorded.
    """

    def start(self, task: Task) -> Session:
        """Return a session in which no gold call has been answered yet."""
        return _RecordedSession(task)


class _RecordedSession(Session):
    def __init__(self, task: Task) -> None:
        self._task = task
        self._open: list[tuple[tuple[str, str], Any]] = []
        for way in task.ways:
            ready = [key for key, _ in self._open]  # a call shared by several ways is answered once
            for gold in way:
                key = call_key(gold.call, task.tools)
                if key in ready:
                    ready.remove(key)
                else:
                    self._open.append((key, gold.result))

    def call(self, call: ToolCall) -> Feedback:
        refused = refusal(call, self._task)
        if refused is not None:
            return refused
        key = call_key(call, self._task.tools)
        for i, (gold_key, result) in enumerate(self._open):
            if gold_key == key:
                del self._open[i]
                text = json_text({"status": "ok"} if result is NO_RESULT else result)
                return Feedback(text, "tool" if is_failure(result) else None)
        return failure("there is no result for this call", "unmatched")
