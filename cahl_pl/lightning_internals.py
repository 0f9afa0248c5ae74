"""Parts of Lightning that we use although it does not promise them; tests/test_foreign_symbols.py names them."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins.environments import SLURMEnvironment


class ConfigurationWinsCLI(LightningCLI):
    """A LightningCLI in which configuration and command line override what a checkpoint contains.

    Attributes:
        refused: the class whose constructor was the first to raise, and its exception; None if none has.
    """

    refused: tuple[type, Exception] | None = None

    def instantiate_classes(self) -> None:
        """Build all classes; `refused` says which could not be built, whatever jsonargparse reports."""
        self.refused = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # newer versions of jsonargparse say that they prefer another way
            self.parser.add_instantiator(self._make, object)
        super().instantiate_classes()

    def _make(self, made: type, *args: Any, **kwargs: Any) -> Any:
        try:
            return made(*args, **kwargs)
        except Exception as error:  # where a value may be one of several types, jsonargparse tries the next
            self.refused = self.refused or (made, error)
            raise

    def _parse_ckpt_path(self) -> None:
        # Lightning would merge the checkpoint's stored hyper-parameters over the configuration and the command line.
        # We store none, and what the user typed must win.
        return

    def run_verb(self, run: Callable[[], None]) -> None:
        """Run the subcommand; subclasses may wrap it."""
        run()

    def _run_subcommand(self, subcommand: str) -> None:
        self.run_verb(partial(super()._run_subcommand, subcommand))

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand in ("validate", "test"):
            parser.set_defaults({"verbose": False})  # Lightning's table shows all values once for each test set
        return parser


def settle_progress(trainer: Trainer, trained: bool) -> None:
    """Set the loop's batch counts to those seen by a callback that saves at the end of a step.

    Args:
        trainer: the trainer, whose training was left in the middle.
        trained: whether the step of the last batch that was fetched has been taken; else it is fetched again.
    """
    progress = trainer.fit_loop.epoch_loop.batch_progress
    counts: Any
    for counts in (progress.total, progress.current):
        if trained:
            counts.started = counts.processed = counts.ready
        else:
            counts.ready = counts.started = counts.processed = counts.completed
    progress.is_last_batch = trained and progress.is_last_batch


def requeue_signals(trainer: Trainer) -> tuple[signal.Signals, ...]:
    """Return the signal by which SLURM tells this job that it will be requeued, if it does."""
    # single-device strategies give no public access to the environment that the user may have configured
    environment = trainer._accelerator_connector.cluster_environment
    if isinstance(environment, SLURMEnvironment) and environment.auto_requeue and environment.requeue_signal:
        return (environment.requeue_signal,)
    return ()
