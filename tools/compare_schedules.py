"""Train the quickstart with several schedules and seeds, and print the table of docs/results.md.

    python tools/compare_schedules.py --out runs/compare

Every run starts from the same model and takes the same number of optimiser steps. A run whose `summary.json` is there is
not repeated, so that an interrupted comparison goes on where it stopped. Further arguments go to `fit`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SCHEDULES = {"joint": "Alternate", "planner_only": "PlannerOnly", "executor_only": "ExecutorOnly"}


def run(out: Path, config: str, schedule: str, seed: int, threads: int, extra: list[str]) -> Path:
    """One run; returns its `summary.json`."""
    name = f"{schedule}-{seed}"
    summary = out / name / "version_0" / "summary.json"
    if summary.is_file():
        return summary
    command = [
        *(sys.executable, "-m", "cahl_pl", "fit", "-c", config),
        *("--seed_everything", str(seed), "--data.seed", str(seed)),
        *("--data.schedule", f"cahl_pl.schedules.{SCHEDULES[schedule]}"),
        *("--trainer.logger.init_args.save_dir", str(out), "--trainer.logger.init_args.name", name),
        *("--trainer.logger.init_args.version", "0"),
        *extra,
    ]
    start = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    with (out / f"{name}.log").open("w") as log:
        subprocess.run(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
    print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
    return summary


def table(results: dict[str, list[dict[str, dict[str, float]]]]) -> str:
    """Markdown: success in percent before and after, gain as median over seeds with its range."""
    lines = [
        "| schedule | test set | before | after (each seed) | gain, median [range] |",
        "| --- | --- | --- | --- | --- |",
    ]
    for schedule, summaries in results.items():
        for name in (key for key in summaries[0] if key != "details"):
            gains = [100 * (s[name]["after"] - s[name]["before"]) for s in summaries]
            after = ", ".join(f"{100 * s[name]['after']:.1f}" for s in summaries)
            lines.append(
                f"| {schedule} | {name} | {100 * summaries[0][name]['before']:.1f} | {after} | "
                f"{statistics.median(gains):+.1f} [{min(gains):+.1f}, {max(gains):+.1f}] |"
            )
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--config", default="configs/quickstart.yaml")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--schedules", nargs="+", choices=list(SCHEDULES), default=list(SCHEDULES))
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--threads", type=int, default=1, help="threads of a run")
    args, extra = parser.parse_known_args()
    with ThreadPoolExecutor(args.jobs) as pool:
        futures = {
            (schedule, seed): pool.submit(run, args.out, args.config, schedule, seed, args.threads, extra)
            for seed in args.seeds
            for schedule in args.schedules
        }
    results = {
        schedule: [json.loads(futures[schedule, seed].result().read_text()) for seed in args.seeds]
        for schedule in args.schedules
    }
    print(table(results))


if __name__ == "__main__":
    main()
