"""Runs that are stopped by a signal or by their data, at every kind of moment, and go on as if they had not been."""

from __future__ import annotations

import json
import os
import pickle
import signal
from types import SimpleNamespace
from zipfile import ZipFile

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from cahl_pl.callbacks import Checkpoints, ExecutionFeedback
from cahl_pl.datasets import DataError, JsonlDataset
from cahl_pl.datasets.jsonl import task_to_row
from cahl_pl.engines import TransformersEngine
from cahl_pl.errors import ConfigError, Interrupted
from cahl_pl.runs.checkpoints import newest
from cahl_pl.runs.files import lock
from cahl_pl.toolworld import ToolWorld


class Interrupting(TransformersEngine):
    """Sends the process a signal before the n-th request for samples is answered."""

    def __init__(self, at=None, number=signal.SIGTERM):
        super().__init__()
        self.at, self.number, self.count = at, number, 0

    def generate(self, *args, **kwargs):
        self.count += 1
        if self.count == self.at:
            os.kill(os.getpid(), self.number)
        return super().generate(*args, **kwargs)


class Meddling(TransformersEngine):
    """Does something to the world outside before the n-th request for samples is answered."""

    def __init__(self, at, action):
        super().__init__()
        self.at, self.action, self.count = at, action, 0

    def generate(self, *args, **kwargs):
        self.count += 1
        if self.count == self.at:
            self.action()
        return super().generate(*args, **kwargs)


class InUpdate(Callback):
    """Sends signals while a batch is being trained on."""

    def __init__(self, step, *numbers):
        self.step, self.numbers = step, numbers

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            for number in self.numbers:
                os.kill(os.getpid(), number)


def saved(tmp_path, name):
    return [path.stem for path in sorted((tmp_path / name / "checkpoints").iterdir())]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_sampling_saves_where_the_round_began(run, tmp_path, capsys, number, status):
    with pytest.raises(Interrupted) as stop:
        run("a", Interrupting(2, number))  # the second round, after two steps
    assert stop.value.code == status
    assert saved(tmp_path, "a") == ["step-000002"]
    assert f"{number.name}: stopping\n" in capsys.readouterr().out
    resumed, whole = run("a"), run("b")
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_a_signal_in_an_update_waits_for_its_end(run, tmp_path, capsys):
    with pytest.raises(Interrupted):
        run("a", extra=[InUpdate(2, signal.SIGTERM)])
    assert saved(tmp_path, "a") == ["step-000003"]  # the executor's turn of that round is pending
    assert "stopping after this training step" in capsys.readouterr().out
    resumed, whole = run("a"), run("b")
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_a_second_signal_does_not_wait_and_does_not_save(run, tmp_path):
    with pytest.raises(Interrupted) as stop:
        run("a", extra=[InUpdate(2, signal.SIGTERM, signal.SIGINT)])
    assert stop.value.code == 130
    assert saved(tmp_path, "a") == []


def test_a_signal_while_validating_stops_at_once(run, tmp_path):
    with pytest.raises(Interrupted):
        run("a", Interrupting(5), validation=ToolWorld("test", 2))  # sanity check, three rounds, validation
    assert saved(tmp_path, "a") == ["step-000006"]


@pytest.fixture
def slurm(monkeypatch, tmp_path):
    """A job of SLURM, as far as this process can see; gives what `scontrol` was called with."""
    for name, value in {"NTASKS": 1, "JOB_ID": 7, "JOB_NAME": "train", "PROCID": 0, "LOCALID": 0, "NODEID": 0}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    calls, program = tmp_path / "calls", tmp_path / "bin" / "scontrol"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    return lambda: calls.read_text().splitlines() if calls.exists() else []


@pytest.mark.parametrize(("step", "moment"), [(2, "sampling"), (3, "update")])
def test_the_signal_of_slurm_saves_and_requeues(run, tmp_path, slurm, capsys, step, moment):
    number = signal.SIGUSR1
    parts = {"engine": Interrupting(2, number)} if moment == "sampling" else {"extra": [InUpdate(2, number)]}
    with pytest.raises(Interrupted) as stop:
        run("a", **parts)
    assert stop.value.code == 128 + number
    assert saved(tmp_path, "a") == [f"step-{step:06d}"]
    assert slurm() == ["requeue 7"]
    assert "scontrol requeue 7: done" in capsys.readouterr().out
    assert not list(tmp_path.rglob("hpc_ckpt*"))  # Lightning's own handler would have written it
    resumed, whole = run("a"), run("b")
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_a_job_of_an_array_that_is_killed_while_it_saves_is_requeued(run, slurm, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "5")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    with pytest.raises(Interrupted):
        run("a", extra=[InUpdate(2, signal.SIGUSR1, signal.SIGTERM)])
    assert slurm() == ["requeue 5_3"]


