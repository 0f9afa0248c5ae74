"""TensorBoard event files that survive a full disk."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.compat.proto.event_pb2 import Event, SessionLog


def survive_full_disk(trainer: Trainer) -> None:
    """Make TensorBoard's event files, if they cannot be written, cost a warning, not the run."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            # reopens what an earlier run of this logger has closed, and writes nothing
            logger.experiment.add_scalars("", {})
            writer = logger.experiment.file_writer
            if not isinstance(writer.event_writer, _BestEffortWriter):
                writer.event_writer = _BestEffortWriter(writer.event_writer)


def hide_later_events(trainer: Trainer) -> None:
    """Make TensorBoard leave out events in this folder's files after the step from which the run starts."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            start = Event(session_log=SessionLog(status=SessionLog.START))
            logger.experiment.file_writer.add_event(start, trainer.global_step + 1)


class _BestEffortWriter:
    """An event writer that stops writing instead of raising OSError."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        self._told = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)

    def add_event(self, event: Any) -> None:
        self._try(self._writer.add_event, event)

    def flush(self) -> None:
        self._try(self._writer.flush)

    def close(self) -> None:
        self._try(self._writer.close)

    def _try(self, write: Any, *arguments: Any) -> None:
        try:
            write(*arguments)
        except OSError as error:
            if not self._told:
                print(
                    f"warning: the curves cannot be written to {self._writer.get_logdir()} any more "
                    f"({error.strerror or error}); training goes on without them: make room, then stop the run and start "
                    "it again with --ckpt_path last",
                    flush=True,
                )
            self._told = True
