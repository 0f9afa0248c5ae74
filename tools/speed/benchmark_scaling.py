"""Measure how time and memory of one GRPO step grow with prompt length, group size, completion length and number of prompts.

    python -m tools.speed.benchmark_scaling --out runs/scaling.json --plot runs/scaling.png
    python -m tools.speed.benchmark_scaling --adapter alora --prompts 4 --length 256 --group 4 --new 32 --points 4 --repeats 3

Model and step are those of benchmark_grpo. From the shape given by --prompts, --length, --group and --new, one of the four
at a time is doubled, --points - 1 times. Every run is a separate process: one warm-up step, then --steps timed ones,
sampling and update separately; all points run in turn --repeats times, and a value is the median of all steps. Memory is
measured once per point, in another process, since glibc is told there to return freed blocks at once, which costs time:
the peak while sampling, or while updating, minus the memory of the loaded model after a step of a few tokens.

Below the points of an axis are the exponents k of value ~ size ** k: the slope of log value on log size by least squares,
with its standard error, and that of the last doubling alone, since fixed costs flatten the start. Micro-batches have at most
2,048 tokens or one prompt with its group: the update's memory stops growing with the number of prompts there.
--plot needs matplotlib (pip install "cahl-pl[report]"); memory needs Linux.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cahl_pl  # noqa: F401 - before torch: it decides how torch's threads wait

# isort: split
import torch

from cahl_pl.commands.fit_runs import at_least_one
from cahl_pl.commands.pipes import reader_may_leave
from cahl_pl.plurals import counted
from cahl_pl.runs.files import write_json
from cahl_pl.startup.library_warnings import quiet_libraries
from tools.memory.process_memory import RELEASE, forget_peak, resident
from tools.speed.benchmark_grpo import Shape, Steps, make_model
from tools.worker import run_again

AXES = {
    "length": "prompt length",
    "group_size": "group size",
    "new_tokens": "completion length",
    "prompts": "prompts",
}
STAGES = ("sampling", "update", "step")
MIB = 2**20


class Point(NamedTuple):
    """Shape of a step: number and length of prompts, samples of each, and tokens of each sample."""

    prompts: int
    length: int
    group_size: int
    new_tokens: int

    @property
    def shape(self) -> Shape:
        """Return the point as a `Shape` of benchmark_grpo."""
        return Shape([self.length] * self.prompts, self.group_size, self.new_tokens)


def seconds_of(folder: Path, point: Point, adapter: str, seed: int, count: int) -> dict[str, list[float]]:
    """Return the seconds of the stages of `count` steps, after a warm-up step."""
    steps, found = Steps(folder, point.shape, adapter, seed), []
    for _ in range(count + 1):
        start = time.perf_counter()
        groups = steps.sample()
        middle = time.perf_counter()
        steps.update(groups)
        end = time.perf_counter()
        found.append((middle - start, end - middle, end - start))
    return dict(zip(STAGES, map(list, zip(*found[1:], strict=True)), strict=True))


def memory_of(folder: Path, point: Point, adapter: str, seed: int) -> dict[str, float]:
    """Return the peak bytes of each stage, minus those held after everything has run once on a few tokens."""
    steps = Steps(folder, Shape([8] * 2, 2, 3), adapter, seed)
    steps.update(steps.sample())
    steps.policy.prefixes.forget()
    steps.shape = point.shape
    loaded = resident("VmRSS")
    forget_peak()
    groups = steps.sample()
    sampling = resident("VmHWM") - loaded
    forget_peak()
    steps.update(groups)
    update = resident("VmHWM") - loaded
    return {"sampling": sampling, "update": update, "step": max(sampling, update)}


def measure(folder: Path, point: Point, options: argparse.Namespace, memory: bool) -> dict[str, Any]:
    """Run `memory_of` or `seconds_of` in a separate process."""
    job = [str(folder), point, options.adapter, options.seed, 0 if memory else options.steps]
    changes = {"TOKENIZERS_PARALLELISM": "false"} | (RELEASE if memory else {})
    return run_again(__file__, ["--worker", json.dumps(job)], str(point), changes)[-1]


def work(job: str) -> dict[str, Any]:
    """Run the job of a process started by `measure`."""
    folder, point, adapter, seed, steps = json.loads(job)
    if steps:
        return seconds_of(Path(folder), Point(*point), adapter, seed, steps)
    return memory_of(Path(folder), Point(*point), adapter, seed)


def series(base: Point, axis: str, points: int) -> list[Point]:
    """Return the base, and points with the axis doubled again and again."""
    return [base._replace(**{axis: getattr(base, axis) * 2**i}) for i in range(points)]


class Fit(NamedTuple):
    """Exponents of value ~ size ** k; NaN if a value is not above 0."""

    exponent: float
    error: float
    last: float


def fit(sizes: Sequence[float], values: Sequence[float]) -> Fit:
    """Return the exponent by least squares of logarithms with its standard error, and that of the last two points.

    Args:
        sizes: three or more sizes, above 0.
        values: one value per size.
    """
    if min(values) <= 0:
        return Fit(math.nan, math.nan, math.nan)
    x, y = ([math.log(v) for v in numbers] for numbers in (sizes, values))
    slope, intercept = statistics.linear_regression(x, y)
    residual = sum((b - slope * a - intercept) ** 2 for a, b in zip(x, y, strict=True)) / (len(x) - 2)
    spread = sum((a - statistics.fmean(x)) ** 2 for a in x)
    return Fit(slope, math.sqrt(residual / spread), (y[-1] - y[-2]) / (x[-1] - x[-2]))


Values = dict[str, dict[str, float]]
"""Unit (`s` or `MiB`) -> stage -> value of a point."""


def columns() -> Iterator[tuple[str, str]]:
    """Return unit and stage of the tables' columns."""
    return ((unit, stage) for unit in ("s", "MiB") for stage in STAGES)


