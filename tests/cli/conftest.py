"""A small configuration, and the command line run on it as from a shell."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from cahl_pl.cli import main
from cahl_pl.commands import console


@pytest.fixture(autouse=True)
def _no_arguments(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["cahl_pl"])  # LightningCLI warns where it is given arguments and finds others
    monkeypatch.delenv("CAHL_TRACEBACK", raising=False)


@pytest.fixture
def config(tiny_model, tmp_path) -> Path:
    """A configuration that runs in a second."""
    content = {
        "trainer": {
            "accelerator": "cpu",
            "devices": 1,
            "max_steps": 2,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": str(tmp_path),
        },
        "model": {"policy": {"model": str(tiny_model), "lora_rank": 2}, "grpo": {"clip_high": 0.3}},
        "data": {
            "train": {"class_path": "cahl_pl.toolworld.ToolWorld", "init_args": {"size": 4}},
            "environment": {
                "class_path": "cahl_pl.environments.ExecutableEnvironment",
                "init_args": {"toolkit": "cahl_pl.toolworld.toolkit"},
            },
            "prompts": {"tool_format": "compact", "system": "Tools:", "planner": "Plan", "executor": "{subtask}"},
            "tasks_per_round": 2,
            "rollout": {
                "planner_group_size": 2,
                "executor_group_size": 2,
                "planner": {"max_new_tokens": 6},
                "executor": {"max_new_tokens": 6},
            },
        },
    }
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def build(config):
    """Builds trainer, model and data, and runs nothing."""
    return lambda *arguments: main(["-c", str(config), *arguments], run=False)


@pytest.fixture
def fail(config, monkeypatch, capfd):
    """Runs `fit` as from a shell; returns the one line that a user reads."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["cahl_pl", "fit", "-c", str(config), *arguments])
        with pytest.raises(SystemExit) as stopped:
            console()
        assert stopped.value.code == 2
        error = capfd.readouterr().err
        assert "Traceback" not in error
        assert "usage:" not in error
        shown = error[error.index("error: ") :].rstrip("\n")
        assert "\n" not in shown
        return shown

    return run
