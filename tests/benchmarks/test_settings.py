"""What a benchmark's records depend on: each change of it makes other records."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cahl_pl.benchmarks.settings import run_settings
from cahl_pl.engines.base import Sampling
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.prompts import PromptConfig
from cahl_pl.rollout.config import InferenceConfig, RolloutConfig


def data(inference: Any = None, rollout: Any = None, **change: Any) -> Any:
    """Return what is read of a data module."""
    config = replace(RolloutConfig(), **(rollout or {}))
    given = {
        "rollout": SimpleNamespace(config=config, engine=object()),
        "prompts": PromptConfig(),
        "builder": SimpleNamespace(template_key="a"),
        "single_level": False,
        "inference": replace(InferenceConfig(), **(inference or {})),
        "seed": 0,
    }
    return SimpleNamespace(**given | change)


@pytest.mark.parametrize(
    "change",
    [
        {"inference": {"plans": 3}},
        {"inference": {"replans": 1}},
        {"inference": {"single_level": True}},
        {"inference": {"agree": 3}},
        {"inference": {"temperature": 0.5}},
        {"rollout": {"too_long": "truncate"}},
        {"rollout": {"max_steps": 2}},
        {"rollout": {"max_prompt_tokens": 100}},
        {"rollout": {"planner": Sampling(max_new_tokens=7)}},
        {"rollout": {"executor": Sampling(max_new_tokens=7)}},
        {"seed": 1},
        {"single_level": True},
        {"prompts": PromptConfig(system="Else.")},
        {"builder": SimpleNamespace(template_key="b")},
    ],
    ids=str,
)
def test_another_setting_makes_other_records(change: Any) -> None:
    policy = PolicyConfig(model="nowhere")
    assert run_settings(policy, data(), None) == run_settings(policy, data(), None)
    assert run_settings(policy, data(**change), None) != run_settings(policy, data(), None)


def test_another_checkpoint_under_the_same_path_makes_other_records(tmp_path: Path) -> None:
    path, policy = tmp_path / "a.ckpt", PolicyConfig(model="nowhere")
    path.write_bytes(b"one")
    first = run_settings(policy, data(), path)
    path.write_bytes(b"two")
    second = run_settings(policy, data(), path)
    assert {key for key in first if first[key] != second[key]} == {"weights"}
    assert run_settings(replace(policy, lora_rank=3), data(), path)["policy"] != second["policy"]
