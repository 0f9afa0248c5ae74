"""Train for hours in one process and look for growth: of resident memory, open files, Python objects.

    python -m tools.robustness.soak --out runs/soak --hours 2 -- -c configs/quickstart.yaml

Runs `fit` with the arguments after `--` and its callbacks, one endless fit or, with --steps, fits of that many steps one after
another. Test sets have 4 tasks, and the learning rates are 0 unless given, so that the last hour does the same work
as the first. After each round a line goes to OUT/measurements.jsonl: seconds, fit, step, resident MiB, open files, objects
that the garbage collector tracks. At the end, or when it is stopped, prints the slopes of the second half of the time by
least squares, with standard errors (assuming independent errors; neighbouring rounds are alike, so the true ones are larger).
Linux only.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import time
from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import Any

import cahl_pl  # noqa: F401 - before torch: it decides how torch's threads wait

# isort: split
from lightning.pytorch import Callback, LightningModule, Trainer
from scipy.stats import linregress

from cahl_pl.cli import main as build
from cahl_pl.commands.pipes import reader_may_leave
from cahl_pl.plurals import counted
from cahl_pl.startup.library_warnings import quiet_libraries
from cahl_pl.types import RolloutBatch

UNITS = {"resident_mib": "MiB", "files": "files", "objects": "objects"}


class Meter(Callback):
    """Callback that writes a line after each round and ends training when time is up.

    Args:
        path: file for the lines.
        start: start of the first fit, by `time.monotonic`.
        seconds: time limit from then on.
        fit: number of this fit.
    """

    def __init__(self, path: Path, start: float, seconds: float, fit: int) -> None:
        self.path, self.start, self.seconds, self.fit = path, start, seconds, fit

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Measure with the first batch of a round."""
        now = time.monotonic() - self.start
        trainer.should_stop = trainer.should_stop or now >= self.seconds
        if batch.trajectories is not None:
            line = {"seconds": round(now, 1), "fit": self.fit, "step": trainer.global_step, **measure()}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def measure() -> dict[str, float]:
    """Return resident memory, open file descriptors and tracked objects of this process."""
    gc.collect()  # objects that wait for the collector are not a leak
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "resident_mib": round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 2),
        "files": len(os.listdir("/proc/self/fd")),
        "objects": len(gc.get_objects()),
    }


def slopes(lines: Sequence[dict[str, float]]) -> dict[str, tuple[float, float]]:
    """Return the growth per hour and its standard error, over the second half of the time; empty below 3 lines."""
    half = [line for line in lines if line["seconds"] >= lines[-1]["seconds"] / 2]
    if len(half) < 3:
        return {}
    hours = [line["seconds"] / 3600 for line in half]
    fits = {name: linregress(hours, [line[name] for line in half]) for name in UNITS}
    # for equal values, the standard error in scipy is 0 / 0
    return {name: (float(fit.slope), 0.0 if isnan(fit.stderr) else float(fit.stderr)) for name, fit in fits.items()}


def soak(out: Path, seconds: float, steps: int, arguments: Sequence[str]) -> None:
    """Fit again and again until the time is up; lines go to `out / "measurements.jsonl"`."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "measurements.jsonl"
    path.write_text("")
    values = {
        "model.planner.lr": "0",
        "model.executor.lr": "0",
        "data.test.test.init_args.size": "4",
        "data.test.test_unseen_tools.init_args.size": "4",
        "trainer.logger.init_args.save_dir": str(out),
        "trainer.max_steps": str(steps),
    }
    start, fit = time.monotonic(), 0
    while time.monotonic() - start < seconds:
        fit += 1
        # `-c CONFIG` comes first; the values override it, and the other arguments override the values
        cli = build([*arguments[:2], *(f"--{key}={value}" for key, value in values.items()), *arguments[2:]], run=False)
        cli.trainer.callbacks.append(Meter(path, start, seconds, fit))  # type: ignore[attr-defined]
        cli.trainer.fit(cli.model, cli.datamodule)


def summary(path: Path) -> str:
    """Return a short summary of the lines."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if not lines:
        return "no round was finished"
    first, last = lines[0], lines[-1]
    told = [
        f"{counted(len(lines), 'round')}, {counted(last['fit'], 'fit')}, {last['seconds'] / 3600:.2f} hours",
        *(f"{name}: {first[name]:g} after the first round, {last[name]:g} after the last" for name in UNITS),
        *(f"{name}: {slope:+.2f} +- {error:.2f} {UNITS[name]}/hour" for name, (slope, error) in slopes(lines).items()),
    ]
    return "\n".join(told)


@reader_may_leave()
def main(arguments: Sequence[str] | None = None) -> None:
    """Train, and report growth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and the measurements")
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--steps", type=int, default=1_000_000, help="of one fit")
    parser.add_argument("arguments", nargs="+", help="of `python -m cahl_pl`, after --, -c CONFIG first")
    options = parser.parse_args(arguments)
    quiet_libraries()
    try:
        soak(options.out, 3600 * options.hours, options.steps, options.arguments)
    finally:
        print(summary(options.out / "measurements.jsonl"), flush=True)


if __name__ == "__main__":
    main()
