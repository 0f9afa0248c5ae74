"""Where tasks come from, and what loaders share: reading by rows, fitting tools to gold, the report."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from cahl_pl.datasets.rows import DataError, Row, read_rows
from cahl_pl.schema import Problem, find_problems
from cahl_pl.types import GoldCall, Task, ToolSpec

OnContradiction: TypeAlias = Literal["relax", "drop"]


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


@dataclass(slots=True)
class LoadReport:
    """What became of the rows of a file. Every row is in exactly one list; `str` gives a summary.

    Attributes:
        path: the file.
        kept: ids of the rows that were taken as they are.
        relaxed: (id, reason) of the rows that were taken with a schema relaxed where their gold breaks it.
        dropped: (id, reason) of the rows that were left out.
    """

    path: str
    kept: list[str] = field(default_factory=list)
    relaxed: list[tuple[str, str]] = field(default_factory=list)
    dropped: list[tuple[str, str]] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f"{self.path}: {len(self.kept)} rows kept, {len(self.relaxed)} with a relaxed schema, "
            f"{len(self.dropped)} dropped"
        ]
        lines += [f"  relaxed {name}: {reason}" for name, reason in self.relaxed]
        lines += [f"  dropped {name}: {reason}" for name, reason in self.dropped]
        return "\n".join(lines)


class FileTasks(TaskSource):
    """The tasks of one file, one a row, read at once.

    A row whose gold contradicts its own tools (an undeclared tool or parameter, a value that cannot be read
    as its declared type, a tool offered twice) would punish the right answer. Its schema is relaxed just
    there, or it is dropped; the report names it either way. So `find_problems(gold.call, task.tools) == []`
    for every gold call.

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
        if on_contradiction not in ("relax", "drop"):
            raise ValueError(f"on_contradiction must be 'relax' or 'drop', not {on_contradiction!r}")
        self.report: LoadReport = LoadReport(str(path))
        self._tasks: list[Task] = []
        seen: set[str] = set()
        for row in read_rows(path):
            try:
                task = _read(row, read, seen)
            except DataError as error:
                if strict:
                    raise DataError(f"{error}; correct the row, or load with strict=False to leave it out") from None
                self.report.dropped.append((f"row {row.index}", str(error)))
                continue
            seen.add(task.id)
            task, reasons = fit_tools(task)
            if not reasons:
                self.report.kept.append(task.id)
            elif on_contradiction == "relax":
                self.report.relaxed.append((task.id, "; ".join(reasons)))
            else:
                self.report.dropped.append((task.id, f"{row.where}: {'; '.join(reasons)}"))
                continue
            self._tasks.append(task)
        if not self._tasks:
            first = f"; the first fault: {self.report.dropped[0][1]}" if self.report.dropped else ""
            raise DataError(f"{path}: no row can be used{first}; check that this is the right file and format")

    def __len__(self) -> int:
        return len(self._tasks)

    def __getitem__(self, index: int) -> Task:
        return self._tasks[index]


def _read(row: Row, read: Callable[[Any, int], Task], seen: set[str]) -> Task:
    try:
        if row.fault is not None:
            raise DataError(row.fault)
        task = read(row.value, row.index)
        if task.id in seen:
            raise DataError(f"the id {task.id!r} stands twice")
    except DataError as error:
        raise DataError(f"{row.where}: {error}") from None
    return task


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
