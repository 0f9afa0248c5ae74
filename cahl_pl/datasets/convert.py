"""Conversion of other formats to the task format of this project (`cahl_pl.datasets.jsonl`), row by row."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from cahl_pl.datasets.formats.api_bank import (
    api_bank_sequence,
    dialogue_rows,
    dialogue_tasks,
    group_samples,
    read_declared_tools,
)
from cahl_pl.datasets.formats.base import usual
from cahl_pl.datasets.formats.nestful import read_specification
from cahl_pl.datasets.formats.nestful import task as nestful_task
from cahl_pl.datasets.formats.seal_tools import seal_tools_reader
from cahl_pl.datasets.formats.table import FORMATS as TABLE
from cahl_pl.datasets.formats.table import form_of, is_own
from cahl_pl.datasets.formats.tau_bench import python_rows
from cahl_pl.datasets.formats.tau_bench import task as tau_bench_task
from cahl_pl.datasets.hub import PREFIX, hub_rows
from cahl_pl.datasets.jsonl import NAMED_ROWS, row_to_task, task_to_row
from cahl_pl.datasets.loading import OnContradiction, RowReader, judge
from cahl_pl.datasets.report import LoadReport, require_tasks
from cahl_pl.datasets.row_kinds import other_kind
from cahl_pl.datasets.rows import FileRow, read_rows
from cahl_pl.errors import ConfigError, DataError
from cahl_pl.schema.wording import kind_word
from cahl_pl.types import Task

Source: TypeAlias = tuple[Iterable[FileRow], RowReader]

NEEDS_TOOLS = ("seal-tools", "api-bank-dialogues")
"""Formats whose rows do not declare their tools, so that files that do must be given."""


def _table(format_name: str) -> Callable[[str], Source]:
    """Return the opener of a format of `TABLE`; ids consist of the file's name and the row's number, from 0."""

    def open_(source: str) -> Source:
        name, tasks = source_name(source), TABLE[format_name].tasks
        return _rows(source), lambda value, index: tasks(_object(value, format_name), f"{name}-{index}")

    return open_


def _object(value: Any, format_name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        fields = "" if format_name not in TABLE else f" of the format {format_name}"
        raise DataError(f"a row{fields} must be an object, not {kind_word(value)}")
    return value


def _sequences(source: str) -> Source:
    name = source_name(source)
    return group_samples(_rows(source)), lambda value, _: (api_bank_sequence(value, name),)


def _jsonl(source: str) -> Source:
    return _rows(source), lambda value, _: (row_to_task(value),)


def _tau_bench(source: str) -> Source:
    name = source_name(source)
    rows = python_rows(source) if source.endswith(".py") else _rows(source)
    return rows, lambda value, index: (tau_bench_task(value, f"{name}-{index}"),)


_OPENERS: dict[str, Callable[[str], Source]] = {
    **{name: _table(name) for name in TABLE},
    "tau-bench": _tau_bench,
    "api-bank-sequences": _sequences,
    "jsonl": _jsonl,
}

FORMATS = (*_OPENERS, *NEEDS_TOOLS)


def read_source(
    format_name: str, source: str | Path, tools: Sequence[str | Path] = (), num_distractors: int = 4, seed: int = 0
) -> Source:
    """Return the rows of a source, and the reader of their tasks.

    Args:
        format_name: one of `FORMATS`.
        source: a file (a folder for `api-bank-dialogues`), or `hub:OWNER/NAME[:SPLIT]`.
        tools: files that declare the tools, for the formats in `NEEDS_TOOLS`: `tool.jsonl` of Seal-Tools; processed
            rows of API-Bank, any number of files. For `nestful` its specification, if the rows have no tools.
        num_distractors: number of tools offered besides those called, for the formats in `NEEDS_TOOLS`.
        seed: seed of their draw.

    Raises:
        ConfigError: there is no such format, or its tools are missing or given where they are not needed.
        DataError: a file of tools cannot be read.
    """
    if format_name not in FORMATS:
        raise ConfigError(f"there is no format {format_name!r}; use one of {', '.join(FORMATS)}")
    if format_name == "nestful" and tools:
        spec, name = read_specification(tools), source_name(str(source))
        return _rows(str(source)), lambda value, index: (
            nestful_task(value, f"{name}-{index}", spec, num_distractors, seed),
        )
    if bool(tools) != (format_name in NEEDS_TOOLS):
        raise ConfigError(
            f"the format {format_name} "
            + (
                "declares its own tools: leave the files of tools out"
                if tools
                else "needs files that declare its tools"
            )
        )
    if format_name == "seal-tools":
        if len(tools) > 1:
            raise ConfigError("the format seal-tools has one file of tools, tool.jsonl")
        read = seal_tools_reader(tools[0], num_distractors, seed)
        return _rows(str(source)), lambda value, index: (read(value, index),)
    if format_name == "api-bank-dialogues":
        known = read_declared_tools(tools)
        return dialogue_rows(source), lambda value, _: dialogue_tasks(value, known, num_distractors, seed)
    rows, reader = _OPENERS[format_name](str(source))
    return rows, _telling_the_form(reader, format_name)


def _telling_the_form(reader: RowReader, format_name: str) -> RowReader:
    """Return a reader that names the form of a row that it cannot read because the row has another one."""

    def read_row(value: Any, index: int) -> Iterator[Task | DataError]:
        other = other_kind(value)
        if other is not None:
            raise DataError(other)
        try:
            yield from reader(value, index)
        except DataError as error:
            if not isinstance(value, dict):
                raise
            form = "jsonl" if is_own(value) else form_of(value)
            named = format_name in TABLE and TABLE[format_name].is_one(usual(value))
            if form is None or form == format_name or named:
                raise
            other = _fault_as(value, form)
            if other is not None and _without_place(other) == _without_place(str(error)):
                raise
            if other is None:
                raise DataError(f"{error}; the row is one of {form}: convert-data {form} INPUT OUTPUT") from None
            raise DataError(f"{error}; the row is one of {form}, as which it cannot be read either: {other}") from None

    return read_row


def _without_place(fault: str) -> str:
    return re.sub(r"^the field '\w+', (?:turn|message|item) \d+: ", "", fault)


def _fault_as(row: dict[str, Any], form: str) -> str | None:
    """Return why a row yields no task in its own form; None if it yields one."""
    try:
        found = [row_to_task(row)] if form == "jsonl" else list(TABLE[form].tasks(row, "row"))
    except DataError as error:
        return str(error)
    faults = [str(one) for one in found if isinstance(one, DataError)]
    return faults[0] if faults and len(faults) == len(found) else None


def check_output(source: str | Path, tools: Sequence[str | Path], output: str | Path) -> None:
    """Check that `convert` would not overwrite its input.

    Args:
        source: what `convert` reads, see `read_source`.
        tools: the files of tools, see `read_source`.
        output: the file that `convert` writes.

    Raises:
        ConfigError: `output`, or a file that is written next to it, is the source, a file in it or a file of tools, or
            `output` names no file.
    """
    if not Path(output).name:
        raise ConfigError(f"OUTPUT must be the name of a file, not {str(output)!r}")
    output = Path(output)
    written = {path.resolve() for path in (output, *_beside(output))}
    local = [] if str(source).startswith(PREFIX) else [source]
    for path in (Path(other).expanduser().resolve() for other in (*local, *tools)):
        if path in written or (os.path.isdir(path) and any(path in other.parents for other in written)):
            raise ConfigError(f"{output}: writing it would destroy {path}, which is read; choose another OUTPUT")


def _beside(output: Path) -> tuple[Path, Path, Path]:
    """Return the files written next to the output: its partial file, the reasons, and their partial file."""
    part, dropped, dropped_part = (output.name + end for end in (".part", ".dropped.txt", ".dropped.txt.part"))
    return output.with_name(part), output.with_name(dropped), output.with_name(dropped_part)


def convert(source: Source, name: str, output: str | Path, on_contradiction: OnContradiction = "relax") -> LoadReport:
    """Write the tasks of a source to a file of JSON lines.

    Every task that is left out is named with its reason in `<output>.dropped.txt`, which is absent if there are none.
    Schemas that gold breaks are relaxed before they are written, so that every row of the file can be loaded as it is.
    Both files get their names once they are complete; a conversion that fails leaves older ones unchanged.

    Args:
        source: see `read_source`.
        name: name of the source, for the report.
        output: the file to write; an existing one is replaced.
        on_contradiction: `relax` the schema of a task whose gold breaks it, or `drop` the task.

    Returns:
        A report on the tasks. The lists name the first `NAMED_ROWS` each; the counts are complete.

    Raises:
        DataError: the source cannot be read, or no task can be used.
        OSError: the file cannot be written.
    """
    output = Path(output)
    part, dropped, dropped_part = _beside(output)
    report = LoadReport(name, limit=NAMED_ROWS)
    try:
        with part.open("wb") as file, dropped_part.open("w", encoding="utf-8", errors="replace") as reasons:
            for verdict in judge(*source, on_contradiction):
                if verdict.task is not None:
                    try:
                        file.write(_line(verdict.task))
                    except (ValueError, TypeError, RecursionError):  # parquet and the hub have values that JSON lacks
                        reason = f"{verdict.row.where}: a value that JSON does not have, such as an infinity or a date"
                        verdict = verdict._replace(task=None, reason=reason)
                report.add(verdict)
                if verdict.task is None:
                    reasons.write(f"{verdict.name}: {verdict.reason}\n")
        require_tasks(report)
        if report.counts[2]:
            dropped_part.replace(dropped)
        else:
            dropped.unlink(missing_ok=True)
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)
        dropped_part.unlink(missing_ok=True)
    return report


def _line(task: Task) -> bytes:
    return json.dumps(task_to_row(task), ensure_ascii=False, allow_nan=False).encode() + b"\n"


def source_name(source: str) -> str:
    """Return the prefix of a source's ids: the file's name without its suffix, or the data set's name."""
    return (
        source.removeprefix(PREFIX).partition(":")[0].rpartition("/")[2]
        if source.startswith(PREFIX)
        else Path(source).stem
    )


def _rows(source: str) -> Iterator[FileRow]:
    return hub_rows(source) if source.startswith(PREFIX) else read_rows(source)
