"""The tools, which import one another as scripts of one folder do, and arguments that make a run small."""

from __future__ import annotations

import importlib
import json
import sys
from concurrent.futures import Future
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from cahl_pl.cli import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def import_tool(monkeypatch):
    """Imports a tool by its name."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load


@pytest.fixture
def small(tiny_model, monkeypatch) -> list[str]:
    """Arguments with which quickstart.yaml trains the tiny model for a moment."""
    monkeypatch.chdir(ROOT)
    return [
        f"--model.policy.model={tiny_model}",
        "--data.tasks_per_round=2",
        "--data.rollout.planner.max_new_tokens=6",
        "--data.rollout.executor.max_new_tokens=6",
        "--data.test.test.init_args.size=2",
        "--data.test.test_unseen_tools.init_args.size=2",
    ]


@pytest.fixture
def in_this_process(import_tool, monkeypatch):
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

    runs = import_tool("fit_runs")
    monkeypatch.setattr(sys, "argv", ["cahl_pl"])
    monkeypatch.setattr(runs, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(runs.subprocess, "run", run)


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
