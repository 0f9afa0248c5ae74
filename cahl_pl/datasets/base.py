"""Where tasks come from, and what loaders share: judging rows, fitting tools to gold, the report."""

from __future__ import annotations

from abc import ABC, abstractmethod

from cahl_pl.datasets.report import LoadReport
from cahl_pl.types import Task


class TaskSource(ABC):
    """A collection of tasks with a length and an index: what training and evaluation draw tasks from.

    Attributes:
        report: what became of the rows of a file; None where tasks do not come from one.
    """

    report: LoadReport | None = None

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of tasks."""

    @abstractmethod
    def __getitem__(self, index: int) -> Task:
        """Return the task at `index`, the same one every time.

        Raises:
            IndexError: outside `-len(self) ... len(self) - 1`.
        """
