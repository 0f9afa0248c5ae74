"""What we use of Lightning that it does not promise; tests/test_foreign_symbols.py names it."""

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
    """A LightningCLI in which configuration and command line win over what a checkpoint holds.

    Attributes:
        refused: the class whose constructor has raised something last, and what; None where none has.
    """

    refused: tuple[type, Exception] | None = None

    def instantiate_classes(self) -> None:
        """Build all classes; `refused` says which could not be, whatever jsonargparse makes of that."""
        self.refused = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # newer versions of jsonargparse say that they prefer another way
            self.parser.add_instantiator(self._make, object)
        super().instantiate_classes()

    def _make(self, made: type, *args: Any, **kwargs: Any) -> Any:
        try:
            return made(*args, **kwargs)
        except Exception as error:  # where a value may be one of several types, jsonargparse goes on with the next
            self.refused = self.refused or (made, error)
            raise

    def _parse_ckpt_path(self) -> None:
        # Lightning would merge the checkpoint's stored hyper-parameters over the configuration and the command line.
        # We store none, and what the user typed must hold.
        return

    def run_verb(self, run: Callable[[], None]) -> None:
        """Run the subcommand; subclasses put around it what they want."""
        run()

    def _run_subcommand(self, subcommand: str) -> None:
        self.run_verb(partial(super()._run_subcommand, subcommand))

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand in ("validate", "test"):
            parser.set_defaults({"verbose": False})  # Lightning's table shows all values once for each test set
        return parser


def settle_progress(trainer: Trainer, trained: bool) -> None:
    """Have the loop's counts of batches say what those of a callback say that saves at the end of a step.

    Args:
        trainer: whose training was left in the middle.
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
    """Return the signal by which SLURM tells this job that it shall be requeued, if it does."""
    # strategies of one device have no public way to the environment that the user may have configured
    environment = trainer._accelerator_connector.cluster_environment
    if isinstance(environment, SLURMEnvironment) and environment.auto_requeue and environment.requeue_signal:
        return (environment.requeue_signal,)
    return ()
