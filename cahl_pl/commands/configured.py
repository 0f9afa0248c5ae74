"""Reading of a configuration without building it: its weights, data and devices need not exist."""

from __future__ import annotations

from typing import Any, TypeVar

from jsonargparse import ArgumentParser

from cahl_pl.cli import CAHLCLI, Parser
from cahl_pl.datamodule import RolloutDataModule
from cahl_pl.errors import ConfigError
from cahl_pl.module import CAHLModule
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.prompts import PromptConfig

T = TypeVar("T")


class ParsedCLI(CAHLCLI):
    """Command line that reads a configuration and builds nothing from it."""

    def before_instantiate_classes(self) -> None:
        """Refuse nothing."""

    def instantiate_classes(self) -> None:
        """Build nothing."""


def read_config(arguments: list[str]) -> Any:
    """Return the configuration that `python -m cahl_pl fit` would run with.

    Args:
        arguments: `-c`, keys and values.
    """
    cli = ParsedCLI(
        CAHLModule,
        RolloutDataModule,
        args=arguments,
        run=False,
        seed_everything_default=0,
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,  # as in cahl_pl.cli
        parser_class=Parser,
    )
    return cli.config


def policy_of(config: Any) -> PolicyConfig:
    """Return the policy, quantised as the callback `FourBitMemory` would have it."""
    policy = PolicyConfig(**config.model.policy.as_dict())
    for callback in config.trainer.callbacks or []:
        if callback.class_path.endswith(".FourBitMemory"):
            policy.decide_quantization(callback.init_args.quantization)
    return policy


def prompts_of(config: Any) -> PromptConfig:
    """Return the settings of prompts.

    Raises:
        ConfigError: they cannot be used.
    """
    try:
        return PromptConfig(**config.data.prompts.as_dict())
    except ValueError as error:
        raise ConfigError(str(error)) from error


def build(kind: type[T], value: Any) -> T:
    """Return one component of a configuration.

    Args:
        kind: its base class.
        value: its `class_path` and `init_args`.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--part", type=kind)
    part: T = parser.instantiate_classes(parser.parse_object({"part": value})).part
    return part
