"""Tools and calls in the family's own form through whole runs of the quickstart."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from cahl_pl.commands import console

ROOT = Path(__file__).resolve().parent.parent
NATIVE = ["--data.prompts.tool_format=native", "--data.prompts.chat_template=tools/quality/hermes.jinja"]


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs the quickstart's configuration, made small."""
    monkeypatch.chdir(ROOT)
    small = [
        "--data.tasks_per_round=2",
        "--data.rollout.planner_group_size=2",
        "--data.rollout.executor_group_size=2",
        "--data.rollout.planner.max_new_tokens=8",
        "--data.rollout.executor.max_new_tokens=8",
        "--data.test.test.init_args.size=2",
        "--data.test.test_unseen_tools.init_args.size=2",
        "--trainer.max_steps=4",
        f"--trainer.logger.init_args.save_dir={tmp_path / 'runs'}",
    ]

    def start(*arguments):
        monkeypatch.setattr(sys, "argv", ["cahl-pl", "fit", "-c", "configs/quickstart.yaml", *small, *arguments])
        console()

    return start


def test_a_warm_start_and_a_round_of_grpo(run, tmp_path, capsys):
    run(*NATIVE, "--data.warm_start_rounds=1")
    assert "4 optimiser steps in 2 rounds" in capsys.readouterr().out
    (summary,) = (tmp_path / "runs").rglob("summary.json")
    assert json.loads(summary.read_text())


def test_a_template_without_tools_ends_in_one_sentence(run, capsys):
    with pytest.raises(SystemExit) as stopped:
        run("--data.prompts.tool_format=native")
    assert stopped.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert "tool_format is native, but the chat template of" in line
    assert "shows no tools" in line


def test_grammars_are_refused_in_one_sentence(run, capsys):
    pytest.importorskip("llguidance")
    with pytest.raises(SystemExit) as stopped:
        run(*NATIVE, "--data.inference.constrained=true", "--data.inference.constrained_in_fit=true")
    assert stopped.value.code == 2
    assert "grammars know calls in our own form alone" in capsys.readouterr().err
