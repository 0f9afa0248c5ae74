"""Run of a benchmark: records on disk after every batch, nothing repeated after a restart, a report at the end."""

from __future__ import annotations

import json
import os
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.table import Table

from cahl_pl.benchmarks.base import Benchmark, Record
from cahl_pl.environments.base import Environment
from cahl_pl.errors import ConfigError, DataError
from cahl_pl.metrics import ToolUse
from cahl_pl.plurals import counted
from cahl_pl.runs.files import lock, write_json
from cahl_pl.types import Task, Trajectory


class Evaluator(Protocol):
    """Maker of episodes that counts the tokens it samples for them."""

    evaluated_tokens: int

    def evaluate(self, tasks: Sequence[Task], environment: Environment | None = None) -> list[Trajectory]:
        """Return one greedy episode per task."""


class BenchmarkRun:
    """Run of a benchmark, batch by batch.

    With a folder, `<name>.jsonl` has one record per line and `<name>.json` the settings, written at the start, and the
    report, written at the end. A run that finds its own records there resumes after them: recorded tasks are not run again,
    and a partial line, left by a run that was killed while writing, is dropped and its task repeated. `<name>.jsonl.lock`
    keeps a second run out until this one has finished.

    Args:
        benchmark: the benchmark.
        name: name of its files, and in the table.
        folder: folder for them; None: not written.
        settings: model, checkpoint, prompts and limits of this run, as JSON values.
        evaluator: maker of the episodes.

    Raises:
        ConfigError: the folder contains records of other settings or options, is in use by another run, or cannot be
            written to.
        DataError: a line of the records cannot be read, or appears twice.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        name: str,
        folder: Path | None,
        settings: Mapping[str, Any],
        evaluator: Evaluator,
    ) -> None:
        self.benchmark = benchmark
        self.name = name
        self.evaluator = evaluator
        self.head = _plain(
            {
                "benchmark": benchmark.name,
                "scheme": benchmark.scheme,
                "tasks": len(benchmark),
                "options": benchmark.options(),
                "run": dict(settings),
            }
        )
        self.records: dict[str, Record] = {}
        self._unlock: Callable[[], object] = lambda: None
        self._lines = None if folder is None else folder / f"{name}.jsonl"
        self._report = None if folder is None else folder / f"{name}.json"
        if self._lines is not None and self._report is not None:
            try:
                self._open(self._lines, self._report)
            except OSError as error:
                raise ConfigError(
                    f"data.results: {folder} cannot hold the records of {name} ({error.strerror or error}): give another "
                    "folder, make room, or correct its permissions"
                ) from None

    def step(self, indices: Sequence[int]) -> None:
        """Run those of the tasks that have no record yet, and write their records."""
        unrecorded = [i for i in indices if self.benchmark.ids[i] not in self.records]
        if not unrecorded:
            return
        meter = _Meter(self.evaluator)
        try:
            records = self.benchmark.run(unrecorded, meter)
        except BaseException:  # including Ctrl-C in a notebook, where the same process may start again
            self._unlock()
            raise
        for one in records:  # batched, so a task's own share cannot be separated from the others'
            one["tokens"], one["seconds"] = meter.tokens / len(unrecorded), meter.seconds / len(unrecorded)
            self.records[one["id"]] = one
        if self._lines is not None:
            _append(self._lines, records)

    def finish(self) -> dict[str, float]:
        """Score the records, print and write the report.

        Returns:
            Scores and efficiency, tag -> value; empty without records.
        """
        self.benchmark.close()
        try:
            return self._finish()
        finally:
            self._unlock()

    def _finish(self) -> dict[str, float]:
        records = [self.records[key] for key in self.benchmark.ids if key in self.records]
        if not records:
            return {}
        scores, used = self.benchmark.score(records), efficiency(records)
        remarks = self.benchmark.remarks(records)
        if len(records) < len(self.benchmark):
            remarks.append(f"only {len(records)} of {counted(len(self.benchmark), 'task')} have been run")
        report = {
            **self.head,
            "complete": len(records) == len(self.benchmark),
            "scores": scores,
            "denominators": self.benchmark.denominators(records),
            "efficiency": used,
            "remarks": remarks,
        }
        if self._report is not None:
            write_json(self._report, report)
            self._print(report)
        return {**scores, **used}

    def _open(self, lines: Path, report: Path) -> None:
        lines.parent.mkdir(parents=True, exist_ok=True)
        self._lock(lines)
        with lines.open("ab"):
            pass  # a folder that is not writable is to be noticed now, not after the first batch
        if lines.stat().st_size:
            self._check_settings(report)
            self.records = _read_records(lines, set(self.benchmark.ids))
        else:
            write_json(report, {**self.head, "complete": False})

    def _lock(self, lines: Path) -> None:
        try:
            self._unlock = weakref.finalize(self, lock(lines.with_name(lines.name + ".lock")))
        except BlockingIOError:
            raise ConfigError(
                f"another run is writing {lines}: wait for its end, or give data.results another folder"
            ) from None

    def _check_settings(self, path: Path) -> None:
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            then = dict(_flat(before))
        except (OSError, ValueError, RecursionError):
            before = None
        if not isinstance(before, dict):
            raise ConfigError(
                f"the report is missing or unreadable: {path} tells what settings the records of {self._lines} have; put it "
                "back, or give data.results another folder"
            )
        differing = [key for key, value in _flat(self.head) if then.get(key) != value]
        if differing:
            raise ConfigError(
                f"{self._lines} holds records of another run ({', '.join(differing[:4])} differ): give data.results another "
                "folder, or the settings that it was begun with"
            )

    def _print(self, report: Mapping[str, Any]) -> None:
        table = Table()
        for column in ("score", "value", "tasks"):
            table.add_column(column, justify="left" if column == "score" else "right")
        for key, value in report["scores"].items():
            tasks = report["denominators"].get(key)
            table.add_row(key, f"{value:.4f}", "" if tasks is None else str(tasks))
        table.add_section()
        for key, value in report["efficiency"].items():
            table.add_row(key, f"{value:.4f}", "")
        console = Console(width=110)
        console.print(f"{self.name}: {self.benchmark.name}, {self.benchmark.scheme}", markup=False, highlight=False)
        console.print(table)
        for remark in report["remarks"]:
            console.print(f"note: {remark}", markup=False, highlight=False)
        print(f"written: {self._report}")


def efficiency(records: Sequence[Record]) -> dict[str, float]:
    """Return the economy of the tasks: `ToolUse` over their calls, sampled tokens and seconds per task.

    `task/success` is left out, because the scores give it; `tools/excess` too, if the number of calls needed is not known.
    Seconds are those of making episodes, the environment's answers included, checking excluded.
    """
    metric = ToolUse(sync_on_compute=False)  # all records are in this process
    metric.update([one["counts"] for one in records])
    left_out = (
        {"task/success"} if all("surplus" in one["counts"] for one in records) else {"task/success", "tools/excess"}
    )
    values = {tag: value.item() for tag, value in metric.compute().items() if tag not in left_out}
    for key in ("tokens", "seconds"):
        values[f"{key}_per_task"] = sum(one[key] for one in records) / len(records)
    return values


class _Meter:
    """Implementation of `Evaluate` that counts tokens and seconds."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self._start = evaluator.evaluated_tokens
        self.seconds = 0.0

    @property
    def tokens(self) -> int:
        return self._evaluator.evaluated_tokens - self._start

    def __call__(self, tasks: Sequence[Task], environment: Environment | None = None) -> list[Trajectory]:
        start = time.perf_counter()
        episodes = self._evaluator.evaluate(tasks, environment)
        self.seconds += time.perf_counter() - start
        return episodes


