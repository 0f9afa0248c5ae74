"""What holds for each role, and which values are refused."""

from __future__ import annotations

import math
import re
from dataclasses import fields

import pytest

from cahl_pl.cli import main
from cahl_pl.grpo.config import GRPOConfig, RoleGRPOConfig
from cahl_pl.types import ROLES


def test_a_role_may_have_every_key_of_its_own():
    common = {f.name: f.type for f in fields(GRPOConfig)}
    own = {f.name: f.type for f in fields(RoleGRPOConfig)}
    assert own == {name: kind if kind.endswith("| None") else f"{kind} | None" for name, kind in common.items()}
    assert all(f.default is None for f in fields(RoleGRPOConfig))


def test_what_a_role_leaves_out_is_that_of_both():
    common = GRPOConfig(loss="dapo", kl=0.1, clip_high=0.28)
    own = RoleGRPOConfig(kl=0.0, loss="gspo").over(common, "planner")
    assert (own.loss, own.kl, own.clip) == ("gspo", 0.0, (3e-4, 0.28))
    assert RoleGRPOConfig().over(common, "executor").clip == (0.2, 0.28)


def test_scale_of_rewards():
    def scales(common, own=None):
        return [RoleGRPOConfig(scale_rewards=own).over(common, r).scale_rewards for r in ROLES]

    assert scales(GRPOConfig()) == ["group", "group"]
    assert scales(GRPOConfig(scale_rewards="batch")) == ["batch", "batch"]  # said for both
    assert RoleGRPOConfig(scale_rewards="none").over(GRPOConfig(), "planner").scale_rewards == "none"
    assert scales(GRPOConfig(scale_rewards="batch"), "none") == ["none", "none"]


@pytest.mark.parametrize(("loss", "clip"), [("grpo", (0.2, 0.2)), ("gspo", (3e-4, 4e-4))])
def test_the_usual_clip_is_that_of_the_loss(loss, clip):
    assert GRPOConfig(loss=loss).clip == clip
    assert GRPOConfig(loss=loss, clip_low=0.1, clip_high=0.3).clip == (0.1, 0.3)


def test_the_importance_correction_that_is_meant():
    assert GRPOConfig().correction[0] == "none"
    assert GRPOConfig(importance_cap=2.0).correction == ("token_truncate", 2.0)
    assert GRPOConfig(importance="sequence_mask").correction == ("sequence_mask", 3.0)


@pytest.mark.parametrize("value", [math.nan, -1.0])
@pytest.mark.parametrize(
    "name", ["clip_low", "clip_high", "dual_clip", "kl", "entropy", "epsilon", "overlong_penalty", "importance_cap"]
)
def test_numbers_that_could_not_work_are_refused_in_one_sentence(name, value):
    for make in (GRPOConfig, lambda **own: RoleGRPOConfig(**own).over(GRPOConfig(), "planner")):
        with pytest.raises(ValueError, match=rf"grpo\.{name} is {value}: give a value") as error:
            make(**{name: value})
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"clip_low": 0.0}, "grpo.clip_low is 0.0: give a value above 0 and at most 1"),
        ({"clip_low": 1.5}, "grpo.clip_low is 1.5"),
        ({"dual_clip": 1.0}, "grpo.dual_clip is 1.0: give a value above 1, or .inf for no bound"),
        ({"kl": math.inf}, "grpo.kl is inf"),
        ({"loss": "dr_grpo", "max_completion_length": 0}, "grpo.max_completion_length is 0: give a value 1 or more"),
        ({"loss": "dr_grpo", "max_completion_length": -1}, "grpo.max_completion_length is -1"),
        ({"overlong_cache": 0}, "grpo.overlong_cache is 0"),
        ({"importance_cap": 0.0}, "grpo.importance_cap is 0.0: give a value above 0 and finite, or null"),
    ],
)
def test_bad_values_are_refused(values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        GRPOConfig(**values)


def test_the_executor_has_no_plans_to_pool():
    RoleGRPOConfig().over(GRPOConfig(pool_equal_plans=True), "executor")
    with pytest.raises(ValueError, match=r"model\.executor_grpo\.pool_equal_plans is true"):
        RoleGRPOConfig(pool_equal_plans=True).over(GRPOConfig(), "executor")


def test_a_role_on_the_command_line_and_in_yaml(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["cahl_pl"])
    path = tmp_path / "mine.yaml"
    path.write_text(
        "model:\n  grpo: {kl: 0.1, loss: dapo}\n  planner_grpo: {kl: 0.0}\n"
        "data:\n  train: {class_path: cahl_pl.toolworld.ToolWorld}\n"
        "  environment: {class_path: cahl_pl.environments.RecordedEnvironment}\n"
    )
    model = main(["-c", str(path), "--model.executor_grpo.clip_high", "0.3", "--trainer.logger=false"], run=False).model
    assert [(c.kl, c.loss, c.clip, c.scale_rewards) for c in (model.grpo["planner"], model.grpo["executor"])] == [
        (0.0, "dapo", (0.2, 0.2), "group"),
        (0.1, "dapo", (0.2, 0.3), "group"),
    ]
