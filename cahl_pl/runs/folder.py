"""The folder that a run writes to."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from lightning.pytorch import Trainer

_GIVEN: Final = "cahl_run_folder"
"""The attribute of a trainer that holds it."""


def give_folder(trainer: Trainer, folder: Path) -> None:
    """Make a run write into this folder: its logger has none, such as one that sends everything to a server."""
    setattr(trainer, _GIVEN, folder)


def given_folder(trainer: Trainer) -> Path | None:
    """Return the folder that the run was given; None if its logger has one."""
    folder: Path | None = getattr(trainer, _GIVEN, None)
    return folder


def run_folder(trainer: Trainer) -> Path:
    """Return the run's folder, creating it if necessary.

    `trainer.log_dir` returns the same, but asks all processes for it: called on only one of them, it waits forever. And for
    W&B and MLflow it returns a folder that runs share.
    """
    folder = path_of_run(trainer)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def path_of_run(trainer: Trainer) -> Path:
    """Return the path of the run's folder, whether or not it exists."""
    loggers = [logger.log_dir for logger in trainer.loggers if logger.log_dir]
    return given_folder(trainer) or Path(loggers[0] if loggers else trainer.default_root_dir)
