"""Limit on the length of prompts, and handling of tasks that exceed it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple, TypeAlias

from cahl_pl.errors import ConfigError
from cahl_pl.types import Task

TooLong: TypeAlias = Literal["drop", "truncate", "fail"]


class Fitting(NamedTuple):
    """Tasks that are run, in order, with their prompts, and counts of those dropped or truncated."""

    tasks: list[Task]
    prompts: list[list[int]]
    metrics: dict[str, float]


def fit_prompts(tasks: Sequence[Task], render: Callable[[Task], list[int]], limit: int, too_long: TooLong) -> Fitting:
    """Make the prompts, within the limit.

    Args:
        tasks: the tasks.
        render: function that makes a task's prompt.
        limit: maximum tokens of a prompt.
        too_long: `drop` leaves the task out; `truncate` leaves out the oldest messages of its dialogue, as few as needed,
            but neither a system message nor the last one, and the task if that is not enough; `fail` stops.

    Raises:
        ConfigError: with `fail`, a prompt is too long.
    """
    found = Fitting([], [], {})
    truncated = 0
    for whole in tasks:
        task, prompt = whole, render(whole)
        if len(prompt) > limit and too_long == "fail":
            raise ConfigError(
                f"the prompt of task {task.id!r} has {len(prompt)} tokens, more than data.rollout.max_prompt_tokens = {limit}: "
                "raise it, shorten the tools (data.prompts.tool_format), or set data.rollout.too_long to drop or truncate"
            )
        while len(prompt) > limit and too_long == "truncate" and (shorter := _shortened(task)) is not None:
            task, prompt = shorter, render(shorter)
        if len(prompt) <= limit:
            truncated += task is not whole
            found.tasks.append(task)
            found.prompts.append(prompt)
    found.metrics["rollout/tasks"] = float(len(tasks))
    found.metrics["rollout/tasks_too_long"] = float(len(tasks) - len(found.tasks))
    if too_long == "truncate":
        found.metrics["rollout/tasks_truncated"] = float(truncated)
    return found


def _shortened(task: Task) -> Task | None:
    """Return the task without the oldest message of its dialogue; None if no removable message is left."""
    first = int(task.messages[0].role == "system")
    if len(task.messages) - first < 2:
        return None
    return replace(task, messages=(*task.messages[:first], *task.messages[first + 1 :]))
