"""Where a run writes."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from lightning.pytorch import Trainer

_GIVEN: Final = "cahl_run_folder"
"""The attribute of a trainer that holds it."""


def give_folder(trainer: Trainer, folder: Path) -> None:
    """Have a run write into this folder: its logger has none, such as one that sends everything to a server."""
    setattr(trainer, _GIVEN, folder)


def given_folder(trainer: Trainer) -> Path | None:
    """Return the folder that the run was given; None where its logger has one."""
    folder: Path | None = getattr(trainer, _GIVEN, None)
    return folder


def run_folder(trainer: Trainer) -> Path:
    """Return the run's folder, made if it is not there.

    `trainer.log_dir` gives the same, but asks all processes for it: called on one of them alone, it waits for ever. And it
    takes for the run's what W&B and MLflow share among runs.
    """
    folder = path_of_run(trainer)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def path_of_run(trainer: Trainer) -> Path:
    """Return the path of the run's folder, whether it is there or not."""
    loggers = [logger.log_dir for logger in trainer.loggers if logger.log_dir]
    return given_folder(trainer) or Path(loggers[0] if loggers else trainer.default_root_dir)
