"""Samplers in the data module: what they hear of the rounds, and what a checkpoint holds of them."""

from __future__ import annotations

import io

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything

import cahl_pl.rollout.stream
from cahl_pl.datamodule import RolloutDataModule
from cahl_pl.engines.base import Sampling
from cahl_pl.environments import ExecutableEnvironment
from cahl_pl.errors import ConfigError
from cahl_pl.module import CAHLModule
from cahl_pl.optimizers import OptimizerConfig
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.prompts import PromptConfig
from cahl_pl.rewards.base import BasePlannerReward
from cahl_pl.rollout.config import RolloutConfig
from cahl_pl.sampling import RewardSampler, Shuffled
from cahl_pl.schedules import PlannerOnly
from tests.datamodule.batches import Silent, contents


class Mastered(BasePlannerReward):
    """Pays every plan of an even request in full and none of an odd one."""

    def components(self, plan, trajectories):
        return {"even": float(int(trajectories[0].task.id[1:]) % 2 == 0)}

    def total(self, components):
        return components["even"]


class Length(BasePlannerReward):
    """Pays for short texts: a random model writes no plan, but some of its texts are shorter than others."""

    def components(self, plan, trajectories):
        return {"length": 1 / (1 + len(trajectories[0].plan_text))}

    def total(self, components):
        return components["length"]


def test_a_sampler_hears_what_the_tasks_of_its_round_earned(make):
    data = make(6, tasks_per_round=3, sampler=RewardSampler(), planner_reward=Mastered(), schedule=PlannerOnly())
    next(data.batches())
    drawn = Shuffled().draw(6, 0, 0, 0, 3)
    weights = data.sampler.weights(6)
    assert data.sampler.state_dict()["seen"].sum() == 3
    seen = data.sampler.state_dict()["seen"].nonzero().flatten().tolist()
    assert weights[seen].tolist() == pytest.approx([0.01 if i % 2 == 0 else 0.11 for i in seen])
    assert len(drawn) == len(seen)


def test_without_a_planner_a_sampler_hears_of_the_outputs(make):
    data = make(2, length=50, sampler=RewardSampler(), single_level=True, turn_reward=Silent())
    next(data.batches())
    assert not data.sampler.state_dict()["seen"].any()  # both are too long
    data = make(2, sampler=RewardSampler(), single_level=True, turn_reward=Silent())
    next(data.batches())
    assert data.sampler.state_dict()["mean"].tolist() == [0.25, 0.25]


def test_a_sampler_hears_of_the_tasks_of_all_processes(make, monkeypatch):
    """Of two processes each gathers what its own tasks earned; what comes back is what the sampler is told."""
    gathered = []

    def gather(values):
        gathered.append(values)
        return [values, {99: [1.0]}]

    monkeypatch.setattr(cahl_pl.rollout.stream, "gather_over_processes", gather)
    told = []
    for rank in (0, 1):
        data = make(8, tasks_per_round=4, planner_reward=Mastered(), schedule=PlannerOnly())
        data.trainer.global_rank, data.trainer.world_size = rank, 2
        monkeypatch.setattr(data.sampler, "update", told.append)
        next(data.batches())
    drawn = Shuffled().draw(8, 0, 0, 0, 4)
    assert [sorted(values) for values in gathered] == [sorted(drawn[0::2]), sorted(drawn[1::2])]
    assert all(values[i] == [float(i % 2 == 0)] * 2 for values in gathered for i in values)
    assert told == [{**values, 99: [1.0]} for values in gathered]


def test_a_state_brings_the_sampler_back(make):
    def again():
        options = {"sampler": RewardSampler(), "planner_reward": Mastered(), "schedule": PlannerOnly()}
        return make(12, tasks_per_round=3, **options)

    data = again()
    list(data.batches())  # the first of its epochs tells it of the tasks
    stream = data.batches()
    next(stream)
    file = io.BytesIO()
    torch.save(data.state_dict(), file)
    rest = contents([*stream, *data.batches(), *data.batches()])
    for forgetful in (False, True):
        file.seek(0)
        state = torch.load(file, weights_only=True)
        if forgetful:
            state["sampler"] = RewardSampler().state_dict()
        resumed = again()
        resumed.load_state_dict(state)
        same = contents([*resumed.batches(), *resumed.batches(), *resumed.batches()]) == rest
        assert same is not forgetful


@pytest.mark.parametrize(
    ("then", "now", "message"),
    [
        ({"sampler": RewardSampler()}, {}, r"with data\.sampler = RewardSampler, now it is Shuffled"),
        ({}, {"sampler": RewardSampler()}, r"with data\.sampler = Shuffled, now it is RewardSampler"),
        ({}, {"single_level": True}, r"with data\.single_level = False, now it is True"),
        ({"single_level": True}, {}, r"with data\.single_level = True, now it is False"),
    ],
)
def test_a_checkpoint_of_another_kind_of_run_is_refused(make, then, now, message):
    state = make(5, **then).state_dict()
    with pytest.raises(ConfigError, match=message):
        make(5, **now).load_state_dict(state)
    make(5, **then).load_state_dict(state)
    testing = make(5, **now)  # only training reads the stream
    testing.trainer.testing = True
    testing.load_state_dict(state)


def test_a_run_with_a_reward_sampler_resumes_exactly(tiny_model, tmp_path, make):
    def run(steps, checkpoint=None):
        seed_everything(3, verbose=False)
        learning = OptimizerConfig(lr=1e-2)
        module = CAHLModule(PolicyConfig(model=str(tiny_model), lora_rank=2), planner=learning, executor=learning)
        sampling = Sampling(max_new_tokens=6)
        data = RolloutDataModule(
            make(8).train_tasks,
            ExecutableEnvironment(lambda state: {}),
            prompts=PromptConfig(system="", planner="Plan", executor="{subtask}"),
            planner_reward=Length(),
            schedule=PlannerOnly(),
            sampler=RewardSampler(decay=0.1),
            rollout=RolloutConfig(2, 2, planner=sampling, executor=sampling),
            tasks_per_round=2,
        )
        trainer = Trainer(
            accelerator="cpu",
            max_steps=steps,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        trainer.fit(module, data, ckpt_path=checkpoint)
        return module.policy.adapter_state(), data, trainer

    whole, data, _ = run(10)  # two epochs and a half
    _, _, trainer = run(6)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    resumed, again, _ = run(10, tmp_path / "last.ckpt")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert all(torch.equal(data.sampler.state_dict()[k], v) for k, v in again.sampler.state_dict().items())
    assert any((tensor != 0).any() for name, tensor in whole.items() if "lora_B.planner" in name)  # it did learn
