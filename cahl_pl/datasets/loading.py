"""Row-by-row reading of task files, with a verdict on each row."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, TypeAlias

from cahl_pl.datasets.base import TaskSource
from cahl_pl.datasets.call_marks import refuse_call
from cahl_pl.datasets.fingerprint import Fingerprint
from cahl_pl.datasets.gold_calls import check_writable
from cahl_pl.datasets.report import LoadReport, Verdict, require_tasks
from cahl_pl.datasets.rows import FileRow, read_rows
from cahl_pl.datasets.task_parts import MAX_GOLD_CALLS, fit_tools
from cahl_pl.errors import DataError
from cahl_pl.schema.blanks import is_blank
from cahl_pl.types import Task

OnContradiction: TypeAlias = Literal["relax", "drop"]

RowReader: TypeAlias = Callable[[Any, int], Iterable[Task | DataError]]
"""The tasks of a row's value: `(value, row index) -> tasks`. A DataError among them stands for a task that cannot be
read; one that is raised, for the rest of the row. Both name the field at fault."""


def judge(
    rows: Iterable[FileRow], read: RowReader, on_contradiction: OnContradiction = "relax", strict: bool = False
) -> Iterator[Verdict]:
    """Yield the verdict on each task of each row, in order, with one row in memory.

    A task whose gold contradicts its own tools (a value that cannot be read as its declared type, a required parameter that is
    left out, a tool offered twice) would punish the right answer. Its schema is relaxed just there, or it is dropped. A blank
    request is a fault, and so is gold that names a tool or a parameter which is not offered, has a value that its schema
    excludes otherwise, or that no output can equal. So `find_problems(gold.call, task.tools) == []` for every gold call of a
    task that is taken.

    Args:
        rows: the rows.
        read: the tasks of a row.
        on_contradiction: `relax` the schema, or `drop` the task.
        strict: raise on the first task that cannot be read, instead of dropping it.

    Raises:
        DataError: with `strict`, a task that cannot be read; whatever `rows` raises.
        ValueError: `on_contradiction` is neither of the two.
    """
    if on_contradiction not in ("relax", "drop"):
        raise ValueError(f"on_contradiction must be 'relax' or 'drop', not {on_contradiction!r}")
    with closing(_Ids()) as ids:
        for row in rows:
            for item in _items(row, read):
                if isinstance(item, Task) and not ids.add(item.id):
                    item = DataError(f"the id {item.id!r} appears twice")
                if isinstance(item, Task) and not _asks(item):
                    item = DataError("the request is blank: the user's last message has to say what is to be done")
                if isinstance(item, Task) and len(item.gold) > MAX_GOLD_CALLS:
                    item = DataError(f"there are {len(item.gold)} gold calls, and {MAX_GOLD_CALLS} are the most")
                name, reasons = row.number, list[str]()
                if isinstance(item, Task):
                    name = item.id
                    try:
                        item, reasons = fit_tools(item)
                        check_writable(item)
                        refuse_call(item.answer, item.tools)
                    except DataError as error:
                        item = error
                if isinstance(item, DataError):
                    reason = f"{row.where}: {item}"
                    if strict:
                        raise DataError(f"{reason}; correct the row, or load with strict=False to leave it out")
                    yield Verdict(row, name, None, reason)
                    continue
                task, reason = item, "; ".join(reasons)
                if reasons and on_contradiction == "drop":
                    yield Verdict(row, task.id, None, f"{row.where}: {reason}")
                else:
                    yield Verdict(row, task.id, task, reason)


def _items(row: FileRow, read: RowReader) -> Iterator[Task | DataError]:
    try:
        if row.fault is not None:
            raise DataError(row.fault)
        yield from read(row.value, row.index)
    except DataError as error:
        yield error


def _asks(task: Task) -> bool:
    """Return whether the user's last message is not blank."""
    asked = next((message.content for message in reversed(task.messages) if message.role == "user"), "")
    return not is_blank(asked)


class _Ids:
    """Ids seen so far, in a temporary database on disk, so that a million of them take no memory."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        for statement in ("PRAGMA journal_mode = OFF", "CREATE TABLE ids (id BLOB PRIMARY KEY) WITHOUT ROWID", "BEGIN"):
            self._database.execute(statement)

    def add(self, name: str) -> bool:
        """Add an id, and return whether it is new."""
        key = name.encode("utf-8", "surrogatepass")
        return self._database.execute("INSERT OR IGNORE INTO ids VALUES (?)", (key,)).rowcount == 1

    def close(self) -> None:
        self._database.close()


class FileTasks(TaskSource):
    """The tasks of one file, one a row, read at once and held in memory; see `judge` for which are taken.

    Args:
        path: a JSON list, JSON lines or parquet.
        read: the task of a row's value; `(value, row index) -> Task`, raising DataError with the field at
            fault.
        on_contradiction: `relax` the schema, or `drop` the row.
        strict: raise on the first row that cannot be read, instead of dropping it.

    Raises:
        DataError: the file cannot be read or no row of it can be used; with `strict`, also a row that cannot
            be read.
        ValueError: `on_contradiction` is neither of the two.
    """

    def __init__(
        self,
        path: str | Path,
        read: Callable[[Any, int], Task],
        on_contradiction: OnContradiction = "relax",
        strict: bool = False,
    ) -> None:
        self.report: LoadReport = LoadReport(str(path))
        self.fingerprint: Fingerprint = Fingerprint()
        self._tasks: list[Task] = []
        for verdict in judge(read_rows(path), lambda value, index: (read(value, index),), on_contradiction, strict):
            self.report.add(verdict)
            if verdict.task is not None:
                self._tasks.append(verdict.task)
                self.fingerprint.add(verdict.row.value)
        require_tasks(self.report)

    def __len__(self) -> int:
        return len(self._tasks)

    def __getitem__(self, index: int) -> Task:
        return self._tasks[index]
