"""Runs that code of a user's own stops between two steps: what was reached is kept, and a resumed run is the whole run."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger

from cahl_pl.callbacks import Checkpoints
from cahl_pl.datasets.base import TaskSource
from cahl_pl.errors import ConfigError, DataError, NonFiniteError
from cahl_pl.rewards.planner import PlannerReward
from cahl_pl.toolworld import ToolWorld


class Fault(Exception):
    """What a user's code raises."""


class At(Callback):
    """Raises in one hook, at one step."""

    def __init__(self, hook, step, error=None):
        self.step, self.error = step, error or Fault("mine")
        setattr(self, hook, self._raise)

    def _raise(self, trainer, *args):
        if trainer.global_step == self.step and not trainer.sanity_checking:
            raise self.error


class Logger(CSVLogger):
    """Cannot log a step."""

    def log_metrics(self, metrics, step=None):
        if step == 3:
            raise Fault("no connection")


class Reward(PlannerReward):
    """Raises in its second round, or in the middle of it."""

    def __init__(self, where):
        super().__init__()
        self.where, self.count, self.round = where, 0, 0

    def start_round(self, index):
        self.round = index
        if self.where == "start_round" and index == 1:
            raise Fault("mine")

    def components(self, plan, trajectories):
        self.count += 1
        if self.where == "components" and self.round == 1:
            raise Fault("mine")
        return super().components(plan, trajectories)


class Source(TaskSource):
    """Cannot be read any more from some step on."""

    def __init__(self):
        self.world, self.gone = ToolWorld(size=6), False

    def __len__(self):
        return 6

    def __getitem__(self, index):
        if self.gone:
            raise OSError("the share is gone")
        return self.world[index]


