"""W&B and MLflow as loggers: the folder of a run, which they do not provide, and their own run, to resume.

A run's folder is `<trainer.default_root_dir>/<project or experiment>/version_0`, and so on, as that of TensorBoardLogger below
its `save_dir`. `tracker.json` in it names the tracker's run that it belongs to: `--ckpt_path last` resumes that one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import MLFlowLogger, WandbLogger
from torch import Tensor

from cahl_pl.errors import ConfigError
from cahl_pl.runs.files import write_json
from cahl_pl.runs.folder import run_folder


class Tracker(NamedTuple):
    """Names used by a tracker's logger.

    Attributes:
        project: the argument that groups its runs.
        run: the argument that names one of its runs to resume.
        package: the package that Lightning's logger needs.
    """

    project: str
    run: str
    package: str


TRACKERS: Final = {
    "WandbLogger": Tracker("project", "id", "wandb"),
    "MLFlowLogger": Tracker("experiment_name", "run_id", "mlflow"),
}
"""Trackers by the name of Lightning's class."""

FILE: Final = "tracker.json"


def tracker_of(class_path: str) -> Tracker | None:
    """Return the names used by a logger of this class, or of a class derived from it; None if it is not a tracker's."""
    module, _, name = class_path.rpartition(".")
    made = getattr(sys.modules.get(module), name, None)  # the parser has imported it
    names = [base.__name__ for base in made.__mro__] if isinstance(made, type) else [name]
    return next((TRACKERS[name] for name in names if name in TRACKERS), None)


def check_package(class_path: str) -> None:
    """Check that the package that Lightning's logger of a tracker needs is installed.

    Raises:
        ConfigError: it is not.
    """
    tracker = tracker_of(class_path)
    module, _, name = class_path.rpartition(".")
    own = getattr(sys.modules.get(module), name, None)
    makes_itself = isinstance(own, type) and not class_path.startswith("lightning.") and "__init__" in vars(own)
    if tracker is not None and not makes_itself and find_spec(tracker.package) is None:
        raise ConfigError(
            f"trainer.logger is a {class_path.rpartition('.')[2]}, which needs the package {tracker.package}: "
            f"pip install {tracker.package}, or leave the logger out"
        )


def fit_names(trainer: Trainer) -> None:
    """Give MLflow names of metrics that it can keep as files: none is the folder of others.

    `tools/invalid_rate/<cause>` becomes `tools/invalid_rate_<cause>` there.
    """
    for logger in trainer.loggers:
        if isinstance(logger, MLFlowLogger) and "log_metrics" not in vars(logger):
            logger.log_metrics = partial(_log_fitting, logger.log_metrics)  # type: ignore[method-assign]


def _log_fitting(log: Callable[..., None], metrics: Mapping[str, float], step: int | None = None) -> None:
    log({tag.replace("/invalid_rate/", "/invalid_rate_"): value for tag, value in metrics.items()}, step)


def note_run(trainer: Trainer) -> None:
    """Note which run of its tracker a run belongs to, if its first logger is a tracker's; for the first process."""
    logger = trainer.loggers[0] if trainer.loggers else None
    if isinstance(logger, WandbLogger | MLFlowLogger):
        logger.experiment  # noqa: B018 - made on first access, and has no id before
        write_json(run_folder(trainer) / FILE, {"run": logger.version})


def noted_run(folder: Path) -> str | None:
    """Return the run of its tracker that a run's folder belongs to; None if that is not known."""
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))["run"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return found if isinstance(found, str) else None


def log_histograms(logger: Any, values: Mapping[str, Tensor], step: int) -> None:
    """Log distributions to W&B; MLflow has none.

    Args:
        logger: a trainer's logger; nothing is logged to any other kind.
        values: tag -> values, [N].
        step: value on the x-axis.
    """
    if isinstance(logger, WandbLogger):
        import wandb

        shown = {tag: wandb.Histogram(value.float().cpu().tolist()) for tag, value in values.items()}
        logger.log_metrics(shown, step)


def log_trajectories(logger: Any, columns: Sequence[str], rows: Sequence[Sequence[Any]], text: str, step: int) -> None:
    """Log episodes: to W&B as a table, to MLflow as a text among the run's artifacts.

    Args:
        logger: a trainer's logger; nothing is logged to any other kind.
        columns: columns of the table.
        rows: one per episode.
        text: the same in Markdown.
        step: value on the x-axis.
    """
    if isinstance(logger, WandbLogger):
        logger.log_table("trajectories", list(columns), [list(row) for row in rows], step=step)
    elif isinstance(logger, MLFlowLogger):
        logger.experiment.log_text(logger.run_id, text, f"trajectories/step-{step:06d}.md")


def log_summary(logger: Any, settings: Mapping[str, Any], final: Mapping[str, float], step: int) -> None:
    """Log a run's settings and final metrics.

    Args:
        logger: a trainer's logger; nothing is logged to any other kind.
        settings: name -> number or text.
        final: tag -> value.
        step: value on the x-axis.
    """
    if isinstance(logger, WandbLogger | MLFlowLogger):
        known = {}
        if isinstance(logger, MLFlowLogger):  # when a run resumes: MLflow refuses another value of a parameter
            known = logger.experiment.get_run(logger.run_id).data.params
        logger.log_hyperparams({name: value for name, value in settings.items() if name not in known})
        logger.log_metrics(dict(final), step)
