"""Runs of `fit` and `test` in subprocesses; finished runs are reused."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml

from cahl_pl.config_files import find_config
from cahl_pl.errors import ConfigError, UserError
from cahl_pl.runs.files import lock, write_json


class RunError(UserError):
    """Failure of a run, or of its start: one sentence that says what to read or do."""


def fit(
    out: Path, name: str, configs: Sequence[str], seed: int, tokens: int, extra: Sequence[str] = (), threads: int = 1
) -> None:
    """Train until the rounds have sampled `tokens` tokens; the run's folder is `folder(out, name)`.

    A finished run is not repeated; an interrupted one resumes from its last checkpoint.

    Args:
        out: folder of all runs.
        name: name of the run.
        configs: configuration files, later ones over earlier ones.
        seed: seed of everything.
        tokens: the budget of `cahl_pl.callbacks.TokenBudget`; steps and epochs are not limited.
        extra: further arguments.
        threads: threads of the process.

    Raises:
        RunError: the process failed, or the folder holds a run with other settings.
    """
    arguments = [
        *_common(seed, tokens),
        *("--trainer.max_steps=-1", "--trainer.max_epochs", "1000"),
        *("--ckpt_path", "last"),
        *extra,
    ]
    _run("fit", out, name, configs, arguments, threads, "summary.json")


def evaluate(
    out: Path,
    name: str,
    configs: Sequence[str],
    seed: int,
    tokens: int,
    trained: str,
    extra: Sequence[str] = (),
    threads: int = 1,
) -> None:
    """Test the last checkpoint of the run `trained` with other configuration files.

    Raises:
        RunError: that run is not finished, the process failed, or the folder holds a run with other settings.
    """
    source = folder(out, trained)
    checkpoints = sorted((source / "checkpoints").glob("step-*.ckpt"), key=lambda path: int(path.stem[5:]))
    if not (source / "summary.json").is_file() or not checkpoints:
        raise RunError(f"{name} needs the finished run {trained} in {out}: name its system too")
    arguments = [*_common(seed, tokens), "--ckpt_path", str(checkpoints[-1]), *extra]
    _run("test", out, name, configs, arguments, threads, "test.json")


def folder(out: Path, name: str) -> Path:
    """Return the folder that a run writes to."""
    return out / name / "version_0"


def seconds(out: Path, name: str) -> float | None:
    """Return the duration of a finished run; None if it was interrupted and resumed, or does not exist."""
    value = (read(out / name / "run.json") or {}).get("seconds")
    return float(value) if isinstance(value, int | float) else None


def read(path: Path) -> dict[str, Any] | None:
    """Return the JSON that a run has written, or None.

    Raises:
        RunError: the file is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise damaged(path)
    return content


def damaged(path: Path) -> RunError:
    """Return the error for a file whose content is not what a run writes."""
    return RunError(f"{path} is damaged: delete it and start again, which repeats only what is missing")


def at_least_one(text: str) -> int:
    """Return a positive integer from the command line.

    Raises:
        argparse.ArgumentTypeError: it is not an integer, or below 1.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"give a whole number, 1 or more, not {text!r}")
    return int(text)


def run_all(jobs: Sequence[Callable[[], None]], at_a_time: int) -> list[str]:
    """Do all jobs, a few at a time; a failure does not stop the others.

    Returns:
        The failures, one sentence per failed job.
    """
    failures = []
    pool = ThreadPoolExecutor(at_a_time)
    try:
        for future in [pool.submit(job) for job in jobs]:
            try:
                future.result()
            except RunError as error:
                failures.append(str(error))
    finally:  # on Ctrl-C running jobs get the signal too and save their state; waiting ones must not start
        pool.shutdown(cancel_futures=True)
    return failures


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Return the mean and, for two or more, sample standard deviation, as `55.3 +- 2.1`; `-` for none."""
    if not values:
        return "-"
    middle = f"{mean(values):.{digits}f}"
    return middle if len(values) < 2 else f"{middle} +- {stdev(values):.{digits}f}"


def _common(seed: int, tokens: int) -> list[str]:
    # a test does not use the budget, but Lightning requires all callbacks whose state a checkpoint contains
    budget = ("--trainer.callbacks+=cahl_pl.callbacks.TokenBudget", f"--trainer.callbacks.max_tokens={tokens}")
    return ["--seed_everything", str(seed), "--data.seed", str(seed), *budget]


def _run(
    command: str, out: Path, name: str, configs: Sequence[str], arguments: Sequence[str], threads: int, result: str
) -> None:
    contents, paths = [], []
    for path in configs:
        try:
            paths.append(path := find_config(path))
            contents.append(yaml.safe_load(Path(path).read_text(encoding="utf-8")))
        except ConfigError as error:
            raise RunError(f"{name}: {error}") from None
        except (OSError, ValueError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())
            raise RunError(f"{name}: the configuration {path} cannot be read ({reason})") from error
    settings: dict[str, Any] = {"command": command, "arguments": list(arguments), "configs": contents}
    settings = json.loads(json.dumps(settings, default=str))
    record = out / name / "run.json"
    started = record.parent.is_dir()
    then = read(record)
    if then is not None:
        then.pop("seconds", None)
        if then != settings:
            raise RunError(f"{name}: {record.parent} holds a run with other settings: delete it, or give another --out")
    if (folder(out, name) / result).is_file():
        return
    record.parent.mkdir(parents=True, exist_ok=True)
    try:
        unlock = lock(record.parent / ".lock")
    except BlockingIOError:
        raise RunError(
            f"{name}: another program is running it in {record.parent}: start this one again when that has ended, and nothing "
            "is repeated"
        ) from None
    try:
        _start(command, name, paths, arguments, threads, folder(out, name) / result, settings, started)
    finally:
        unlock()


def _start(
    command: str,
    name: str,
    configs: Sequence[str],
    arguments: Sequence[str],
    threads: int,
    result: Path,
    settings: dict[str, Any],
    started: bool,
) -> None:
    """Start the process of a run whose folder belongs to this program, and wait for its end."""
    out = result.parents[2]
    record, log = out / name / "run.json", out / f"{name}.log"
    write_json(record, settings)
    print(f"{name}: {'again' if started else 'started'}, output in {log}", flush=True)
    logger = ("save_dir", str(out)), ("name", name), ("version", "0")
    start = time.monotonic()
    with log.open("a", encoding="utf-8") as file:
        status = subprocess.run(
            [
                *(sys.executable, "-m", "cahl_pl", command),
                *(part for path in configs for part in ("-c", path)),
                *(part for key, value in logger for part in (f"--trainer.logger.init_args.{key}", value)),
                *arguments,
            ],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            check=False,
        ).returncode
    if status != 0 or not result.is_file():
        raise RunError(f"{name} failed with exit status {status} and no {result.name}: read {log}")
    took = time.monotonic() - start
    if not started:
        write_json(record, {**settings, "seconds": round(took, 1)})
    print(f"{name}: {took:.0f} s", flush=True)
