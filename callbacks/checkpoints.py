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
"""Seconds within which the same signal again is the same request: a shell and its terminal both tell of a closed window."""


class Checkpoints(Checkpoint):
    """Saves adapters, optimisers, generators and data position so that a resumed run is the run that was never stopped.

    Files are `checkpoints/step-000040.ckpt` in the run's folder, written aside, flushed to the disk and renamed: a
    name that is there is a checkpoint that is whole. One that cannot be written (no space left) costs a warning, not
    the run.

    Once training has begun, a checkpoint is written on SIGTERM, SIGINT and SIGHUP (a terminal that is closed; under `nohup` it
    is ignored), and the process exits with 128 + the signal's number: at once while sampling or evaluating (of one process),
    else at the end of the training step, which is the longest that it can take. A second signal stops without saving; the
    same one within a second of the first counts as one. SIGKILL loses what came after the last checkpoint:
    time, nothing else. Whatever else stops a run of one process between two steps, such as an error in a reward, a callback
    or a logger of a user's own, what was reached is saved first. How to go on is printed.

    In a job of SLURM whose environment has `auto_requeue` (Lightning's default), the signal for it (SIGUSR1 unless said
    otherwise) does the same and has SLURM start the job again. Lightning's own handler, which this one replaces, would
    save wherever it strikes, in the middle of an optimiser step too, and to a place where `--ckpt_path last` does not
    look.

    Args:
        every_n_steps: optimiser steps of both roles between two checkpoints.
        keep: how many to keep, the newest; two, so that a damaged one still leaves one.

    Raises:
        ValueError: a number is below 1.
    """

    def __init__(self, every_n_steps: int = 20, keep: int = 2) -> None:
        if min(every_n_steps, keep) < 1:
            raise ValueError(f"Checkpoints.every_n_steps and keep are {every_n_steps} and {keep}: give 1 or more")
        self.every_n_steps = every_n_steps
        self.keep = keep
        self._saved = -1  # step of the last checkpoint
        self._requeue = False  # SLURM shall start the job again
        self._asked = (0, 0.0)  # the last signal, and when
        self._claimed = False  # the run's folder is this run's
        self._unlock: Callable[[], object] | None = None
        self._training = False  # from its start on, until it ends or fails

    def claim(self, trainer: Trainer) -> None:
        """Keep other runs out of the run's folder until this one ends; whose folder it is already, keeps it.

        Raises:
            ConfigError: another one trains there; its checkpoints and this one's would replace each other.
        """
        if self._claimed:
            return
        taken = ""
        if trainer.is_global_zero:  # a logger may have numbered the folder otherwise in the other processes
            folder = run_folder(trainer)
            try:
                self._unlock = weakref.finalize(self, lock(folder / ".lock"))
            except BlockingIOError:
                taken = str(folder)
        taken = trainer.strategy.broadcast(taken)  # all processes end, or those left behind would wait for ever
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
            self._data.stream.sampling = self._data.evaluating = False  # whatever an earlier run was stopped in
            self.claim(trainer)
            if trainer.is_global_zero:
                survive_full_disk(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen to signals, in place of Lightning's handlers; it gives them back at the end.

        Make the folder by which `--ckpt_path last` knows a run of training: a start that ends before is none, and does not
        hide the run before it. And have TensorBoard leave out what a run in this folder has logged after the point from which
        this one starts.
        """
        for number in (*SIGNALS, *requeue_signals(trainer)):
            if signal.getsignal(number) is not signal.SIG_IGN or number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._on_signal)
        self._check_states(trainer)  # before anything is learned that could not be saved
        self._training = True
        if trainer.is_global_zero:
            folder = run_folder(trainer) / "checkpoints"
            folder.mkdir(exist_ok=True)
            for left in folder.glob("step-*.tmp"):  # of a run that was killed while it wrote; nobody else writes here
                with contextlib.suppress(OSError):
                    left.unlink()
            hide_later_events(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Save when it is time, or when the run has been asked to stop."""
        stop = self._data.stream.interruption
        if trainer.world_size > 1:  # all stop together, or those left behind would wait for ever
            stopping, requeue = sum_over_processes([float(stop is not None), float(self._requeue)])
            stop = stop or (Interrupted(128 + signal.SIGTERM) if stopping else None)
            self._requeue = requeue > 0
        if stop is not None or trainer.global_step % self.every_n_steps == 0:
            self._check_states(trainer)
            self._save(trainer)
        if stop is not None:
            raise stop

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save before what may take long and is left at once when the run is asked to stop."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the end."""
        self._save(trainer)
        self._training = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save what was reached, unless it is half done, and say how to go on; requeue if asked.

        Of several processes, the others may not be here to save with.
        """
        self._trainer = trainer  # something may have failed before `setup`
        if self._training:
            if isinstance(exception, NothingLearnedError):  # which all processes raise, after a step
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
            # a start that was refused is no run: `--ckpt_path last` is to find the one before
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
        """Return whether what a checkpoint would hold is the state after a step, and one to go on from."""
        stream = self._data.stream
        if isinstance(exception, Exception) or (isinstance(exception, SystemExit) and not isinstance(exception, Interrupted)):
            return not (stream.updating or isinstance(exception, NonFiniteError | StaleBatchError))
        return stream.sampling  # a signal; a second one, in a step, is not to save

    def _settle(self, trainer: Trainer) -> None:
        """Put what was begun after the last step back to where it began."""
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
        # what is under way changes neither weights nor position: it can be left at any moment
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
                trainer.strategy.barrier()  # the others wait for the end of the writing
            if trainer.world_size == 1:  # the others believe that it is saved: the next attempt is made together
                return
        self._saved = step


def _requeue() -> None:
    """Have SLURM start this job again, once it has ended this one."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # by which SLURM ends it
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        status = str(subprocess.run(["scontrol", "requeue", job], check=False).returncode)
    except OSError as error:
        status = error.strerror or str(error)
    _tell(f"scontrol requeue {job}: {'done' if status == '0' else f'failed ({status}); start it again'}")


def _tell(text: str) -> None:
    """Print a line, unless its reader has gone, such as `tee` at the same Ctrl-C: saving goes before telling."""
    with contextlib.suppress(OSError):
        print(text, flush=True)


def _flush(path: Path) -> None:
    """Have the system put a file, or a folder's names, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
