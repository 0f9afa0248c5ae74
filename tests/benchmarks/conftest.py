"""Models that always write what a test wants: every text still goes through parsing and the environment."""

from __future__ import annotations

import pytest

from cahl_pl.parsing import format_answer, format_call, format_plan, parse_action, parse_plan
from cahl_pl.types import Feedback, Step, SubTask, ToolCall, Trajectory


def _play(task, written, environment):
    """The episode of a plan with these calls and answers; a text in place of the list is the plan itself."""
    if isinstance(written, str):
        return Trajectory(task, written, parse_plan(written))
    subtasks = [
        SubTask(f"do {w.name}", w.name, w.arguments) if isinstance(w, ToolCall) else SubTask("answer", None)
        for w in written
    ]
    text = format_plan(subtasks) if subtasks else "<plan></plan>"
    session, steps = environment.start(task), []
    for subtask, one in zip(subtasks, written, strict=True):
        output = format_call(one) if isinstance(one, ToolCall) else format_answer(one)
        action = parse_action(output)
        if action.call is not None:
            feedback = session.call(action.call)
        else:
            feedback = None if action.answer is not None else Feedback("unreadable", "parse")
        steps.append(Step(subtask, output, action, feedback))
    return Trajectory(task, text, parse_plan(text), tuple(steps))


@pytest.fixture(scope="session")
def writing():
    """Makes an `evaluate` of a function `task -> calls and answers, or a plan text`; `.tasks` keeps what was asked."""

    def make(write):
        def evaluate(tasks, environment=None):
            evaluate.tasks += tasks
            return [_play(task, write(task), environment) for task in tasks]

        evaluate.tasks = []
        return evaluate

    return make
