"""Where tasks come from, and what loaders share: judging rows, fitting tools to gold, the report."""

from __future__ import annotations

import json
import random
import re
import sqlite3
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from cahl_pl.datasets.rows import DataError, Row, read_rows
from cahl_pl.plurals import counted
from cahl_pl.schema import Problem, find_problems
from cahl_pl.types import GoldCall, Task, ToolCall, ToolSpec

OnContradiction: TypeAlias = Literal["relax", "drop"]

RowReader: TypeAlias = Callable[[Any, int], Iterable[Task | DataError]]
"""The tasks of a row's value: `(value, row index) -> tasks`. A DataError among them stands for a task that cannot be
read; one that is raised, for the rest of the row. Both name the field at fault."""


MAX_GOLD_CALLS = 1000
"""Gold calls that a task may have: fitting its tools to them takes quadratic time."""
MAX_REASONS = 100
"""Kinds of reasons that a report of a file counts."""
_PLACE = re.compile(r"^, (?:line|row) \d+(?: \(line \d+\))?: ")
_DETAILS = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\d+""")


class TaskSource(ABC):
    """A collection of tasks with a length and an index: what training and evaluation draw tasks from.

    Attributes:
        report: what became of the rows of a file; None where tasks do not come from one.
    """

    report: LoadReport | None = None

    @abstractmethod
    def __len__(self) -> int:
        """The number of tasks."""

    @abstractmethod
    def __getitem__(self, index: int) -> Task:
        """The task at `index`, the same one every time.

        Raises:
            IndexError: outside `-len(self) ... len(self) - 1`.
        """


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
    """What became of the rows of a file. Every row is in exactly one list; `str` gives a summary, by reason.

    Attributes:
        path: the file.
        kept: ids of the rows that were taken as they are.
        relaxed: (id, reason) of the rows that were taken with a schema relaxed where their gold breaks it.
        dropped: (id, reason) of the rows that were left out.
        limit: how many rows each list names at most, and the first of each kind of reason besides; None for all.
        unnamed: number of rows that are in no list: (kept, relaxed, dropped).
        alike: number of rows that were relaxed or dropped, for each kind of reason; no more than `MAX_REASONS` kinds.
    """

    path: str
    kept: list[str] = field(default_factory=list)
    relaxed: list[tuple[str, str]] = field(default_factory=list)
    dropped: list[tuple[str, str]] = field(default_factory=list)
    limit: int | None = None
    unnamed: tuple[int, int, int] = (0, 0, 0)
    alike: Counter[tuple[str, str]] = field(default_factory=Counter)

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
        """Lines that name a few rows for each kind of reason, and count the others.

        Reasons are of one kind where they differ in nothing but places, numbers and what is quoted.

        Args:
            examples: rows to name of each kind.
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
        return lines

    def __str__(self) -> str:
        return "\n".join([self.headline, *self.summary()])

    def _changed(self) -> tuple[tuple[str, list[tuple[str, str]]], ...]:
        return ("relaxed", self.relaxed), ("dropped", self.dropped)

    def _kind(self, reason: str) -> str:
        """The reason without what differs from row to row."""
        return _DETAILS.sub("...", _PLACE.sub("", reason.removeprefix(self.path)))


def judge(
    rows: Iterable[Row], read: RowReader, on_contradiction: OnContradiction = "relax", strict: bool = False
) -> Iterator[Verdict]:
    """What becomes of each task of each row, in order; memory holds one row.

    A task whose gold contradicts its own tools (an undeclared tool or parameter, a value that cannot be read as its
    declared type, a tool offered twice) would punish the right answer. Its schema is relaxed just there, or it is
    dropped. So `find_problems(gold.call, task.tools) == []` for every gold call of a task that is taken.

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
                    item = DataError(f"the id {item.id!r} stands twice")
                if isinstance(item, Task) and len(item.gold) > MAX_GOLD_CALLS:
                    item = DataError(f"there are {len(item.gold)} gold calls, and {MAX_GOLD_CALLS} are the most")
                if isinstance(item, DataError):
                    reason = f"{row.where}: {item}"
                    if strict:
                        raise DataError(f"{reason}; correct the row, or load with strict=False to leave it out")
                    yield Verdict(row, f"row {row.index}", None, reason)
                    continue
                task, reasons = fit_tools(item)
                reason = "; ".join(reasons)
                if reasons and on_contradiction == "drop":
                    yield Verdict(row, task.id, None, f"{row.where}: {reason}")
                else:
                    yield Verdict(row, task.id, task, reason)


def _items(row: Row, read: RowReader) -> Iterator[Task | DataError]:
    try:
        if row.fault is not None:
            raise DataError(row.fault)
        yield from read(row.value, row.index)
    except DataError as error:
        yield error


class _Ids:
    """Ids seen so far. They lie in a temporary database on disk, so that a million of them take no memory."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        for statement in ("PRAGMA journal_mode = OFF", "CREATE TABLE ids (id BLOB PRIMARY KEY) WITHOUT ROWID", "BEGIN"):
            self._database.execute(statement)

    def add(self, name: str) -> bool:
        """Whether the id is new."""
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
        self._tasks: list[Task] = []
        for verdict in judge(read_rows(path), lambda value, index: (read(value, index),), on_contradiction, strict):
            self.report.add(verdict)
            if verdict.task is not None:
                self._tasks.append(verdict.task)
        require_tasks(self.report)

    def __len__(self) -> int:
        return len(self._tasks)

    def __getitem__(self, index: int) -> Task:
        return self._tasks[index]