def fits_of(axis: str, points: Sequence[Point], values: dict[Point, Values]) -> dict[str, Fit]:
    """Return `stage, unit` -> exponents along the axis."""
    sizes = [getattr(point, axis) for point in points]
    return {f"{stage}, {unit}": fit(sizes, [values[p][unit][stage] for p in points]) for unit, stage in columns()}


def table(axis: str, points: Sequence[Point], values: dict[Point, Values]) -> str:
    """Return Markdown: the points of one axis and, below them, the exponents."""
    fits = fits_of(axis, points, values)
    rows = [[AXES[axis], *fits], ["---:"] * 7]
    for point in points:
        cells = [f"{values[point][unit][stage]:.{2 if unit == 's' else 0}f}" for unit, stage in columns()]
        rows.append([str(getattr(point, axis)), *cells])
    rows.append(["exponent", *(f"{f.exponent:.2f} +- {f.error:.2f}" for f in fits.values())])
    rows.append(["last doubling", *(f"{f.last:.2f}" for f in fits.values())])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def plot(path: Path, lines: dict[str, list[Point]], values: dict[Point, Values]) -> None:
    """Plot time above and memory below, one column per axis, on logarithmic scales."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 * len(lines) + 1, 6), dpi=100, layout="constrained")
    for row, unit in enumerate(("s", "MiB")):
        for column, (axis, points) in enumerate(lines.items()):
            axes = figure.add_subplot(2, len(lines), 1 + row * len(lines) + column)
            sizes = [getattr(point, axis) for point in points]
            for stage in STAGES:
                axes.loglog(sizes, [values[p][unit][stage] for p in points], marker="o", label=stage)
            axes.set_xticks(sizes, [str(size) for size in sizes])
            axes.set_xticks([], minor=True)
            axes.set(xlabel=AXES[axis], ylabel=unit if column == 0 else "")
            axes.grid(alpha=0.3)
            if row == column == 0:
                axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def at_least_three(text: str) -> int:
    """Return a number of points that gives the slope a standard error.

    Raises:
        argparse.ArgumentTypeError: it is not a whole number, or below 3.
    """
    if at_least_one(text) < 3:
        raise argparse.ArgumentTypeError(f"give 3 or more, not {text}: a line through two points has no standard error")
    return int(text)


@reader_may_leave()
def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", choices=["lora", "alora"], default="lora")
    parser.add_argument("--axes", nargs="+", choices=list(AXES), default=list(AXES), help="what to vary")
    parser.add_argument("--prompts", type=at_least_one, default=4, help="prompts of the first point")
    parser.add_argument("--length", type=at_least_one, default=256, help="tokens of each prompt")
    parser.add_argument("--group", type=at_least_one, default=4, help="samples of a prompt")
    parser.add_argument("--new", type=at_least_one, default=32, help="tokens of each sample")
    parser.add_argument("--points", type=at_least_three, default=4, help="points of an axis, each twice the one before")
    parser.add_argument("--repeats", type=at_least_one, default=3, help="processes that time a point")
    parser.add_argument("--steps", type=at_least_one, default=1, help="timed steps of such a process")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    quiet_libraries()
    if options.worker:
        print(json.dumps(work(options.worker)))
        return
    base = Point(options.prompts, options.length, options.group, options.new)
    lines = {axis: series(base, axis, options.points) for axis in dict.fromkeys(options.axes)}
    points = list(dict.fromkeys(point for line in lines.values() for point in line))  # the base is on all of them
    seconds: dict[Point, list[dict[str, list[float]]]] = {point: [] for point in points}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(folder)
        memory = {point: measure(folder, point, options, memory=True) for point in points}
        for _ in range(options.repeats):
            for point in points:
                seconds[point].append(measure(folder, point, options, memory=False))
                print(f"{point}: {seconds[point][-1]}", file=sys.stderr, flush=True)
    values: dict[Point, Values] = {
        point: {
            "s": {stage: statistics.median(s for run in seconds[point] for s in run[stage]) for stage in STAGES},
            "MiB": {stage: memory[point][stage] / MIB for stage in STAGES},
        }
        for point in points
    }
    print(
        f"{options.adapter}, from {counted(base.prompts, 'prompt')} of {base.length} tokens, G {base.group_size}, ",
        end="",
    )
    print(f"{base.new_tokens} new tokens")
    for axis, line in lines.items():
        print(f"\n{table(axis, line, values)}")
    if options.plot:
        plot(options.plot, lines, values)
    if options.out:
        machine = {
            "cpu": platform.processor(),
            "cpus": os.cpu_count(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        }
        content = {
            "machine": machine,
            "options": {k: v for k, v in vars(options).items() if k not in ("worker", "out", "plot")},
            "points": [
                {**point._asdict(), "seconds": seconds[point], "bytes": memory[point], "values": values[point]}
                for point in points
            ],
            "exponents": {
                axis: {name: found._asdict() for name, found in fits_of(axis, line, values).items()}
                for axis, line in lines.items()
            },
        }
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.out, content)


if __name__ == "__main__":
    main()
