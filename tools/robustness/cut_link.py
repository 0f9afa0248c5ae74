"""Train on two hosts, cut the link between them, and resume; compare with a run whose link was not cut.

    python -m tools.robustness.cut_link --out runs/link --after 4 -- -c configs/quickstart.yaml --trainer.max_steps 8

The hosts are two network namespaces of this machine, joined by a virtual cable; this needs root, Linux and `ip` (iproute2).
On each, torchrun starts `python -m cahl_pl fit ... --ckpt_path last` with the arguments after `--`; both share a file system.
Once the checkpoint of the step `--after` is written, the cable is cut. Both sides must end with an error within the
`--timeout` of `trainer.strategy` plus some seconds, and the checkpoint must remain. Then the cable is restored, and both are
started again. Adapters, optimisers, generators, position and every logged scalar must equal those of the run that was not
cut, bit for bit, except for times and memory. Exit status 1 means that one of these conditions is not met.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import cahl_pl  # noqa: F401 - before torch: it decides how torch's threads wait
from cahl_pl.commands.pipes import reader_may_leave
from tools.robustness.kill_and_resume import differences, outcome

HOSTS: Final = ("cahl-host-0", "cahl-host-1")
INTERFACE: Final = "cable"
GRACE_S: Final = 180
"""Seconds that the two sides may take beyond the timeout to end, torchrun after its process, on a busy machine."""


def ip(*words: str) -> None:
    """Call `ip`; raise CalledProcessError with its output."""
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@contextlib.contextmanager
def two_hosts() -> Iterator[None]:
    """Provide two network namespaces, with the addresses 10.77.0.1 and 10.77.0.2, within the context."""
    try:
        for host in HOSTS:
            ip("netns", "add", host)
        ip("-n", HOSTS[0], "link", "add", INTERFACE, "type", "veth", "peer", "name", INTERFACE, "netns", HOSTS[1])
        for number, host in enumerate(HOSTS):
            ip("-n", host, "address", "add", f"10.77.0.{number + 1}/24", "dev", INTERFACE)
            ip("-n", host, "link", "set", "lo", "up")
            ip("-n", host, "link", "set", INTERFACE, "up")
        yield
    finally:
        for host in HOSTS:
            subprocess.run(["ip", "netns", "delete", host], check=False, capture_output=True)


def command(number: int, folder: Path, seconds: int, arguments: list[str]) -> list[str]:
    """Return the command of a host's side of a run that logs into `folder`."""
    start = ["ip", "netns", "exec", HOSTS[number], sys.executable, "-m", "torch.distributed.run"]
    meeting = ["--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "10.77.0.1", "--master-port", "29500"]
    values = {
        "trainer.num_nodes": 2,
        "trainer.devices": 1,
        "trainer.accelerator": "cpu",
        "trainer.strategy": "cahl_pl.distributed.AdapterDDPStrategy",
        "trainer.strategy.timeout": timedelta(seconds=seconds),
        "trainer.logger.init_args.save_dir": folder,
        "data.test": "null",
        "ckpt_path": "last",
    }
    fixed = [f"--{key}={value}" for key, value in values.items()]
    return [*start, *meeting, "--node-rank", str(number), "-m", "cahl_pl", "fit", *arguments, *fixed]


def run(folder: Path, seconds: int, arguments: list[str], after: int | None = None) -> dict[str, Any]:
    """Run both sides to their ends.

    Args:
        folder: folder for their logs.
        seconds: time after which a side stops waiting for the other one.
        arguments: arguments of `fit`.
        after: step after whose checkpoint the cable is cut; None: it is not.

    Returns:
        Exit statuses, errors that the sides reported, and the seconds from the cut to their ends; those are None without a cut.
    """
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": INTERFACE}
    logs = [folder.with_suffix(f".{number}.log") for number in range(2)]
    cut: float | None = None
    ends: dict[int, float] = {}
    with contextlib.ExitStack() as files:
        sides = [
            subprocess.Popen(
                command(number, folder, seconds, arguments),
                env=environment,
                stdout=files.enter_context(log.open("ab")),
                stderr=subprocess.STDOUT,
            )
            for number, log in enumerate(logs)
        ]
        try:
            while len(ends) < 2:
                time.sleep(0.05)
                ends |= {i: time.monotonic() for i in range(2) if i not in ends and sides[i].poll() is not None}
                if after is not None and cut is None and list(folder.glob(f"*/*/checkpoints/step-{after:06d}.ckpt")):
                    ip("-n", HOSTS[1], "link", "set", INTERFACE, "down")
                    cut = time.monotonic()
                if cut is not None and time.monotonic() > cut + seconds + GRACE_S:
                    break
        finally:
            for side in sides:
                side.terminate()  # torchrun ends its process
                side.wait()
    if cut is not None:
        ip("-n", HOSTS[1], "link", "set", INTERFACE, "up")
    lines = [log.read_text(encoding="utf-8", errors="replace").splitlines() for log in logs]
    return {
        "statuses": [side.returncode if i in ends else None for i, side in enumerate(sides)],
        "errors": [[line for line in said if line.startswith("error: ")] for said in lines],
        "seconds": [round(ends[i] - cut, 1) if cut is not None and i in ends else None for i in range(2)],
    }


@reader_may_leave()
def main() -> None:
    """Run, cut, resume, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for both runs; what is there is deleted")
    parser.add_argument("--after", type=int, default=4, help="step after whose checkpoint the link is cut")
    parser.add_argument("--timeout", type=int, default=60, help="seconds that a side waits for the other one")
    parser.add_argument("arguments", nargs="+", help="of `python -m cahl_pl fit`, after --")
    args = parser.parse_args()
    shutil.rmtree(args.out, ignore_errors=True)
    args.out.mkdir(parents=True)
    with two_hosts():
        whole = run(args.out / "whole", args.timeout, args.arguments)
        cut = run(args.out / "cut", args.timeout, args.arguments, args.after)
        kept = sorted(path.name for path in args.out.glob("cut/*/version_0/checkpoints/*"))
        again = run(args.out / "cut", args.timeout, args.arguments)
    found = []
    if whole["statuses"] == again["statuses"] == [0, 0]:
        (one, scalars), (other, other_scalars) = (outcome(args.out / name) for name in ("whole", "cut"))
        found = differences(one, other, "checkpoint") + differences(scalars, other_scalars, "scalars")
    report = {"cut": cut, "kept": kept, "statuses": [whole["statuses"], again["statuses"]], "differences": found}
    (args.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))
    ended = whole["statuses"] == again["statuses"] == [0, 0] and None not in cut["statuses"] + cut["seconds"]
    told = all(len(errors) == 1 for errors in cut["errors"])
    raise SystemExit(0 if ended and told and kept and not found else 1)


if __name__ == "__main__":
    main()
