"""The page that a newcomer reads first does what the trainer does: the same samples, rewards, losses and gradients."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything

from cahl_pl.datamodule import RolloutDataModule
from cahl_pl.engines import Sampling
from cahl_pl.environments import ExecutableEnvironment
from cahl_pl.grpo.config import RoleGRPOConfig
from cahl_pl.module import CAHLModule, OptimizerConfig
from cahl_pl.policy import Policy, PolicyConfig
from cahl_pl.prompts import PromptBuilder, PromptConfig
from cahl_pl.rollout.config import RolloutConfig
from cahl_pl.toolworld import ToolWorld, toolkit
from cahl_pl.types import ROLES

PAGE = Path(__file__).resolve().parents[1] / "docs" / "examples" / "cahl_in_one_file.py"
WORDS = PromptConfig(
    tool_format="compact",
    system="Tools:",
    planner="Plan",
    executor="Step {index}: {subtask}",
    feedback="Result: {feedback}",
)


@pytest.fixture(scope="module")
def page():
    return runpy.run_path(str(PAGE))


def test_it_can_be_read_in_one_go():
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    assert sum(bool(line.strip()) for line in lines) < 150


def test_one_round_is_that_of_the_trainer(page, tmp_path):
    """Two tasks, the shipped model: rewards, loss and gradient norm of both roles, to the last digits of float32."""
    seed_everything(0, verbose=False)
    module = CAHLModule(
        PolicyConfig(model="toolworld"),
        planner=OptimizerConfig(lr=1e-3),
        executor=OptimizerConfig(lr=1.5e-3),
        planner_grpo=RoleGRPOConfig(pool_equal_plans=False),
    )
    rollout = RolloutConfig(
        planner_group_size=4,
        executor_group_size=4,
        max_steps=5,
        planner=Sampling(max_new_tokens=128),
        executor=Sampling(max_new_tokens=56),
    )
    world = ToolWorld("train", 4, seed=1)
    data = RolloutDataModule(world, ExecutableEnvironment(toolkit), prompts=WORDS, rollout=rollout, tasks_per_round=4)
    measured = {}

    class Notes(Callback):
        def on_train_start(self, trainer, pl_module):
            measured["adapters"] = {k: v.clone() for k, v in pl_module.policy.adapter_state().items()}

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            measured[batch.role] = {k: float(v) for k, v in trainer.callback_metrics.items()}

    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=2,
        logger=False,
        callbacks=[Notes()],
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, datamodule=data)

    policy = Policy(PolicyConfig(model="toolworld"))
    policy.load()
    policy.load_adapter_state(measured["adapters"])
    order = data.sampler.draw(4, 0, 0, 0, 4)
    settings = page["Settings"]()
    groups = page["plan_and_execute"](
        policy,
        PromptBuilder(policy.tokenizer, WORDS),
        ExecutableEnvironment(toolkit),
        [world[i] for i in order],
        settings,
        seed=0,
    )
    for role in ROLES:
        reward = torch.cat([group.rewards for group in groups[role]]).mean().item()
        assert reward == pytest.approx(measured[role][f"{role}/reward/mean"], abs=1e-6)
        optimizer = torch.optim.AdamW(policy.parameters_of(role), lr=page["LEARNING_RATE"][role], weight_decay=0.0)
        loss, norm = page["learn"](policy, role, groups[role], settings, optimizer)
        assert loss == pytest.approx(measured[role][f"{role}/loss"], abs=1e-6)
        assert norm > 0
        assert norm == pytest.approx(measured[role][f"{role}/grad_norm"], rel=1e-4)
