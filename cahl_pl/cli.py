"""The command line: `python -m cahl_pl {fit,validate,test,predict} -c CONFIG`."""

from __future__ import annotations

import os
import sys
from typing import Any

import torch
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

import cahl_pl.callbacks  # noqa: F401 - so that YAML may use the short names of our callbacks
from cahl_pl import __version__
from cahl_pl.datamodule import RolloutDataModule
from cahl_pl.datasets.base import DataError
from cahl_pl.module import CAHLModule
from cahl_pl.policy import PolicyError
from cahl_pl.quiet import quiet_libraries
from cahl_pl.schema import SchemaError

USER_ERRORS = (DataError, PolicyError, SchemaError)
"""What a user can put right: reported in one sentence, without a traceback."""


class CAHLCLI(LightningCLI):
    """LightningCLI with the two classes of this package and one rule of its own: the command line always wins."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Nothing to add; the sections are `trainer`, `model` and `data`."""

    def _parse_ckpt_path(self) -> None:
        # Lightning would merge the checkpoint's stored hyper-parameters over the configuration and the command line.
        # We store none, and what the user typed must hold.
        return

    def before_instantiate_classes(self) -> None:
        """Refuse an accelerator that is not there, before anything is loaded."""
        config = self.config.get(self.subcommand, self.config) if self.subcommand else self.config
        if config.trainer.accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
            raise PolicyError(
                f"trainer.accelerator is {config.trainer.accelerator!r} but no CUDA device is visible: run with "
                "--trainer.accelerator cpu, or on a machine with a GPU and a CUDA build of torch"
            )


def main(args: ArgsType = None, run: bool = True) -> CAHLCLI:
    """Run the command line.

    Args:
        args: arguments in place of `sys.argv[1:]`.
        run: run the subcommand; False only builds trainer, model and data (then without a subcommand in `args`).
    """
    return CAHLCLI(
        CAHLModule,
        RolloutDataModule,
        args=args,
        run=run,
        seed_everything_default=0,
        auto_configure_optimizers=False,
        save_config_kwargs={"overwrite": True},
        parser_kwargs={"version": __version__, "description": "CAHL: a planner and an executor on one frozen base, trained by GRPO."},
    )


def console() -> None:
    """`main` for people: what they can put right is one sentence, not a traceback (CAHL_TRACEBACK=1 shows it)."""
    quiet_libraries()
    try:
        main()
    except USER_ERRORS as error:
        if os.environ.get("CAHL_TRACEBACK"):
            raise
        sys.exit(f"error: {error}")