class Break(Callback):
    """Breaks the source, while the last batch of its second round is trained on."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 3:
            trainer.datamodule.train_tasks.source.gone = True


class LogEveryStep(Callback):
    def setup(self, trainer, pl_module, stage):
        trainer.log_every_n_steps = 1


PLACES = {
    "the start of a round's first step": ({"extra": [At("on_train_batch_start", 2)]}, 2),
    "the start of its second step": ({"extra": [At("on_train_batch_start", 3)]}, 3),
    "the end of a step": ({"extra": [At("on_train_batch_end", 3)]}, 3),
    "the end of a step, by an exit": ({"extra": [At("on_train_batch_end", 3, SystemExit(0))]}, 3),
    "the end of a round's last step": ({"extra": [At("on_train_batch_end", 4)]}, 4),
    "the end of an epoch": ({"extra": [At("on_train_epoch_end", 4)], "train": ToolWorld(size=4)}, 4),
    "the start of an epoch": ({"extra": [At("on_train_epoch_start", 4)], "train": ToolWorld(size=4)}, 4),
    "an epoch's last step": ({"extra": [At("on_train_batch_end", 4)], "train": ToolWorld(size=4)}, 4),
    "the start of an epoch's first step": ({"extra": [At("on_train_batch_start", 4)], "train": ToolWorld(size=4)}, 4),
    "the start of an epoch's last step": ({"extra": [At("on_train_batch_start", 3)], "train": ToolWorld(size=4)}, 3),
    "a reward": ({"planner_reward": Reward("components")}, 2),
    "a reward that is told of a round": ({"planner_reward": Reward("start_round")}, 2),
    "a source of tasks": ({"train": Source(), "extra": [Break()]}, 4),
}


@pytest.mark.parametrize("place", PLACES)
def test_what_was_reached_is_kept_and_gone_on_from(run, tmp_path, capsys, place):
    options, step = PLACES[place]
    with pytest.raises((Fault, ConfigError, DataError, SystemExit)):
        run("a", **options)
    path = tmp_path / "a" / "checkpoints" / f"step-{step:06d}.ckpt"
    assert list(path.parent.iterdir()) == [path]
    assert f"kept: {path}; the same command goes on from there with --ckpt_path last\n" in capsys.readouterr().out
    train = options.get("train", ToolWorld(size=6))
    if isinstance(train, Source):
        train.gone = False
    resumed, whole = run("a", train=train), run("b", train=train)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_a_logger_that_fails_after_a_step_keeps_it(run, tmp_path):
    with pytest.raises(Fault, match="no connection"):
        run("a", logger=Logger(tmp_path / "a", name="", version=""), extra=[LogEveryStep()])
    assert [path.stem for path in (tmp_path / "a" / "checkpoints").iterdir()] == ["step-000003"]
    resumed, whole = run("a"), run("b")
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_a_run_that_is_stopped_twice_is_still_the_whole_run(run, tmp_path):
    for step in (1, 2, 4):
        with pytest.raises(Fault):
            run("a", extra=[At("on_train_batch_start", step)])
    resumed, whole = run("a"), run("b")
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


@pytest.mark.parametrize("hook", ["on_fit_start", "on_train_start", "on_train_batch_start"])
def test_before_the_first_step_there_is_nothing_to_keep(run, tmp_path, capsys, hook):
    with pytest.raises(Fault):
        run("a", extra=[At(hook, 0)])
    assert not list((tmp_path / "a").rglob("*.ckpt"))
    told = "no checkpoint has been written yet: start again from the beginning"
    assert (told in capsys.readouterr().out) == (hook == "on_train_batch_start")


def test_a_step_that_is_half_done_is_not_kept(run, tmp_path, monkeypatch):
    calls = []

    def half_way(optimizer, config, rate):
        calls.append(rate)
        if len(calls) == 4:
            raise Fault("in the middle")

    monkeypatch.setattr("cahl_pl.updates.set_rate", half_way)
    with pytest.raises(Fault):
        run("a", checkpoints=Checkpoints(every_n_steps=2))
    assert [path.stem for path in (tmp_path / "a" / "checkpoints").iterdir()] == ["step-000002"]


def test_steps_that_were_skipped_are_not_kept(run, tmp_path):
    with pytest.raises(NonFiniteError):
        run("a", extra=[At("on_train_batch_end", 3, NonFiniteError("x"))], checkpoints=Checkpoints(every_n_steps=2))
    assert [path.stem for path in (tmp_path / "a" / "checkpoints").iterdir()] == ["step-000002"]


def test_an_epoch_that_a_callback_leaves_is_told(run, tmp_path):
    with pytest.raises(ConfigError, match=r"^a callback has raised StopIteration \(as next"):
        run("a", extra=[At("on_train_batch_start", 3, StopIteration())])
    resumed, whole = run("a"), run("b")
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


class Counts(Callback):
    """Has a state that a checkpoint can hold until some step, and none from then on."""

    def __init__(self, state, step=0):
        self.given, self.step, self.now = state, step, 0

    def on_train_batch_start(self, trainer, *args):
        self.now = trainer.global_step

    def state_dict(self):
        return {"x": 1} if self.now < self.step else {"x": self.given}


@pytest.mark.parametrize("state", [lambda: 1, Fault("x"), object(), threading.Lock(), Path("x")])
def test_a_state_that_no_checkpoint_can_hold_is_told_before_training(run, tmp_path, state):
    """Some of them could be written, and not be read again."""
    with pytest.raises(ConfigError, match=r"Counts\.state_dict gives what no checkpoint can hold \(.+\): let it give numbers"):
        run("a", extra=[Counts(state)])
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_state_that_becomes_one_later_stops_the_run_where_it_can_be_gone_on_from(run, tmp_path):
    with pytest.raises(ConfigError, match=r"Counts\.state_dict gives what no checkpoint can hold"):
        run("a", extra=[Counts(object(), 3)], checkpoints=Checkpoints(every_n_steps=1))
    assert max(path.stem for path in (tmp_path / "a" / "checkpoints").iterdir()) == "step-000003"


def test_states_of_plain_values_are_kept(run, tmp_path):
    run("a", extra=[Counts({"a": [1, "b", None, torch.ones(2)]})])
    assert (tmp_path / "a" / "checkpoints" / "step-000006.ckpt").is_file()
