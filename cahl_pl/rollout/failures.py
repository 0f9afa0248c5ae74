"""Where the episodes of a training round have failed, so that a further plan can go on from there."""

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
        asked: the task as it was given first.
        made: all steps since then, over all plans, the failed one last.
        task: what is left of it.
    """

    asked: Task
    made: tuple[Step, ...]
    task: Task


def failures_of(since: Failure, episodes: Iterable[Episode], builder: PromptBuilder, limit: int) -> list[Failure]:
    """Return the first failure of each episode that has one and whose further plan's prompt keeps to the limit.

    Of a task that is judged by its outcome, without gold calls, nobody can tell what is left: it has none.

    Args:
        since: what the episodes began with.
        episodes: of one task.
        builder: makes the prompts.
        limit: most tokens that a prompt may have.
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
    """Return fresh sessions in which all calls up to a failure have been made again; None where one is answered otherwise.

    Then what the plans would go on from is not what their prompt says.

    Args:
        environment: answers the calls.
        failure: what led to it is repeated.
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
