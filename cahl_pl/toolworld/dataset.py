"""ToolWorld as a collection of tasks."""

from __future__ import annotations

from functools import lru_cache
from typing import get_args

from cahl_pl.datasets.base import TaskSource
from cahl_pl.plurals import counted
from cahl_pl.toolworld.generate import PROPORTIONS, SPLITS, generate_tasks
from cahl_pl.toolworld.granularity import PROPORTIONS_2, Habit, generate_choices
from cahl_pl.toolworld.recover import PROPORTIONS_RECOVER, generate_recoveries
from cahl_pl.types import Task


class ToolWorld(TaskSource):
    """First `size` tasks of a split of ToolWorld; each is made when it is requested.

    Args:
        split: `train`, `test` (unseen requests) or `test_unseen_tools` (unseen tools too).
        size: number of tasks.
        seed: seed of the tasks.
        proportions: relative weight of each kind of task, see `generate_tasks`.

    Raises:
        ValueError: no such split or kind, or a size below 1.
    """

    def __init__(
        self, split: str = "train", size: int = 1024, seed: int = 0, proportions: dict[str, float] | None = None
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"ToolWorld has no split {split!r}: use one of {', '.join(SPLITS)}")
        if size < 1:
            raise ValueError(f"ToolWorld.size must be at least 1, not {size}")
        self.split, self.size, self.seed = split, size, seed
        self.proportions = proportions or dict(PROPORTIONS)
        self._task = lru_cache(maxsize=4096)(self._generate)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Task:
        if not -self.size <= index < self.size:
            raise IndexError(f"ToolWorld has {counted(self.size, 'task')}, no task {index}")
        return self._task(index % self.size)

    def _generate(self, index: int) -> Task:
        return next(generate_tasks(self.split, self.seed, start=index, proportions=self.proportions))


class ToolWorld2(ToolWorld):
    """First `size` tasks of a split of ToolWorld 2, whose requests can be met in several ways (`generate_choices`).

    Args:
        split, size, seed: as in `ToolWorld`.
        proportions: relative weight of each kind of task, see `generate_choices`.
        habit: mistake of the gold calls, for the warm start of an executor that is to make it: `no_codes` leaves codes
            out, `literal_references` writes "$1" where a result belongs, `unsure` leaves codes out and writes "$1" in six
            of ten places.

    Raises:
        ValueError: no such split, kind or habit, or a size below 1.
    """

    def __init__(
        self,
        split: str = "train",
        size: int = 1024,
        seed: int = 0,
        proportions: dict[str, float] | None = None,
        habit: Habit = "none",
    ) -> None:
        super().__init__(split, size, seed, proportions or dict(PROPORTIONS_2))
        if habit not in get_args(Habit):
            raise ValueError(f"ToolWorld2 knows no habit {habit!r}: use one of {', '.join(get_args(Habit))}")
        self.habit: Habit = habit

    def _generate(self, index: int) -> Task:
        return next(generate_choices(self.split, self.seed, index, self.proportions, self.habit))


class ToolWorldRecover(ToolWorld):
    """First `size` tasks of a split; whether a task's first call fails cannot be predicted (`generate_recoveries`).

    Args:
        split, size, seed: as in `ToolWorld`.
        proportions: relative weight of each kind of task, see `generate_recoveries`.

    Raises:
        ValueError: no such split or kind, or a size below 1.
    """

    def __init__(
        self, split: str = "train", size: int = 1024, seed: int = 0, proportions: dict[str, float] | None = None
    ) -> None:
        super().__init__(split, size, seed, proportions or dict(PROPORTIONS_RECOVER))

    def _generate(self, index: int) -> Task:
        return next(generate_recoveries(self.split, self.seed, index, self.proportions))
