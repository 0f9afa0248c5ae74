"""Failures in the episodes of a training round, from which a further plan can continue."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cahl_pl.environments.base import Environment, Session, answered, started
from cahl_pl.prompts import PromptBuilder
from cahl_pl.rollout.episode import Episode
from cahl_pl.rollout.left_over import has_failed, left_over
from cahl_pl.types import Step, Task


@dataclass(frozen=True)
class Failure:
    """A call that failed, and what led to it.

    Attributes:
        asked: the original task.
        made: all steps since then, over all plans, the failed one last.
        task: the remainder of it.
    """

    asked: Task
    made: tuple[Step, ...]
    task: Task


def failures_of(since: Failure, episodes: Iterable[Episode], builder: PromptBuilder, limit: int) -> list[Failure]:
    """Return the first failure of each episode that has one and whose further plan's prompt is within the limit.

    A task judged by its outcome, without gold calls, has none, since what is left of it cannot be determined.

    Args:
        since: state that the episodes began with.
        episodes: episodes of one task.
        builder: prompt builder.
        limit: maximum tokens of a prompt.
    """
    outcome = since.asked.outcome
    if not since.asked.gold and outcome is not None and outcome.needs_tools:
        return []
    found = []
    for episode in episodes:
        count = next((k for k, step in enumerate(episode.steps, start=1) if has_failed(step)), 0)
        if count:
            steps = episode.steps[:count]
            left = left_over(episode.asked, steps)
            if len(builder.planner(left)) <= limit:
                found.append(Failure(since.asked, (*since.made, *steps), left))
    return found


def reopened(environment: Environment, failure: Failure, count: int) -> list[Session] | None:
    """Return fresh sessions in which all calls up to a failure have been repeated; None if one gets another answer.

    In that case the plans would not continue from the state that their prompt describes.

    Args:
        environment: answers the calls.
        failure: the failure, whose calls are repeated.
        count: number of sessions.
    """
    sessions = []
    for _ in range(count):
        session = started(environment, failure.asked)
        for step in failure.made:
            call = step.action.call
            if call is not None and answered(session, call, failure.asked) != step.feedback:
                return None
        sessions.append(session)
    return sessions
