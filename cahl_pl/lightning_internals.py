"""What we use of Lightning that it does not promise; tests/test_foreign_symbols.py names it."""

from __future__ import annotations

import signal
from collections.abc import Callable
from functools import partial
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins.environments import SLURMEnvironment


class ConfigurationWinsCLI(LightningCLI):
    """A LightningCLI in which configuration and command line win over what a checkpoint holds."""

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


def requeue_signals(trainer: Trainer) -> tuple[signal.Signals, ...]:
    """Return the signal by which SLURM tells this job that it shall be requeued, if it does."""
    # strategies of one device have no public way to the environment that the user may have configured
    environment = trainer._accelerator_connector.cluster_environment
    if isinstance(environment, SLURMEnvironment) and environment.auto_requeue and environment.requeue_signal:
        return (environment.requeue_signal,)
    return ()
