"""Measure the memory and the time that files of many rows take: the table of docs/your-data.md.

    python tools/measure_streaming.py --rows 1000 100000 1000000

Makes files of ToolWorld tasks in a temporary folder, no two rows with the same tools; converts each with
`tools/convert_data.py jsonl`; opens the result with JsonlDataset and draws 1,000 tasks. Each step is a process of its own;
memory is its largest resident set, and time its processor time, of which the imports take a part (the step `imports only`).
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from cahl_pl.datasets import JsonlDataset
from cahl_pl.datasets.convert import convert, read_source
from cahl_pl.datasets.jsonl import task_to_row
from cahl_pl.toolworld import ToolWorld

_TEMPLATES = 500
_DRAWS = 1000
_MARK = "@ROW@"


def rows(count: int) -> Iterator[str]:
    """Lines of a file: a few tasks of ToolWorld again and again, with ids and tool descriptions of their own."""
    world = ToolWorld(size=_TEMPLATES)
    templates = []
    for task in (world[i] for i in range(min(count, _TEMPLATES))):
        row = task_to_row(task) | {"id": _MARK, "state": None}
        for tool in row["tools"]:
            tool["function"]["description"] += f" ({_MARK})"
        templates.append(json.dumps(row, ensure_ascii=False))
    for index in range(count):
        yield templates[index % len(templates)].replace(_MARK, f"row-{index}") + "\n"


def step(name: str, source: Path, output: Path) -> None:
    """Carry out one step and print its figures as JSON."""
    if name == "convert":
        convert(read_source("jsonl", source), source.name, output)
    elif name == "load and draw":
        tasks = JsonlDataset(source, strict=True)
        draw = random.Random(0)
        for _ in range(_DRAWS):
            tasks[draw.randrange(len(tasks))]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
    print(json.dumps({"seconds": time.process_time(), "mib": memory}))


def main() -> None:
    """Make the files, run the steps, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 100_000])
    parser.add_argument("--step", nargs=3, metavar=("NAME", "SOURCE", "OUTPUT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        step(args.step[0], Path(args.step[1]), Path(args.step[2]))
        return
    print("| rows | file, MB | step | seconds | peak memory, MiB |\n| --- | --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder, "in.jsonl"), Path(folder, "out.jsonl")
        print(_line("0", "0", "imports only", source, output), flush=True)
        for count in args.rows:
            with source.open("w", encoding="utf-8") as file:
                file.writelines(rows(count))
            size = f"{source.stat().st_size / 1e6:.1f}"
            print(_line(f"{count:,}", size, "convert", source, output), flush=True)
            print(_line(f"{count:,}", size, "load and draw", output, output), flush=True)


def _line(count: str, size: str, name: str, source: Path, output: Path) -> str:
    command = [sys.executable, __file__, "--step", name, str(source), str(output)]
    figures = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return f"| {count} | {size} | {name} | {figures['seconds']:.0f} | {figures['mib']:.0f} |"


if __name__ == "__main__":
    main()
