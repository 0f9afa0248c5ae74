"""Schedules: which roles take an optimiser step after each rollout round."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator

from cahl_pl.errors import ConfigError
from cahl_pl.errors.own_code import own_code, path_of
from cahl_pl.types import ROLES, Role


class Schedule(ABC):
    """The order of the two roles' optimiser steps.

    A round gives at most one batch to each role: a role that has stepped needs new samples before its next step.
    """

    @abstractmethod
    def roles(self, round_index: int) -> tuple[Role, ...]:
        """Return the roles that step in that round (counted from 0 over the whole run), in order; never empty."""

    def planned_steps(
        self, updates_per_round: int, max_rounds: int | None, max_steps: int | None
    ) -> Iterator[tuple[int, Role]] | None:
        """Yield the round, from 0, and the role of every optimiser step from a run's first to its last.

        Args:
            updates_per_round: steps of a role on the same batch.
            max_rounds: rounds of the run; None: as many as `max_steps` take.
            max_steps: steps of the run; None: as many as `max_rounds` have.

        Returns:
            None if neither determines the last step.
        """
        if max_rounds is None and max_steps is None:
            return None
        rounds = itertools.count() if max_rounds is None else range(max_rounds)
        steps = ((i, role) for i in rounds for role in roles_of(self, i) * updates_per_round)
        return itertools.islice(steps, max_steps)


def roles_of(schedule: Schedule, round_index: int) -> tuple[Role, ...]:
    """Return the roles of a schedule, which may be a user's own, that step in a round.

    Raises:
        ConfigError: it raises an error, or returns anything but one role or both, each once.
    """
    with own_code(schedule, "roles", f"round {round_index}"):
        found = schedule.roles(round_index)
    is_list = isinstance(found, tuple | list)
    if not is_list or not found or any(role not in ROLES for role in found) or len(found) > len({*map(str, found)}):
        raise ConfigError(
            f"{path_of(schedule)}.roles gives {found!r} for round {round_index}: give a tuple of 'planner' or 'executor' or of "
            "both, each once"
        )
    return tuple(found)


class Alternate(Schedule):
    """One planner step and one executor step each round.

    The executor's batch stays on-policy after the planner's step, since the executor's adapter has not moved.

    Args:
        first: the role that steps first.
    """

    def __init__(self, first: Role = "planner") -> None:
        self.order: tuple[Role, ...] = ROLES if first == "planner" else (ROLES[1], ROLES[0])

    def roles(self, round_index: int) -> tuple[Role, ...]:
        """Return both roles, `first` first."""
        return self.order


class PlannerOnly(Schedule):
    """Schedule of the planner alone; the executor does not change (the paper's FreezeLow)."""

    def roles(self, round_index: int) -> tuple[Role, ...]:
        """Return the planner."""
        return ("planner",)


class ExecutorOnly(Schedule):
    """Schedule of the executor alone; the planner does not change (the paper's FreezeHigh)."""

    def roles(self, round_index: int) -> tuple[Role, ...]:
        """Return the executor."""
        return ("executor",)


class Ratio(Schedule):
    """Cycle of `planner` planner steps, then `executor` executor steps.

    Args:
        planner: planner steps in a row, n.
        executor: executor steps in a row, m.

    Raises:
        ValueError: a count is below 1.
    """

    def __init__(self, planner: int = 1, executor: int = 1) -> None:
        if planner < 1 or executor < 1:
            raise ValueError(f"schedule Ratio needs at least one step of each role, not {planner} and {executor}")
        self.planner, self.executor = planner, executor

    def roles(self, round_index: int) -> tuple[Role, ...]:
        """Return the planner for n - 1 rounds, both once, the executor for m - 1: the last P and the first E share a round."""
        turn = round_index % (self.planner + self.executor - 1)
        if turn < self.planner - 1:
            return ("planner",)
        return ROLES if turn == self.planner - 1 else ("executor",)
