"""Loggers of W&B and MLflow that keep what they are given, and need neither package.

Their names are not those of Lightning: two classes of one name could not be given by it on the command line.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from lightning.pytorch import loggers

MADE: list[Any] = []
"""All loggers made, in order."""


class _Keeping:
    """What both have in common; a run without an id gets a number."""

    def _keep(self, project, run, save_dir):
        self.project, self.run, self.folder = project, run or f"run{len(MADE)}", save_dir
        self.metrics, self.settings, self.tables, self.texts = [], {}, [], {}
        MADE.append(self)

    @property
    def version(self):
        return self.run

    @property
    def name(self):
        return self.project

    @property
    def save_dir(self):
        return self.folder

    def log_metrics(self, metrics, step=None):
        self.metrics.append((step, dict(metrics)))

    def log_hyperparams(self, params, *args):
        self.settings |= params

    def finalize(self, status):
        self.status = status

    def after_save_checkpoint(self, checkpoint_callback):
        pass


class KeepingWandb(_Keeping, loggers.WandbLogger):
    """W&B's."""

    def __init__(self, project: str = "lightning_logs", id: str | None = None, save_dir: str = "wb"):
        self._keep(project, id, save_dir)

    @property
    def experiment(self):
        return SimpleNamespace(id=self.run)

    def log_table(self, key, columns=None, data=None, dataframe=None, step=None):
        self.tables.append((step, key, columns, data))


class KeepingMLFlow(_Keeping, loggers.MLFlowLogger):
    """MLflow's."""

    def __init__(
        self, experiment_name: str = "lightning_logs", run_id: str | None = None, save_dir: str | None = "mlruns"
    ):
        self._keep(experiment_name, run_id, save_dir)

    @property
    def run_id(self):
        return self.run

    @property
    def experiment(self):
        def log_text(run_id, text, file):
            assert run_id == self.run
            self.texts[file] = text

        known = {name: value for logger in MADE if logger.run == self.run for name, value in logger.settings.items()}
        run = SimpleNamespace(data=SimpleNamespace(params=known))
        return SimpleNamespace(log_text=log_text, get_run=lambda run_id: run)


class DerivedWandb(loggers.WandbLogger):
    """A user's, made as Lightning makes it: it needs the package."""


class DerivedMLFlow(loggers.MLFlowLogger):
    """A user's, made as Lightning makes it: it needs the package."""
