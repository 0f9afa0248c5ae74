"""Report on the rows of a file."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cahl_pl.datasets.rows import FileRow
from cahl_pl.errors import DataError
from cahl_pl.plurals import counted
from cahl_pl.types import Task

MAX_REASONS = 100
"""Maximum number of kinds of reasons that a report counts."""
_PLACE = re.compile(r"^, (?:line|row) \d+(?: \(line \d+\))?: ")
_DETAILS = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\d+""")


class Verdict(NamedTuple):
    """Verdict on a task of a row: taken, and how, or refused.

    Attributes:
        row: the row.
        name: the task's id; its line or row if there is none.
        task: the task, its schema relaxed where needed; None if it is left out.
        reason: why it is left out or what was relaxed; empty if it is taken as it is.
    """

    row: FileRow
    name: str
    task: Task | None
    reason: str


@dataclass(slots=True)
class LoadReport:
    """Report on the rows of a file. Every row is in exactly one list; `str` returns a summary, by reason.

    Attributes:
        path: the file.
        kept: ids of the rows that were taken as they are.
        relaxed: (id, reason) of the rows that were taken with a schema relaxed where their gold breaks it.
        dropped: (id, reason) of the rows that were left out.
        limit: maximum number of rows in each list, besides the first of each kind of reason; None for all.
        unnamed: number of rows that are in no list: (kept, relaxed, dropped).
        alike: number of rows that were relaxed or dropped, by kind of reason; at most `MAX_REASONS` kinds.
        shortened: number of dialogue rows whose earlier turns make no task, by the format that would make some.
    """

    path: str
    kept: list[str] = field(default_factory=list)
    relaxed: list[tuple[str, str]] = field(default_factory=list)
    dropped: list[tuple[str, str]] = field(default_factory=list)
    limit: int | None = None
    unnamed: tuple[int, int, int] = (0, 0, 0)
    alike: Counter[tuple[str, str]] = field(default_factory=Counter)
    shortened: Counter[str] = field(default_factory=Counter)

    @property
    def counts(self) -> tuple[int, int, int]:
        """The number of rows kept, relaxed, dropped."""
        kept, relaxed, dropped = self.unnamed
        return len(self.kept) + kept, len(self.relaxed) + relaxed, len(self.dropped) + dropped

    @property
    def headline(self) -> str:
        """The counts as a sentence."""
        kept, relaxed, dropped = self.counts
        return f"{self.path}: {counted(kept, 'row')} kept, {relaxed:,} with a relaxed schema, {dropped:,} dropped"

    @property
    def rows(self) -> list[str]:
        """A line for every row that was relaxed or dropped, as far as they are named."""
        return [f"  {verb} {name}: {reason}" for verb, rows in self._changed() for name, reason in rows]

    def add(self, verdict: Verdict) -> None:
        """Count a row, and name it if there is room, or if it is the first with a reason of this kind."""
        lists: tuple[list[Any], list[Any], list[Any]] = self.kept, self.relaxed, self.dropped
        kind = 2 if verdict.task is None else 1 if verdict.reason else 0
        first = False
        if kind:
            alike = ("relaxed", "dropped")[kind - 1], self._kind(verdict.reason)
            first = alike not in self.alike and len(self.alike) < MAX_REASONS
            if first or alike in self.alike:
                self.alike[alike] += 1
        if first or self.limit is None or len(lists[kind]) < self.limit:
            lists[kind].append((verdict.name, verdict.reason) if kind else verdict.name)
        else:
            kept, relaxed, dropped = (count + (i == kind) for i, count in enumerate(self.unnamed))
            self.unnamed = kept, relaxed, dropped

    def summary(self, examples: int = 3) -> list[str]:
        """Return lines that name a few rows for each kind of reason, and count the others.

        Reasons are of one kind if they differ only in places, numbers and quoted text.

        Args:
            examples: number of rows to name of each kind.
        """
        lines = []
        for (verb, rows), count in zip(self._changed(), self.counts[1:], strict=True):
            kinds: dict[str, list[str]] = {}
            for name, reason in rows:
                kinds.setdefault(self._kind(reason), []).append(f"  {verb} {name}: {reason}")
            for kind, named in kinds.items():
                others = max(len(named), self.alike[verb, kind]) - len(named[:examples])
                lines += named[:examples]
                lines += [f"    and {others:,} more {verb}, alike"] if others else []
                count -= others + len(named[:examples])
            lines += [f"    and {count:,} more {verb}, for other reasons"] if count else []
        for form, count in self.shortened.items():
            lines.append(
                f"  {counted(count, 'row')} of a dialogue whose last turn alone is a task: python -m cahl_pl convert-data "
                f"{form} INPUT OUTPUT makes one of each turn of the assistant"
            )
        return lines

    def __str__(self) -> str:
        return "\n".join([self.headline, *self.summary()])

    def _changed(self) -> tuple[tuple[str, list[tuple[str, str]]], ...]:
        return ("relaxed", self.relaxed), ("dropped", self.dropped)

    def _kind(self, reason: str) -> str:
        """Return the reason without what differs from row to row."""
        return _DETAILS.sub("...", _PLACE.sub("", reason.removeprefix(self.path)))


class NoTasks(DataError):
    """Error that no row of a file can be used; `report` gives the reason for each."""

    def __init__(self, text: str, report: LoadReport) -> None:
        super().__init__(text)
        self.report = report


def require_tasks(report: LoadReport) -> None:
    """Check that some row of the file was taken.

    Raises:
        NoTasks: naming the first fault.
    """
    kept, relaxed, dropped = report.counts
    if not kept + relaxed:
        first = f"; the first fault: {report.dropped[0][1]}" if report.dropped else ""
        first = first if dropped else ": the file holds none"
        said = f"{report.path}: no row can be used{first}; check that this is the right file and format"
        raise NoTasks(said, report)
