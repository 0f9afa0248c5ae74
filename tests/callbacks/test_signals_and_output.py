"""Runs whose terminal is closed, whose reader leaves, or whose folder vanishes."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys

import pytest
import torch
from lightning.pytorch import Callback

from cahl_pl.callbacks import Checkpoints
from cahl_pl.callbacks import checkpoints as module
from cahl_pl.errors import Interrupted


class AtStep(Callback):
    """Does something within the update that follows a step."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            self.action()


class Gone:
    """Standard output that nobody reads any more."""

    def write(self, text):
        raise OSError(errno.EPIPE, "Broken pipe")

    def flush(self):
        raise OSError(errno.EPIPE, "Broken pipe")


def kept(tmp_path, name):
    return [path.stem for path in sorted((tmp_path / name / "checkpoints").iterdir())]


def send(*numbers):
    for number in numbers:
        os.kill(os.getpid(), number)


def test_a_reader_that_goes_with_the_same_signal_costs_no_step(run, tmp_path, monkeypatch):
    def leave():
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", Gone())
            send(signal.SIGINT)  # `fit | tee log`, and Ctrl-C

    with pytest.raises(Interrupted) as stopped:
        run("a", extra=[AtStep(2, leave)])
    assert stopped.value.code == 130
    assert kept(tmp_path, "a") == ["step-000003"]


def test_a_closed_terminal_saves_though_it_is_told_twice(run, tmp_path):
    with pytest.raises(Interrupted) as stopped:
        run("a", extra=[AtStep(2, lambda: send(signal.SIGHUP, signal.SIGHUP))])
    assert stopped.value.code == 129
    assert kept(tmp_path, "a") == ["step-000003"]
    resumed, whole = run("a"), run("b")
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_the_same_signal_later_is_another_request(run, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SAME_REQUEST_S", 0.0)
    with pytest.raises(Interrupted):
        run("a", extra=[AtStep(2, lambda: send(signal.SIGINT, signal.SIGINT))])
    assert kept(tmp_path, "a") == []


def test_what_nohup_ignores_stays_ignored(run, tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run("a", extra=[AtStep(2, lambda: send(signal.SIGHUP))])
    finally:
        signal.signal(signal.SIGHUP, before)
    assert kept(tmp_path, "a") == ["step-000006"]


@pytest.mark.parametrize("in_its_place", ["nothing", "file"])
def test_a_folder_that_vanishes_costs_a_warning(run, tmp_path, capsys, in_its_place):
    def vanish():
        shutil.rmtree(tmp_path / "a")
        if in_its_place == "file":
            (tmp_path / "a").write_text("")

    run("a", extra=[AtStep(2, vanish)], checkpoints=Checkpoints(every_n_steps=2))
    if in_its_place == "file":
        told = capsys.readouterr().out
        assert f"warning: the checkpoint of step 4 could not be written to {tmp_path / 'a' / 'checkpoints'}" in told
    else:
        assert kept(tmp_path, "a") == ["step-000004", "step-000006"]


def test_what_a_killed_run_left_half_written_is_removed(run, tmp_path):
    folder = tmp_path / "a" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "step-000003.tmp").write_bytes(b"half")
    run("a")
    assert kept(tmp_path, "a") == ["step-000006"]
