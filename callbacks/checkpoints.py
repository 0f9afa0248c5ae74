"""Checkpoints that survive anything, and a clean stop when the machine is taken away."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Final

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from cahl_pl.datamodule import RolloutDataModule
from cahl_pl.distributed import sum_over_processes
from cahl_pl.errors import ConfigError, Interrupted, NonFiniteError, NothingLearnedError, StaleBatchError, UserError
from cahl_pl.lightning_internals import requeue_signals, settle_progress
from cahl_pl.runs.checkpoints import check_state, paths_by_step
from cahl_pl.runs.event_files import hide_later_events, survive_full_disk
from cahl_pl.runs.files import lock
from cahl_pl.runs.folder import path_of_run, run_folder
from cahl_pl.types import RolloutBatch

SIGNALS = (signal.SIGTERM, signal.SIGINT, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))

SAME_REQUEST_S: Final = 1.0
"""Seconds within which a repeated signal is the same request: a shell and its terminal both report a closed window."""


class Checkpoints(Checkpoint):
    """Callback that saves adapters, optimisers, generators and data position: a resumed run equals an uninterrupted one.

    Files are `checkpoints/step-000040.ckpt` in the run's folder, written aside, flushed to the disk and renamed: any
    file of that name is a complete checkpoint. One that cannot be written (no space left) costs a warning, not the
    run.

    Once training has begun, a checkpoint is written on SIGTERM, SIGINT and SIGHUP (a closed terminal; ignored under `nohup`),
    and the process exits with 128 + the signal's number: at once while a single process samples or evaluates, else at the end
    of the training step, which is the longest that it can take. A second signal stops without saving; the same one within a
    second of the first counts as one. SIGKILL loses only the time since the last checkpoint. If anything else stops a
    single-process run between two steps, such as an error in a user's own reward, callback or logger, its progress is saved
    first. The way to resume is printed.

    In a SLURM job whose environment has `auto_requeue` (Lightning's default), the signal for it (SIGUSR1 unless configured
    otherwise) does the same and makes SLURM restart the job. Lightning's own handler, which this one replaces, would save
    at any point, even in the middle of an optimiser step, and to a place where `--ckpt_path last` does not look.

    Args:
        every_n_steps: optimiser steps of both roles between two checkpoints.
        keep: number of newest checkpoints to keep; two, so that a damaged one still leaves one.

    Raises:
        ValueError: a number is below 1.
    """

    def __init__(self, every_n_steps: int = 20, keep: int = 2) -> None:
        if min(every_n_steps, keep) < 1:
            raise ValueError(f"Checkpoints.every_n_steps and keep are {every_n_steps} and {keep}: give 1 or more")
        self.every_n_steps = every_n_steps
        self.keep = keep
        self._saved = -1  # step of the last checkpoint
        self._requeue = False  # SLURM is to restart the job
        self._asked = (0, 0.0)  # the last signal, and when
        self._claimed = False  # the run's folder is this run's
        self._unlock: Callable[[], object] | None = None
        self._training = False  # from the start of training until it ends or fails

    def claim(self, trainer: Trainer) -> None:
        """Keep other runs out of the run's folder until this one ends; a run that already has it keeps it.

        Raises:
            ConfigError: another one trains there; its checkpoints and this one's would replace each other.
        """
        if self._claimed:
            return
        taken = ""
        if trainer.is_global_zero:  # a logger may have numbered the folder differently in the other processes
            folder = run_folder(trainer)
            try:
                self._unlock = weakref.finalize(self, lock(folder / ".lock"))
            except BlockingIOError:
                taken = str(folder)
        taken = trainer.strategy.broadcast(taken)  # all processes end, or those left behind would wait forever
        if taken:
            raise ConfigError(
                f"another run is writing into {taken}: wait for its end, or start this one again without "
                "--ckpt_path last, and it gets a folder of its own"
            )
        self._claimed = True

    def _release(self) -> None:
        self._claimed = False
        if self._unlock is not None:
            self._unlock()
            self._unlock = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget an earlier run, and keep others out of this one's folder."""
        self._trainer = trainer
        if stage == "fit":
            self._saved, self._requeue, self._data.stream.interruption = -1, False, None
            self._asked = 0, 0.0
            self._data.stream.sampling = self._data.evaluating = False  # an earlier run may have left them True
            self.claim(trainer)
            if trainer.is_global_zero:
                survive_full_disk(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen to signals instead of Lightning's handlers; Lightning restores them at the end.

        Make the folder by which `--ckpt_path last` recognises a training run: a start that ends earlier is not one, and does
        not hide the run before it. Also make TensorBoard leave out events that a run in this folder logged after this one's
        starting point.
        """
        for number in (*SIGNALS, *requeue_signals(trainer)):
            if signal.getsignal(number) is not signal.SIG_IGN or number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._on_signal)
        self._check_states(trainer)  # before anything is learned that could not be saved
        self._training = True
        if trainer.is_global_zero:
            folder = run_folder(trainer) / "checkpoints"
            folder.mkdir(exist_ok=True)
            for left in folder.glob("step-*.tmp"):  # of a run that was killed while writing; no other run writes here
                with contextlib.suppress(OSError):
                    left.unlink()
            hide_later_events(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Save when it is time, or when the run has been asked to stop."""
        stop = self._data.stream.interruption
        if trainer.world_size > 1:  # all stop together, or those left behind would wait forever
            stopping, requeue = sum_over_processes([float(stop is not None), float(self._requeue)])
            stop = stop or (Interrupted(128 + signal.SIGTERM) if stopping else None)
            self._requeue = requeue > 0
        if stop is not None or trainer.global_step % self.every_n_steps == 0:
            self._check_states(trainer)
            self._save(trainer)
        if stop is not None:
            raise stop

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save before evaluation, which may take long and stops at once when the run is asked to stop."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the final state."""
        self._save(trainer)
        self._training = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save the state, unless a step is half done, and say how to resume; requeue if asked.

        With several processes, the others may not be here to save with.
        """
        self._trainer = trainer  # something may have failed before `setup`
        if self._training:
            if isinstance(exception, NothingLearnedError):  # all processes raise it, after a step
                self._save(trainer)
            elif trainer.world_size == 1 and self._is_whole(exception):
                self._settle(trainer)
                try:
                    self._check_states(trainer)
                    self._save(trainer)
                except Exception as error:  # such as a user's own state, which stopped the run itself
                    _tell(f"warning: the state after step {trainer.global_step} could not be saved ({error})")
            if trainer.is_global_zero and not self._requeue:
                self._tell_kept(trainer)
        self._training = False
        if self._requeue and trainer.is_global_zero:
            _requeue()
        if isinstance(exception, UserError) and trainer.is_global_zero:
            # a refused start is no run: `--ckpt_path last` is to find the one before
            with contextlib.suppress(OSError):  # there are checkpoints, or no folder yet
                (run_folder(trainer) / "checkpoints").rmdir()
        self._release()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let another run use the folder."""
        self._release()

    def _check_states(self, trainer: Trainer) -> None:
        for owner in (*trainer.callbacks, self._data.sampler):  # type: ignore[attr-defined]
            check_state(owner)

    def _is_whole(self, exception: BaseException) -> bool:
        """Return whether a checkpoint would contain the state after a step, and one to resume from."""
        stream = self._data.stream
        if isinstance(exception, Exception) or (isinstance(exception, SystemExit) and not isinstance(exception, Interrupted)):
            return not (stream.updating or isinstance(exception, NonFiniteError | StaleBatchError))
        return stream.sampling  # a signal; a second one, in a step, is not to save

    def _settle(self, trainer: Trainer) -> None:
        """Undo whatever was begun after the last step."""
        stream = self._data.stream
        settle_progress(trainer, trained=not stream.take_back())

    def _tell_kept(self, trainer: Trainer) -> None:
        paths = paths_by_step(path_of_run(trainer))
        if not paths:
            _tell("no checkpoint has been written yet: start again from the beginning")
        else:
            _tell(f"kept: {paths[-1]}; the same command goes on from there with --ckpt_path last")

    @property
    def _data(self) -> RolloutDataModule:
        data: RolloutDataModule = self._trainer.datamodule  # type: ignore[attr-defined]
        return data

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._asked[0] == number and now - self._asked[1] < SAME_REQUEST_S:
            return
        self._asked = number, now
        again = self._data.stream.interruption is not None
        self._data.stream.interruption = stop = Interrupted(128 + number)
        self._requeue = self._requeue or number in requeue_signals(self._trainer)
        name = signal.Signals(number).name
        # what is running changes neither weights nor position: it can be stopped at any moment
        idle = self._trainer.world_size == 1 and (self._data.stream.sampling or self._data.evaluating)
        if again or idle:
            _tell(f"{name}: stopping")
            raise stop
        _tell(f"{name}: stopping after this training step")

    def _save(self, trainer: Trainer) -> None:
        step = trainer.global_step
        if step in (self._saved, 0):
            return
        folder = path_of_run(trainer) / "checkpoints" if trainer.is_global_zero else Path()
        path = folder / f"step-{step:06d}.ckpt"
        aside = path.with_suffix(".tmp")
        saved = False
        try:
            trainer.save_checkpoint(aside, weights_only=False)
            saved = True
            if trainer.is_global_zero:
                _flush(aside)
                aside.replace(path)
                _flush(folder)
                # by age, not by step: files of higher steps may be left from an earlier run in this folder
                others = [file for file in folder.glob("step-*.ckpt") if file.is_file() and file != path]
                others.sort(key=lambda file: file.stat().st_mtime_ns)
                for old in others[: max(0, len(others) - self.keep + 1)]:
                    old.unlink()
        except OSError as error:
            with contextlib.suppress(OSError):
                aside.unlink()
            _tell(
                f"warning: the checkpoint of step {step} could not be written to {folder} ({error.strerror or error}); "
                "training goes on, older checkpoints are still there: make room, there and in "
                f"{tempfile.gettempdir()}, through which it goes, or correct the permissions"
            )
            if trainer.world_size > 1 and not saved:
                trainer.strategy.barrier()  # the others wait until the file is written
            if trainer.world_size == 1:  # the others assume that it is saved: the next attempt is made together
                return
        self._saved = step


def _requeue() -> None:
    """Make SLURM restart this job after ending it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # SLURM ends it with this
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        status = str(subprocess.run(["scontrol", "requeue", job], check=False).returncode)
    except OSError as error:
        status = error.strerror or str(error)
    _tell(f"scontrol requeue {job}: {'done' if status == '0' else f'failed ({status}); start it again'}")


def _tell(text: str) -> None:
    """Print a line, unless its reader is gone, such as `tee` at the same Ctrl-C: saving comes before printing."""
    with contextlib.suppress(OSError):
        print(text, flush=True)


def _flush(path: Path) -> None:
    """Make the system write a file, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
