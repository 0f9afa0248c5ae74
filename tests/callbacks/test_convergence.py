"""Moving averages, slopes and plateaus worked out by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from cahl_pl.callbacks import Convergence
from cahl_pl.types import RolloutBatch


def feed(callback, trainer, module, role, *rewards, **kwargs):
    for reward in rewards:
        trainer.global_step += 1
        batch = RolloutBatch(role, [], version=0, metrics={f"{role}/reward/mean": reward}, **kwargs)
        callback.on_train_batch_end(trainer, module, None, batch, 0)


def test_ema_slope_and_gap(trainer, module):
    callback = Convergence(ema=0.5, window=3)
    feed(callback, trainer, module, "planner", 0.0, 1.0, 0.5, 3.0)
    feed(callback, trainer, module, "executor", 0.25)
    scalars = trainer.scalars()
    assert scalars["convergence/planner/reward_ema"] == [(1, 0), (2, 0.5), (3, 0.5), (4, 1.75)]
    # least squares over 3 points is half the difference of the last and the first
    assert scalars["convergence/planner/slope"] == [(3, 0.25), (4, 1.0)]
    assert scalars["convergence/gap"] == [(5, 1.5)]
    assert "convergence/executor/slope" not in scalars


def test_plateau_needs_patience_and_ends_when_the_reward_moves_again(trainer, module):
    callback = Convergence(window=2, min_slope=0.1, patience=2)
    feed(callback, trainer, module, "executor", 0.0, 1.0, 1.0, 1.05, 0.0, 0.0)
    plateau = [value for _, value in trainer.scalars()["convergence/executor/plateau"]]
    assert plateau == [0, 0, 0, 1, 0, 0]


def test_falling_reward_is_no_plateau(trainer, module):
    callback = Convergence(window=2, min_slope=0.1, patience=1, stop=True)
    for role in ("planner", "executor"):
        feed(callback, trainer, module, role, 1.0, 0.5, 0.0)
    assert not trainer.should_stop


@pytest.mark.parametrize("stop", [True, False])
def test_stops_only_when_asked_and_both_are_flat(trainer, module, stop):
    callback = Convergence(window=2, min_slope=0.1, patience=1, stop=stop)
    feed(callback, trainer, module, "planner", 1.0, 1.0)
    feed(callback, trainer, module, "executor", 0.0, 1.0)
    assert not trainer.should_stop
    feed(callback, trainer, module, "executor", 1.0)
    assert trainer.should_stop is stop


def test_a_role_that_takes_no_steps_is_not_waited_for(trainer, module):
    trainer.datamodule = SimpleNamespace(roles_of_epoch=lambda: ["executor"] * 3)
    callback = Convergence(window=2, min_slope=0.1, patience=1, stop=True)
    feed(callback, trainer, module, "executor", 0.0, 1.0)
    assert not trainer.should_stop
    feed(callback, trainer, module, "executor", 1.0)
    assert trainer.should_stop


def test_repeated_supervised_and_undefined_rewards_are_passed_over(trainer, module):
    callback = Convergence(ema=0.5)
    feed(callback, trainer, module, "planner", 1.0)
    feed(callback, trainer, module, "planner", 9.0, update=1)
    feed(callback, trainer, module, "planner", 9.0, objective="supervised")
    feed(callback, trainer, module, "planner", math.nan, math.inf)
    callback.on_train_batch_end(trainer, module, None, RolloutBatch("planner", [], version=0), 0)
    feed(callback, trainer, module, "planner", 0.0)
    assert trainer.scalars()["convergence/planner/reward_ema"] == [(1, 1), (6, 0.5)]


def test_reward_is_averaged_over_processes(trainer, module):
    trainer.strategy = SimpleNamespace(reduce=lambda tensor, reduce_op: (tensor + 1.0) / 2)
    feed(Convergence(), trainer, module, "planner", 0.0)
    assert trainer.scalars()["convergence/planner/reward_ema"] == [(1, 0.5)]


def test_resumed_run_goes_on_as_the_uninterrupted_one(trainer, module, tmp_path):
    rewards = [0.1, 0.4, 0.35, 0.8, 0.81, 0.805]
    whole, first, second = (Convergence(window=3, min_slope=0.05, patience=2) for _ in range(3))
    feed(whole, trainer, module, "planner", *rewards)
    feed(first, trainer, module, "planner", *rewards[:4])
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    feed(second, trainer, module, "planner", *rewards[4:])
    assert len(second.state_dict()["planner"]["rewards"]) == 3
    assert second.state_dict()["planner"] == whole.state_dict()["planner"]


@pytest.mark.parametrize("kwargs", [{"ema": 1.0}, {"ema": -0.1}, {"window": 1}, {"min_slope": 0.0}, {"patience": 0}])
def test_bad_numbers_are_named(kwargs):
    ((name, value),) = kwargs.items()
    with pytest.raises(ValueError, match=f"Convergence.{name} is {value}: give "):
        Convergence(**kwargs)