def _read_records(path: Path, known: set[str]) -> dict[str, Record]:
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    records: dict[str, Record] = {}
    for number, line in enumerate(whole.split(b"\n")[:-1], start=1):
        try:
            one = json.loads(line)
        except (ValueError, RecursionError):
            one = None
        name = one.get("id") if isinstance(one, dict) else None
        if isinstance(name, str) and (name in records or name not in known):
            fault = "appears twice" if name in records else "is no task of this benchmark"
            raise DataError(f"{path}, line {number}: the id {name!r} {fault}; delete the line")
        if not isinstance(name, str) or not _is_record(one):
            raise DataError(f"{path}, line {number}: not a record; delete the line, and its task is run again")
        records[name] = one
    return records


def _is_record(one: Record) -> bool:
    """Return whether a record has the fields from which every benchmark's scores and efficiency are computed."""
    counts = one.get("counts")
    costs: list[Any] = [one.get("tokens"), one.get("seconds")]
    return (
        isinstance(one.get("success"), bool)
        and isinstance(one.get("group"), str)
        and isinstance(counts, dict)
        and all(type(count) is int and 0 <= count < 2**31 for count in counts.values())
        and all(type(cost) in (int, float) and 0 <= cost < 2**63 for cost in costs)  # NaN is not
    )


def _append(path: Path, records: Sequence[Record]) -> None:
    text = "".join(json.dumps(one, ensure_ascii=False, default=str) + "\n" for one in records)
    with path.open("ab") as file:
        file.write(text.encode("utf-8", "replace"))
        file.flush()
        os.fsync(file.fileno())


def _plain(value: Any) -> Any:
    """Return the value as it comes back from a JSON file."""
    return json.loads(json.dumps(value, default=str))


def _flat(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if not isinstance(value, dict) or not value:
        return [(prefix, value)]
    return [pair for key, item in value.items() for pair in _flat(item, f"{prefix}.{key}" if prefix else key)]