def test_other_signals_do_not_requeue(run, slurm):
    with pytest.raises(Interrupted):
        run("a", Interrupting(2, signal.SIGTERM))
    assert slurm() == []


def test_a_requeue_that_fails_says_so(run, slurm, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Interrupted):
        run("a", Interrupting(2, signal.SIGUSR1))
    assert "scontrol requeue 7: failed (No such file or directory); start it again" in capsys.readouterr().out


@pytest.fixture
def rows(tmp_path):
    """A file of tasks."""
    path, world = tmp_path / "rows.jsonl", ToolWorld(size=6)
    path.write_text("".join(json.dumps(task_to_row(world[i])) + "\n" for i in range(6)))
    return path


def vanish(path):
    path.unlink()


def break_row(path):
    """Change one byte of each row, as a failing disk does: neither size nor time tell."""
    status = path.stat()
    path.write_text(path.read_text().replace('"messages"', '"messagez"'))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (vanish, r"^\S*rows\.jsonl: cannot be read any more \(No such file or directory\); put the file back$"),
        (lambda path: path.write_text("x"), r"^\S*rows\.jsonl: the file has changed since it was opened; start again$"),
        (break_row, r"^\S*rows\.jsonl, line [1-6]: cannot be read any more \(there is no field 'messagez'; "),
    ],
)
def test_data_that_fail_in_the_middle_of_an_epoch_stop_the_run_where_the_round_began(
    run, rows, tmp_path, action, message
):
    content = rows.read_bytes()
    whole = run("b", train=JsonlDataset(rows))
    with pytest.raises(DataError, match=message):
        run("a", Meddling(1, lambda: action(rows)), train=JsonlDataset(rows))  # in the first round
    assert saved(tmp_path, "a") == ["step-000002"]
    rows.write_bytes(content)
    resumed = run("a", train=JsonlDataset(rows))
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's own thread
def test_a_disk_that_is_full_costs_episodes_and_curves_a_warning_each(run, tmp_path, capsys):
    folder = tmp_path / "a" / "version_0"

    class FillDisk(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.global_step == 1:
                for path in (folder / "trajectories.jsonl", *folder.glob("events.out.*")):
                    path.unlink(missing_ok=True)
                    path.symlink_to("/dev/full")

    logger = TensorBoardLogger(tmp_path / "a", name="", version=0)
    run("a", extra=[FillDisk(), ExecutionFeedback()], logger=logger)
    out = capsys.readouterr().out
    left = "(No space left on device); training goes on without "
    assert out.count(f"{folder / 'trajectories.jsonl'} cannot be written {left}it") == 1
    assert out.count(f"the curves cannot be written to {folder} any more {left}them") == 1
    assert [path.stem for path in (folder / "checkpoints").iterdir()] == ["step-000006"]


def test_several_processes_meet_again_after_a_full_disk(tmp_path):
    meetings = []

    def full(path, weights_only):
        raise OSError(28, "No space left on device")

    strategy = SimpleNamespace(barrier=lambda: meetings.append("barrier"))
    trainer = SimpleNamespace(global_step=3, is_global_zero=True, world_size=2, loggers=[], default_root_dir=tmp_path)
    trainer.strategy, trainer.save_checkpoint = strategy, full
    checkpoints = Checkpoints()
    checkpoints._save(trainer)
    checkpoints._save(trainer)  # the others do not come: they believe that this step is saved
    assert meetings == ["barrier"]


def test_the_newest_are_kept_and_the_end_is_saved(run, tmp_path):
    run("a", checkpoints=Checkpoints(every_n_steps=2, keep=2))
    assert saved(tmp_path, "a") == ["step-000004", "step-000006"]
    run("b", checkpoints=Checkpoints(every_n_steps=4, keep=3))
    assert saved(tmp_path, "b") == ["step-000004", "step-000006"]


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(run, tmp_path, capsys):
    whole = run("a", checkpoints=Checkpoints(every_n_steps=2, keep=5))
    paths = sorted((tmp_path / "a" / "checkpoints").iterdir())
    with ZipFile(paths[2]) as archive:
        record = max(archive.infolist(), key=lambda info: info.file_size)
    content = bytearray(paths[2].read_bytes())
    content[record.header_offset + record.file_size // 2 + 200] ^= (
        1  # within the record: between them no checksum looks
    )
    paths[2].write_bytes(content)
    paths[1].write_bytes(paths[1].read_bytes()[:-100])
    assert newest(tmp_path / "a") == paths[0]
    out = capsys.readouterr().out
    assert f"the checkpoint {paths[2]} is damaged (the checksum of " in out
    assert f"the checkpoint {paths[1]} is damaged (File is not a zip file)" in out
    resumed = run("a")
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_files_of_an_earlier_run_go_first(run, tmp_path):
    folder = tmp_path / "a" / "checkpoints"
    folder.mkdir(parents=True)
    for step in (100, 200):
        (folder / f"step-{step:06d}.ckpt").write_bytes(b"damaged")
    run("a", checkpoints=Checkpoints(every_n_steps=4, keep=2))
    assert saved(tmp_path, "a") == ["step-000004", "step-000006"]


def test_a_folder_named_like_a_checkpoint_is_left_alone(run, tmp_path, capsys):
    (tmp_path / "a" / "checkpoints" / "step-000001.ckpt").mkdir(parents=True)
    run("a", checkpoints=Checkpoints(every_n_steps=2, keep=2))
    assert saved(tmp_path, "a") == ["step-000001", "step-000004", "step-000006"]
    assert "could not be written" not in capsys.readouterr().out


def test_a_folder_is_that_of_one_run_at_a_time(run, tmp_path):
    class Second(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            with pytest.raises(ConfigError, match=r"another run is writing into .*/a: wait for its end, or start"):
                Checkpoints().setup(trainer, pl_module, "fit")
            Checkpoints().setup(trainer, pl_module, "validate")
            refused.append(trainer.global_step)

    refused = []
    pickle.dumps(Checkpoints())  # launchers that start processes from nothing do so
    with pytest.raises(Interrupted):
        run("a", Interrupting(2), extra=[Second()])
    run("a")  # the lock is given back, whatever ends a run
    assert refused == [0, 1]
    lock(tmp_path / "a" / ".lock")()


def test_all_processes_learn_that_a_folder_is_taken_and_one_alone_makes_it():
    told = SimpleNamespace(broadcast=lambda taken: "runs/a")
    with pytest.raises(ConfigError, match="another run is writing into runs/a: wait"):
        Checkpoints().claim(SimpleNamespace(is_global_zero=False, strategy=told))  # has no folder to look at
    Checkpoints().claim(SimpleNamespace(is_global_zero=False, strategy=SimpleNamespace(broadcast=lambda taken: taken)))


def test_a_clock_that_goes_back_costs_old_checkpoints_only(run, tmp_path):
    folder = tmp_path / "a" / "checkpoints"
    folder.mkdir(parents=True)
    for step in (100, 200):
        (folder / f"step-{step:06d}.ckpt").write_bytes(b"damaged")
        os.utime(folder / f"step-{step:06d}.ckpt", (2**32, 2**32))
    run("a", checkpoints=Checkpoints(every_n_steps=4, keep=2))
    assert "step-000006" in saved(tmp_path, "a")


def test_a_full_disk_costs_a_warning(run, tmp_path, capsys, monkeypatch):
    def full(self, path, weights_only=False):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Trainer, "save_checkpoint", full)
    run("a", checkpoints=Checkpoints(every_n_steps=3))
    assert "warning: the checkpoint of step 3 could not be written" in capsys.readouterr().out
    assert saved(tmp_path, "a") == []


def test_a_position_that_would_mean_something_else_is_refused(run):
    with pytest.raises(Interrupted):
        run("a", Interrupting(2))
    with pytest.raises(ConfigError, match="tasks_per_round = 2, now it is 3"):
        run("a", tasks_per_round=3)


def test_numbers_below_one_are_refused():
    with pytest.raises(ValueError, match="every_n_steps and keep are 0 and 2"):
        Checkpoints(every_n_steps=0)


def test_nothing_is_saved_before_the_first_step(tmp_path):
    trainer = SimpleNamespace(global_step=0)
    Checkpoints()._save(trainer)
    assert list(tmp_path.iterdir()) == []


def test_a_logger_that_an_earlier_run_has_closed_writes_and_survives_again(run, tmp_path):
    logger = TensorBoardLogger(tmp_path / "a", name="", version=0)
    run("a", logger=logger)
    run("b", logger=logger)
    writer = logger.experiment.file_writer
    assert writer is None  # closed at the end
    kept = []

    class Keep(Callback):
        def on_train_start(self, trainer, pl_module):
            kept.append(logger.experiment.file_writer.event_writer)

    run("c", extra=[Keep()], logger=logger)
    assert type(kept[0]).__module__ == "cahl_pl.runs.event_files"
