"""Bases of other kinds go through the whole of a run: two rounds of the quickstart's tasks, and what it exports."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from cahl_pl.commands import console
from tools.quality.random_bases import FAMILIES, build


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Qwen3.5", "Gemma 3", "Mixtral", "Mistral 3 (multimodal)"])
def test_two_rounds_of_the_quickstart(name, tmp_path, monkeypatch, capsys):
    build(FAMILIES[name], tmp_path / "base")
    monkeypatch.chdir(Path(__file__).resolve().parents[1])
    arguments = [
        f"--model.policy.model={tmp_path / 'base'}",
        "--model.policy.gradient_checkpointing=true",
        "--data.tasks_per_round=2",
        "--data.rollout.planner_group_size=2",
        "--data.rollout.executor_group_size=2",
        "--data.rollout.planner.max_new_tokens=6",
        "--data.rollout.executor.max_new_tokens=6",
        "--data.test.test.init_args.size=2",
        "--data.test.test_unseen_tools.init_args.size=2",
        "--trainer.max_steps=4",
        f"--trainer.logger.init_args.save_dir={tmp_path / 'runs'}",
    ]
    monkeypatch.setattr(sys, "argv", ["cahl-pl", "fit", "-c", "configs/quickstart.yaml", *arguments])
    console()
    said = capsys.readouterr().out
    assert "4 optimiser steps in 2 rounds" in said
    (summary,) = (tmp_path / "runs").rglob("summary.json")
    assert json.loads(summary.read_text())
