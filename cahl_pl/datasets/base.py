"""Base class of task sources, and the comparison of their rows with those of an earlier run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

from cahl_pl.datasets.fingerprint import Fingerprint, change
from cahl_pl.datasets.report import LoadReport
from cahl_pl.types import Task


class TaskSource(ABC):
    """Collection of tasks with a length and an index, from which training and evaluation draw.

    Attributes:
        report: load report of the file; None if the tasks do not come from one.
        fingerprint: fingerprint of the tasks' rows, by which a resumed run notices that they have changed; None if there
            are no rows.
    """

    report: LoadReport | None = None
    fingerprint: Fingerprint | None = None

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of tasks."""

    @abstractmethod
    def __getitem__(self, index: int) -> Task:
        """Return the task at `index`, the same one every time.

        Raises:
            IndexError: outside `-len(self) ... len(self) - 1`.
        """


def fingerprints(sources: Mapping[str, TaskSource]) -> dict[str, dict[str, Any]]:
    """Return the fingerprints of the sources that have one, by name."""
    return {name: one.fingerprint.state() for name, one in sources.items() if one.fingerprint is not None}


def changes(sources: Mapping[str, TaskSource], then: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield a sentence for each source whose rows have changed.

    Args:
        sources: name -> source.
        then: earlier result of `fingerprints`; names missing from it are skipped.
    """
    for name, now in fingerprints(sources).items():
        found = change(then[name], now) if name in then else None
        if found is None:
            continue
        report = sources[name].report
        yield f"{name}{'' if report is None else f' ({report.path})'} {found}"