def require_tasks(report: LoadReport) -> None:
    """Check that some row of the file was taken.

    Raises:
        DataError: naming the first fault.
    """
    kept, relaxed, _ = report.counts
    if not kept + relaxed:
        first = f"; the first fault: {report.dropped[0][1]}" if report.dropped else ""
        raise DataError(f"{report.path}: no row can be used{first}; check that this is the right file and format")


def fit_tools(task: Task) -> tuple[Task, list[str]]:
    """The task with its tools relaxed where its gold breaks them, and what was relaxed, one sentence each.

    An undeclared tool is added with an open schema, an undeclared parameter without a type; a parameter whose
    value cannot be read as its type loses its constraints; a required parameter that gold leaves out is no
    longer required. Of tools of the same name the first stays.
    """
    tools: dict[str, ToolSpec] = {}
    reasons = []
    for tool in task.tools:
        if tool.name in tools:
            reasons.append(f"tool {tool.name!r} is offered twice, the first is kept")
        tools.setdefault(tool.name, tool)
    for number, gold in enumerate(task.gold, start=1):
        while problems := find_problems(gold.call, tuple(tools.values())):
            for problem in problems:
                tools[gold.name] = _relaxed(tools.get(gold.name), gold, problem)
                reasons.append(f"gold call {number}: {problem.message}")
    return (replace(task, tools=tuple(tools.values())), reasons) if reasons else (task, [])


def _relaxed(tool: ToolSpec | None, gold: GoldCall, problem: Problem) -> ToolSpec:
    if tool is None:
        return ToolSpec(gold.name, "", {"type": "object", "properties": {}, "additionalProperties": True})
    schema = dict(tool.parameters)
    properties = dict(schema.get("properties", {}))
    name = problem.parameter
    if name is None:  # a keyword about all arguments together
        schema = {key: schema[key] for key in ("type", "properties", "required") if key in schema}
    elif problem.cause == "missing":
        schema["required"] = [other for other in schema["required"] if other != name]
    else:
        declared = properties.get(name, {})
        properties[name] = {key: declared[key] for key in ("description", "default") if key in declared}
        schema["properties"] = properties
    return replace(tool, parameters=schema)


def kind_of_gold(gold: Sequence[GoldCall]) -> str:
    """A tag to group results by: `none`, `single`, `multiple`, or `nested` (a call takes a result)."""
    if any(call.references for call in gold):
        return "nested"
    return ("none", "single", "multiple")[min(len(gold), 2)]


def object_schema(properties: Mapping[str, Any], required: Sequence[str] = ()) -> dict[str, Any]:
    """A JSON Schema of type object."""
    schema: dict[str, Any] = {"type": "object", "properties": dict(properties)}
    return {**schema, "required": list(required)} if required else schema


def offer_tools(
    tools: Mapping[str, ToolSpec], used: Iterable[str], distractors: int, draw: random.Random
) -> tuple[ToolSpec, ...]:
    """The used tools and others drawn besides them, in an order that is drawn too; a used tool that is unknown is left out."""
    used, names = list(dict.fromkeys(used)), list(tools)
    drawn = draw.sample(names, min(len(names), distractors + len(used)))
    others = [name for name in drawn if name not in used][:distractors]
    offered = [tools[name] for name in used + others if name in tools]
    draw.shuffle(offered)
    return tuple(offered)


def history_text(calls: Iterable[ToolCall]) -> str:
    """Calls of an earlier turn as they stand in an assistant's message of a dialogue: one JSON object a line."""
    lines = [json.dumps({"name": call.name, "parameters": dict(call.arguments)}, ensure_ascii=False) for call in calls]
    return "\n".join(["<tool_call>", *lines, "</tool_call>"])
