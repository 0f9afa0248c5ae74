"""Kill a run again and again, restart it each time, and compare the outcome with a run that was left alone.

    python -m tools.robustness.kill_and_resume --out runs/kills --kills 50 --between 1 40 -- -c configs/quickstart.yaml
    python -m tools.robustness.kill_and_resume --out runs/kills --kills 20 --while-saving -- -c configs/quickstart.yaml

Both runs are `python -m cahl_pl fit ... --ckpt_path last` with the arguments after `--` and separate `save_dir`s. The second
one gets SIGKILL after a random number of seconds, 50 times; then it may finish. With --while-saving it is killed a few
milliseconds after writing of the first, second or third checkpoint from its start has begun. Adapters, optimisers,
generators, position and every logged scalar must be equal, bit for bit, except for times and memory.
Exit status 1 means that something differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import cahl_pl  # noqa: F401 - before torch: it decides how torch's threads wait

# isort: split
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cahl_pl.commands.pipes import reader_may_leave
from cahl_pl.runs.checkpoints import read_checkpoint

MEASURED = ("time/", "memory/")  # differ between any two runs
SAVES, SECONDS = (
    3,
    0.03,
)  # --while-saving: a kill hits one of the first SAVES checkpoints, at most SECONDS after it was begun


def command(folder: Path, arguments: list[str]) -> list[str]:
    """Return the command of a run that logs into `folder`."""
    fixed = ["--trainer.logger.init_args.save_dir", str(folder), "--ckpt_path", "last"]
    return [sys.executable, "-m", "cahl_pl", "fit", *arguments, *fixed]


def run_until(argv: list[str], log: Path, seconds: float | None) -> int | None:
    """Run to the end, or kill after `seconds`; return the exit status, None if it was killed."""
    with log.open("ab") as file:
        process = subprocess.Popen(argv, stdout=file, stderr=file)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return None


def kill_while_saving(argv: list[str], log: Path, folder: Path, saves: int, seconds: float) -> tuple[int | None, str]:
    """Run until a checkpoint is being written, and kill.

    Args:
        argv: the command.
        log: file for its output.
        folder: folder for its logs, and for its temporary files, through which checkpoints go.
        saves: number of the checkpoint, counted from the start, from 1.
        seconds: time to wait once it has been begun.

    Returns:
        The exit status, None if it was killed, and what the kill left: `bytes` that were still being written, a file that
        was `not renamed` yet, or the `whole` checkpoint.
    """
    aside = folder / "aside"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)

    def unfinished() -> set[tuple[Path, int]]:
        found = set()
        for path in (*aside.glob("tmp*"), *folder.glob("*/version_0/checkpoints/*.tmp")):
            try:
                found.add((path, path.stat().st_ino))
            except FileNotFoundError:  # renamed meanwhile
                continue
        return found

    left, begun, busy = unfinished(), 0, False  # files left by an earlier kill stay
    with log.open("ab") as file:
        process = subprocess.Popen(argv, stdout=file, stderr=file, env={**os.environ, "TMPDIR": str(aside)})
        while begun < saves:
            if process.poll() is not None:
                return process.returncode, ""
            was_busy, busy = busy, bool(unfinished() - left)
            begun += busy and not was_busy
            time.sleep(0.001)
        time.sleep(seconds)
        process.kill()
        process.wait()
    kinds = {path.parent == aside for path, _ in unfinished() - left}
    return None, "bytes" if True in kinds else "not renamed" if kinds else "whole"


def outcome(folder: Path) -> tuple[dict[str, Any], dict[str, list[tuple[int, float]]]]:
    """Return the last checkpoint's content, and every logged scalar: tag -> [(step, value)]."""
    (run,) = folder.glob("*/version_0")
    checkpoint = read_checkpoint(max((run / "checkpoints").glob("step-*.ckpt")))
    events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if not tag.startswith(MEASURED)]
    return checkpoint, {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags}


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    """Return the places where two nested values are not exactly equal; skip those that always differ (times)."""
    if where.rsplit("/", 1)[-1] in ("metrics", "callbacks") and isinstance(a, dict):
        a, b = ({k: v for k, v in x.items() if not k.startswith(MEASURED)} for x in (a, b))
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if torch.equal(a, b) and a.dtype == b.dtype else [where]
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() != b.keys():
            return [f"{where}: keys {sorted(map(str, a.keys() ^ b.keys()))}"]
        return [found for key in a for found in differences(a[key], b[key], f"{where}/{key}")]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        if len(a) != len(b):
            return [f"{where}: {len(a)} and {len(b)} items"]
        return [found for i, (x, y) in enumerate(zip(a, b, strict=True)) for found in differences(x, y, f"{where}/{i}")]
    return [] if a == b or (a != a and b != b) else [f"{where}: {a} and {b}"]


@reader_may_leave()
def main() -> None:
    """Run, kill, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for both runs; what is there is deleted")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--between", type=float, nargs=2, default=(1, 40), help="seconds from a start to its kill")
    parser.add_argument("--while-saving", action="store_true", help="kill while a checkpoint is written")
    parser.add_argument("--seed", type=int, default=0, help="of the times of the kills")
    parser.add_argument("arguments", nargs="+", help="of `python -m cahl_pl fit`, after --")
    args = parser.parse_args()
    shutil.rmtree(args.out, ignore_errors=True)
    args.out.mkdir(parents=True)
    print(f"one run left alone ({os.cpu_count()} CPUs, torch {torch.__version__})", flush=True)
    start = time.monotonic()
    if run_until(command(args.out / "alone", args.arguments), args.out / "alone.log", None) != 0:
        raise SystemExit(f"the run failed: see {args.out / 'alone.log'}")
    whole = time.monotonic() - start
    rng, kills, struck = random.Random(args.seed), 0, Counter[str]()
    argv, log = command(args.out / "killed", args.arguments), args.out / "killed.log"
    status: int | None = None
    while status is None:
        begun, where = time.monotonic(), ""
        if kills == args.kills:
            status = run_until(argv, log, None)
        elif args.while_saving:
            chosen = rng.randint(1, SAVES), rng.uniform(0, SECONDS)
            status, where = kill_while_saving(argv, log, args.out / "killed", *chosen)
        else:
            status = run_until(argv, log, rng.uniform(*args.between))
        if status is None:
            kills += 1
            struck[where] += 1
            found = sorted(path.stem for path in args.out.glob("killed/*/version_0/checkpoints/step-*.ckpt"))
            print(
                f"kill {kills} after {time.monotonic() - begun:.1f} s{where and f', left: {where}'}; newest checkpoint: "
                f"{found[-1] if found else 'none'}",
                flush=True,
            )
    if status != 0:
        raise SystemExit(f"a restarted run failed: see {log}")
    (alone, alone_scalars), (killed, killed_scalars) = (outcome(args.out / name) for name in ("alone", "killed"))
    found = differences(alone, killed, "checkpoint") + differences(alone_scalars, killed_scalars, "scalars")
    report = {"kills": kills, "seconds_left_alone": round(whole), "scalars": len(alone_scalars), "differences": found}
    if args.while_saving:
        report["left"] = dict(struck)
    (args.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))
    raise SystemExit(1 if found else 0)


if __name__ == "__main__":
    main()
