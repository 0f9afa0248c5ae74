"""Measure the memory and time that files of many rows need: the tables of docs/your-data.md.

    python -m tools.memory.measure_streaming --rows 1000 100000 1000000

Makes files of ToolWorld tasks in a temporary folder, no two rows with the same tools; converts each with
`cahl-pl convert-data jsonl`; opens the result with JsonlDataset and draws 1,000 tasks; trains the small model on it
for four optimiser steps. Memory is the largest resident set of the process so far, and time its processor time,
including the imports (the step `imports only`). Converting and opening run in separate processes; training continues in
the one that has opened the file. The second table is the resident memory while the longest file is read, at every tenth
of it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from cahl_pl.commands.pipes import reader_may_leave
from cahl_pl.datasets import JsonlDataset, TaskSource
from cahl_pl.datasets.convert import convert, read_source
from cahl_pl.datasets.jsonl import task_to_row
from cahl_pl.datasets.rows import FileRow
from cahl_pl.toolworld import ToolWorld
from cahl_pl.types import Task
from tools.worker import run_again

_TEMPLATES = 500
_DRAWS = 1000
_MARK = "@ROW@"


def rows(count: int) -> Iterator[str]:
    """Yield lines of a file: a few tasks of ToolWorld repeated, each with its own id and tool descriptions."""
    world = ToolWorld(size=_TEMPLATES)
    templates = []
    for task in (world[i] for i in range(min(count, _TEMPLATES))):
        row = task_to_row(task) | {"id": _MARK, "state": None}
        for tool in row["tools"]:
            tool["function"]["description"] += f" ({_MARK})"
        templates.append(json.dumps(row, ensure_ascii=False))
    for index in range(count):
        yield templates[index % len(templates)].replace(_MARK, f"row-{index}") + "\n"


class Curve:
    """Resident memory of this process after each tenth of the rows.

    Attributes:
        mib: the samples in MiB.
    """

    def __init__(self, count: int) -> None:
        self.mib: list[float] = []
        self._count, self._every = count, max(1, count // 10)
        self._begun = 0

    def next_row(self) -> None:
        """Count a row: before each one is read, and after the last one."""
        if 0 < self._begun <= self._count and self._begun % self._every == 0:
            resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")  # Linux
            self.mib.append(resident / 2**20)
        self._begun += 1


def step(name: str, source: Path, output: Path, count: int) -> None:
    """Run one step and print its figures as a JSON object; training prints a second one."""
    curve = Curve(count)

    class Watched(JsonlDataset):
        def _read(self, value: Any, index: int) -> Iterable[Task]:
            curve.next_row()
            return super()._read(value, index)

    if name == "convert":
        lines, read = read_source("jsonl", source)
        convert((_counted(lines, curve), read), source.name, output)
    elif name == "load and draw":
        tasks = Watched(source, strict=True)
        draw = random.Random(0)
        for _ in range(_DRAWS):
            tasks[draw.randrange(len(tasks))]
        _print_figures(name, curve)
        train(tasks, output)
        name = "then train"
    _print_figures(name, curve)


def _counted(lines: Iterable[FileRow], curve: Curve) -> Iterator[FileRow]:
    for line in lines:
        curve.next_row()
        yield line
    curve.next_row()


def train(tasks: TaskSource, folder: Path) -> None:
    """Take four optimiser steps of the quickstart on these tasks."""
    from cahl_pl.cli import main as build
    from cahl_pl.startup.library_warnings import quiet_libraries

    values = {
        "trainer.max_steps": "4",
        "trainer.logger": "false",
        "trainer.callbacks": "null",
        "trainer.enable_checkpointing": "false",
        "trainer.default_root_dir": str(folder),
        "data.environment": "cahl_pl.environments.RecordedEnvironment",
        "data.tasks_per_round": "4",
    }
    quiet_libraries()
    cli = build(["-c", "quickstart", *(f"--{key}={value}" for key, value in values.items())], run=False)
    cli.datamodule.train_tasks = tasks
    cli.trainer.fit(cli.model, cli.datamodule)


@reader_may_leave()
def main() -> None:
    """Make the files, run the steps, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 100_000])
    parser.add_argument("--step", nargs=4, metavar=("NAME", "SOURCE", "OUTPUT", "ROWS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        name, source, output, count = args.step
        step(name, Path(source), Path(output), int(count))
        return
    print("| rows | file, MB | step | seconds | peak memory, MiB |\n| --- | --- | --- | --- | --- |", flush=True)
    curves: list[list[float]] = []
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder, "in.jsonl"), Path(folder, "out.jsonl")
        _run("imports only", source, output, 0, "0")
        for count in sorted(args.rows):
            with source.open("w", encoding="utf-8") as file:
                file.writelines(rows(count))
            size = f"{source.stat().st_size / 1e6:.1f}"
            curves = [
                _run("convert", source, output, count, size),
                _run("load and draw", output, Path(folder), count, size),
            ]
    every = max(1, count // 10)
    print("\n| rows read | convert, MiB | load, MiB |\n| --- | --- | --- |")
    for number, (converting, loading) in enumerate(zip(*curves, strict=True), start=1):
        print(f"| {number * every:,} | {converting:.0f} | {loading:.0f} |")


def _run(name: str, source: Path, output: Path, count: int, size: str) -> list[float]:
    """Run a step in a separate process, print its lines of the table and return its curve."""
    curve: list[float] = []
    for one in run_again(__file__, ["--step", name, str(source), str(output), str(count)], name):
        curve = one["curve"]
        print(f"| {count:,} | {size} | {one['step']} | {one['seconds']:.0f} | {one['mib']:.0f} |", flush=True)
    return curve


def _print_figures(name: str, curve: Curve) -> None:
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
    figures = {"step": name, "seconds": time.process_time(), "mib": memory, "curve": curve.mib}
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
