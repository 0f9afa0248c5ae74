"""What became of the rows of a file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cahl_pl.datasets.rows import Row
from cahl_pl.errors import DataError
from cahl_pl.types import Task


class Verdict(NamedTuple):
    """What becomes of a task of a row.

    Attributes:
        row: the row.
        name: the task's id; `row N` where there is none.
        task: the task, its schema relaxed where needed; None if it is left out.
        reason: why it is left out or what was relaxed; empty if it is taken as it is.
    """

    row: Row
    name: str
    task: Task | None
    reason: str


@dataclass(slots=True)
class LoadReport:
    """What became of the rows of a file. Every row is in exactly one list; `str` gives a summary.

    Attributes:
        path: the file.
        kept: ids of the rows that were taken as they are.
        relaxed: (id, reason) of the rows that were taken with a schema relaxed where their gold breaks it.
        dropped: (id, reason) of the rows that were left out.
        limit: how many rows each list names at most; None for all. Those beyond are counted in `unnamed`.
        unnamed: number of rows that are in no list: (kept, relaxed, dropped).
    """

    path: str
    kept: list[str] = field(default_factory=list)
    relaxed: list[tuple[str, str]] = field(default_factory=list)
    dropped: list[tuple[str, str]] = field(default_factory=list)
    limit: int | None = None
    unnamed: tuple[int, int, int] = (0, 0, 0)

    @property
    def counts(self) -> tuple[int, int, int]:
        """The number of rows kept, relaxed, dropped."""
        kept, relaxed, dropped = self.unnamed
        return len(self.kept) + kept, len(self.relaxed) + relaxed, len(self.dropped) + dropped

    def add(self, verdict: Verdict) -> None:
        """Count a row, and name it if there is room."""
        lists: tuple[list[Any], list[Any], list[Any]] = self.kept, self.relaxed, self.dropped
        kind = 2 if verdict.task is None else 1 if verdict.reason else 0
        if self.limit is None or len(lists[kind]) < self.limit:
            lists[kind].append((verdict.name, verdict.reason) if kind else verdict.name)
        else:
            kept, relaxed, dropped = (count + (i == kind) for i, count in enumerate(self.unnamed))
            self.unnamed = kept, relaxed, dropped

    def __str__(self) -> str:
        kept, relaxed, dropped = self.counts
        lines = [f"{self.path}: {kept} rows kept, {relaxed} with a relaxed schema, {dropped} dropped"]
        lines += [f"  relaxed {name}: {reason}" for name, reason in self.relaxed]
        lines += [f"  dropped {name}: {reason}" for name, reason in self.dropped]
        if any(self.unnamed[1:]):
            lines.append(f"  and {self.unnamed[1]} more relaxed, {self.unnamed[2]} more dropped, which are not named")
        return "\n".join(lines)


def require_tasks(report: LoadReport) -> None:
    """Check that some row of the file was taken.

    Raises:
        DataError: naming the first fault.
    """
    kept, relaxed, _ = report.counts
    if not kept + relaxed:
        first = f"; the first fault: {report.dropped[0][1]}" if report.dropped else ""
        raise DataError(f"{report.path}: no row can be used{first}; check that this is the right file and format")
