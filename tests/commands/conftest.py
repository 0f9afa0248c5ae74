"""Arguments that make a run small, runs within this process, and what a finished run leaves."""

from __future__ import annotations

import json
import sys
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import pytest

from cahl_pl.cli import main
from cahl_pl.commands import fit_runs

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def in_this_process(monkeypatch):
    """Runs go through the command line's own code here, one after the other: a new process would import for seconds."""

    class Pool:
        def __init__(self, at_a_time):
            pass

        def submit(self, job):
            future = Future()
            try:
                future.set_result(job())
            except Exception as error:
                future.set_exception(error)
            return future

        def shutdown(self, cancel_futures):
            pass

    def run(command, **options):
        assert command[:3] == [sys.executable, "-m", "cahl_pl"]
        main(command[3:])
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(fit_runs, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(fit_runs.subprocess, "run", run)


@pytest.fixture
def summary():
    """Writes what a finished run leaves."""

    def write(out: Path, run: str, success: float, *, before: float | None = None, tokens: int = 1000, steps: int = 4):
        folder = out / run / "version_0"
        folder.mkdir(parents=True)
        values = {"tools/calls_per_success": 2.0, "tools/invalid_rate": 0.25, "tools/redundant_rate": 0.0}
        details = {"test": {"before": None, "after": {**values, "task/success": success, "tokens_per_task": 80.0}}}
        if before is not None:
            details["test"]["before"] = {**values, "task/success": before, "tokens_per_task": 80.0}
        content = {
            "test": {"before": before, "after": success},
            "details": {**details, "training": {"steps": steps, "tokens": tokens}},
        }
        (folder / "summary.json").write_text(json.dumps(content))
        return folder

    return write
