"""Prompts that are longer than they may be: what becomes of their tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple, TypeAlias

from cahl_pl.errors import ConfigError
from cahl_pl.types import Task

TooLong: TypeAlias = Literal["drop", "truncate", "fail"]


class Fitting(NamedTuple):
    """The tasks that are run, in their order, with their prompts, and how many are not, or not whole."""

    tasks: list[Task]
    prompts: list[list[int]]
    metrics: dict[str, float]


def fit_prompts(tasks: Sequence[Task], render: Callable[[Task], list[int]], limit: int, too_long: TooLong) -> Fitting:
    """Make the prompts, and keep to the limit.

    Args:
        tasks: the tasks.
        render: makes a task's prompt.
        limit: most tokens that a prompt may have.
        too_long: `drop` leaves the task out; `truncate` leaves out the oldest messages of its dialogue, as few as will do,
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
    """Return the task without the oldest message of its dialogue; None where only what has to stay is left."""
    first = int(task.messages[0].role == "system")
    if len(task.messages) - first < 2:
        return None
    return replace(task, messages=(*task.messages[:first], *task.messages[first + 1 :]))
