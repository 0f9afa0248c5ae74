"""Where a run writes."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Trainer


def run_folder(trainer: Trainer) -> Path:
    """Return the run's folder, made if it is not there.

    `trainer.log_dir` gives the same, but asks all processes for it: called on one of them alone, it waits for ever.
    """
    loggers = [logger.log_dir for logger in trainer.loggers if logger.log_dir]
    folder = Path(loggers[0] if loggers else trainer.default_root_dir)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
