"""The command line: `python -m cahl_pl {fit,validate,test,predict} -c CONFIG`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Final, NoReturn

import torch
import yaml
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, SaveConfigCallback

from cahl_pl import __version__
from cahl_pl.callbacks import (  # imports all our callbacks, so that YAML may use their short names
    Checkpoints,
    PredictionWriter,
)
from cahl_pl.config_files import find_configs_in
from cahl_pl.datamodule import RolloutDataModule
from cahl_pl.distributed import lost_processes_told
from cahl_pl.engines.base import Sampling
from cahl_pl.errors import ConfigError, DataError, UserError
from cahl_pl.errors.class_entries import fault_of_classes, place_of
from cahl_pl.errors.encodings import decoded
from cahl_pl.errors.options import (
    cause,
    fault_of_anchors,
    fault_of_groups,
    fault_of_mapping,
    fault_of_value,
    fault_of_values,
    line_of,
    sentence,
    unreadable,
)
from cahl_pl.errors.own_code import of_constructor
from cahl_pl.lightning_internals import ConfigurationWinsCLI
from cahl_pl.module import CAHLModule
from cahl_pl.moved import warn_of_moved_names
from cahl_pl.optimizers import OptimizerConfig
from cahl_pl.plurals import counted
from cahl_pl.runs.checkpoints import fault_of, is_checkpoint
from cahl_pl.runs.files import check_checkpoint, check_writable, remove_empty_run
from cahl_pl.runs.folder import give_folder, given_folder, run_folder
from cahl_pl.runs.resume import (
    VERBS,
    check_loggers,
    expanded,
    first_logger,
    folder_beside_tracker,
    name_folder,
    resume_last,
)
from cahl_pl.runs.scores import print_scores
from cahl_pl.runs.signals import leaving_at_once
from cahl_pl.runs.trackers import note_run, noted_run, tracker_of
from cahl_pl.startup.text_options import mark_text, plain_text
from cahl_pl.types import ROLES

OF_VERBS: Final = ("ckpt_path", "weights_only", "verbose", "return_predictions")
"""Keys of some of Lightning's verbs, which a run's `config.yaml` contains and other verbs do not take, or set themselves."""


class Parser(LightningArgumentParser):
    """Parser that reports a configuration error in one sentence, not by the usage of a hundred options."""

    reading: ClassVar[tuple[str, str] | None] = None  # a configuration file and its text, while it is parsed
    read: ClassVar[list[tuple[str, str]]] = []  # all of this command's

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the sentence and exit with status 2."""
        if self.exit_on_error:
            told = sentence(message, known_keys(self), VERBS)
            files = [] if Parser.reading is None else [Parser.reading]
            late = ("does not accept option", "is not accepted", "has keys of its own")
            if any(words in message for words in late):  # found out after all have been parsed
                files = Parser.read[::-1]
            where = next((place for file in files if (place := line_of(*file, told, message))), "")
            self.exit(2, f"error: {where}{told}\n")
        super().error(message, ex)

    def parse_args(self, *args: Any, **kwargs: Any) -> Namespace:  # type: ignore[override]
        """Parse; refuse a plain value for a key that has sub-keys."""
        parsed: Namespace = super().parse_args(*args, **kwargs)
        whole = parsed.get(parsed.subcommand) if parsed.get("subcommand") else parsed
        known = {key.removeprefix(f"{parsed.get('subcommand')}.") for key in known_keys(self)}
        if fault := fault_of_groups(whole, known):
            self.error(fault)
        return parsed

    def parse_path(self, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Namespace:
        """Parse a configuration file; errors name the file."""
        try:
            text = decoded(Path(path).read_bytes(), path)
            content = yaml.safe_load(text)
        except (DataError, RecursionError, yaml.YAMLError) as error:
            self.error(f"the configuration {path}{unreadable(error)}", error)
        if not isinstance(content, dict):
            self.error(f"the configuration {path} holds no keys: write KEY: VALUE lines, or leave it out")
        if fault := _fault_of(text):
            self.error(f"the configuration {path}, {fault}")
        warn_of_moved_names(text, str(path))
        Parser.reading = str(path), text
        Parser.read.append(Parser.reading)
        parsed: Namespace = super().parse_path(path, *args, **kwargs)
        Parser.reading = None  # not on failure: `error` is called afterwards
        return parsed

    def parse_string(self, content: str, *args: Any, **kwargs: Any) -> Namespace:
        """Parse the text of a configuration, leaving out keys that a run wrote for its own verb and this one does not take."""
        found = yaml.safe_load(content) if Parser.reading is not None else None
        if isinstance(found, dict) and (others := [key for key in OF_VERBS if key in found]):
            known = known_keys(self)
            if any(key not in known for key in others):
                kept = {key: value for key, value in found.items() if key in known or key not in OF_VERBS}
                content = yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)
        parsed: Namespace = super().parse_string(content, *args, **kwargs)
        return parsed


def _fault_of(text: str) -> str | None:
    """Return the fault, with its line, of a configuration whose YAML is valid; None if none can be seen yet."""
    return fault_of_anchors(text) or fault_of_mapping(text) or fault_of_classes(text) or fault_of_values(text)


class SaveConfig(SaveConfigCallback):
    """Writer of `config.yaml`, once the folder is known to be this run's alone and nothing can be refused anymore."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Claim the folder; write the file if nothing is trained."""
        if stage != "fit":
            super().setup(trainer, pl_module, stage)
            return
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, Checkpoints):
                callback.claim(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file: a checkpoint that does not fit the new values would have been refused by now, leaving the old ones.

        If a run resumes with other values, its earlier ones are kept in `config.until-step-N.yaml`.
        """
        if not trainer.is_global_zero:
            super().setup(trainer, pl_module, "fit")
            return
        path = run_folder(trainer) / "config.yaml"
        before = path.read_bytes() if path.exists() else None
        note_run(trainer)
        super().setup(trainer, pl_module, "fit")
        if before is not None and path.exists() and _settings(before) != _settings(path.read_bytes()):
            kept = path.with_name(f"config.until-step-{trainer.global_step:06d}.yaml")
            kept.write_bytes(before)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write to the run's folder, which with some loggers is not the one that Lightning would use.

        The tracker's run that the folder belongs to is left out: another run started with this file does not continue it.
        """
        folder, config = run_folder(trainer), self.config.clone()
        logger = first_logger(config)
        if isinstance(logger, Namespace) and (tracker := tracker_of(str(logger.class_path))) is not None:
            run = noted_run(folder)
            if run is not None and logger.init_args.get(tracker.run) == run:
                logger.init_args[tracker.run] = None
        self.parser.save(config, folder / "config.yaml", skip_none=False, overwrite=True, multifile=self.multifile)


def _settings(text: bytes) -> Any:
    """Return the content of a `config.yaml` without the checkpoint, which differs at every start; a damaged one as it is."""
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError):
        return text
    return (
        {key: value for key, value in content.items() if key != "ckpt_path"} if isinstance(content, dict) else content
    )


class CAHLCLI(ConfigurationWinsCLI):
    """LightningCLI with the two classes of this package and one extra rule: the command line always wins.

    Attributes:
        folder: the run's folder, if its logger provides none.
    """

    folder: Path | None = None

    def before_instantiate_classes(self) -> None:
        """Refuse an accelerator, a logger, a checkpoint or an output folder that cannot be used, before anything is loaded.

        Raises:
            ConfigError: a GPU is asked for, but there is none; the checkpoint does not exist or is damaged; or the folder of
                the runs cannot be written to.
        """
        config = self.config[self.subcommand] if self.subcommand else self.config
        if config.trainer.accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
            raise ConfigError(
                f"trainer.accelerator is {config.trainer.accelerator!r} but no CUDA device is visible: run with "
                "--trainer.accelerator cpu, or on a machine with a GPU and a CUDA build of torch"
            )
        _check_processes(config.trainer)
        if "weights_only" in config and config.weights_only is None:
            config.weights_only = True  # Lightning would unpickle whatever the file holds
        check_loggers(config)
        if self.subcommand == "fit":
            _check_trainer(config.trainer)
        checkpoint = config.get("ckpt_path")
        if checkpoint == "last":
            resume_last(config, training=self.subcommand == "fit")
        elif checkpoint:
            check_checkpoint(str(checkpoint))
            fault = fault_of(Path(checkpoint))
            if fault and Path(checkpoint).suffix == ".ckpt":
                raise ConfigError(
                    f"--ckpt_path names {str(checkpoint)!r}, which is damaged ({fault}): give an older checkpoint, or `last` "
                    "to go on from the newest whole one"
                )
            if fault or not is_checkpoint(Path(checkpoint)):
                raise ConfigError(
                    f"--ckpt_path names {str(checkpoint)!r}, which is no checkpoint of this trainer: give one that a run "
                    "has written"
                )

        self.folder = None
        if self.subcommand == "fit" or self.subcommand in VERBS:
            goes_on = self.subcommand == "fit" and checkpoint == "last"
            self.folder = folder_beside_tracker(config, self.subcommand, goes_on)
        if self.subcommand in VERBS:
            name_folder(config, self.subcommand)
        if self.subcommand == "fit":
            logger = first_logger(config)
            arguments = logger.get("init_args") if isinstance(logger, Namespace) else None
            check_writable(
                expanded((arguments and arguments.get("save_dir")) or config.trainer.default_root_dir or ".")
            )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, with the shipped configurations found by their names.

        `sys.argv` is hidden meanwhile: Lightning would warn about its words when verbs and tools pass other `args`.

        Raises:
            ConfigError: a configuration is neither a file nor shipped.
        """
        words = sys.argv[1:] if args is None else args
        Parser.reading = None
        Parser.read.clear()
        given = words if isinstance(words, list) else []
        for word, following in zip(given, [*given[1:], ""], strict=False):
            warn_of_moved_names(word, "command line")
            option, equals, value = word.partition("=")
            key = option.removeprefix("--")
            if option.startswith("--") and (fault := fault_of_value(key, value if equals else following)):
                raise ConfigError(fault)
        argv, sys.argv = sys.argv, sys.argv[:1]
        try:
            super().parse_arguments(parser, mark_text(find_configs_in(words)) if isinstance(words, list) else words)
            plain_text(self.config)
            _check_seed(self.config)
        finally:  # Lightning uses it to start the processes of other devices
            sys.argv = argv

    def after_validate(self) -> None:
        """Print the scores."""
        self._print_scores()

    def after_test(self) -> None:
        """Print the scores."""
        self._print_scores()

    def before_predict(self) -> None:
        """Refuse to predict if nothing would write the predictions.

        Raises:
            ConfigError: no callback writes them.
        """
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        if not any(isinstance(callback, BasePredictionWriter | PredictionWriter) for callback in callbacks):
            raise ConfigError(
                "nothing would write what is predicted: add --trainer.callbacks+=cahl_pl.callbacks.PredictionWriter"
            )

    def run_verb(self, run: Callable[[], None]) -> None:
        """Run the verb; if it is refused or interrupted before anything was done, leave no new folder behind."""
        logged = (Path(logger.log_dir) for logger in self.trainer.loggers if logger.log_dir)
        folder = given_folder(self.trainer) or next(logged, None)
        made = folder is not None and not folder.exists()
        try:
            with lost_processes_told(), leaving_at_once():
                run()
        except (UserError, SystemExit) as error:
            ended = isinstance(error, SystemExit)  # by Ctrl-C; the folder of checkpoints is made when training begins
            nothing = self.trainer.global_step == 0 and not (ended and folder and (folder / "checkpoints").is_dir())
            if made and folder is not None and self.trainer.is_global_zero and nothing:
                for logger in self.trainer.loggers:
                    logger.finalize("failed")  # closes its files
                remove_empty_run(folder)
            raise

    def _print_scores(self) -> None:
        if self.trainer.is_global_zero:
            data: RolloutDataModule = self.datamodule
            names = ["val"] if self.subcommand == "validate" else [*data.test_tasks, *data.benchmarks]
            print_scores(names, {tag: float(value) for tag, value in self.trainer.callback_metrics.items()})

    def instantiate_classes(self) -> None:
        """Build trainer, model and data; a value that their constructors refuse is a configuration error.

        Raises:
            ConfigError: a constructor has refused a value.
        """
        try:
            super().instantiate_classes()
            if self.folder is not None:
                give_folder(self.trainer, self.folder)
        except Exception as error:
            made, first = self.refused or (CAHLModule, error)
            if (str(first).splitlines() or [""])[0] not in str(error):  # another value of the same key replaced it
                made, first = CAHLModule, error
            if isinstance(first, UserError):
                raise first from error
            if (told := of_constructor(made, first)) is not None:
                class_path = f"{made.__module__}.{made.__qualname__}"
                raise ConfigError(f"{place_of(f'{class_path}: ', Parser.read)}{told}") from first
            if not isinstance(first, ValueError | MisconfigurationException):
                raise
            message = cause(str(first))
            raise ConfigError(_role_of(self.config, message) + message) from error


def _check_seed(config: Namespace) -> None:
    """Refuse a seed that no generator accepts.

    Raises:
        ConfigError: it is below 0, or has more than 32 bits.
    """
    whole = config.get(config.subcommand) if config.get("subcommand") else config
    seed = whole.get("seed_everything")
    if not isinstance(seed, bool) and isinstance(seed, int) and not 0 <= seed < 2**32:
        raise ConfigError(f"seed_everything is {seed}: give a number from 0 to {2**32 - 1}")


def _check_processes(trainer: Namespace) -> None:
    """Refuse zero processes, and far more than there are cores: they would be started before anything else is checked.

    Raises:
        ConfigError: such a number is requested.
    """
    on_cpu = trainer.accelerator == "cpu" or (trainer.accelerator == "auto" and not torch.cuda.is_available())
    wanted, cores = str(trainer.devices), os.cpu_count() or 1
    if on_cpu and wanted != "auto" and not (wanted.isdecimal() and int(wanted)):
        raise ConfigError(f"trainer.devices is {wanted}: give 1 or more processes of the CPU, or auto")
    if on_cpu and wanted.isdecimal() and int(wanted) > max(8, cores):
        raise ConfigError(
            f"trainer.devices is {wanted}: on a CPU that many processes would be started, and this machine has "
            f"{counted(cores, 'core')}: use --trainer.devices 1, or a machine with GPUs"
        )


def _check_trainer(trainer: Namespace) -> None:
    """Refuse settings of Lightning's trainer that are meaningless when two roles take turns, or cannot work.

    Raises:
        ConfigError: naming the key to use instead.
    """
    if trainer.gradient_clip_val is not None or trainer.gradient_clip_algorithm is not None:
        raise ConfigError(
            "trainer.gradient_clip_val does not reach the two roles' optimisers: leave it and gradient_clip_algorithm out, and "
            "set model.planner.max_grad_norm and model.executor.max_grad_norm"
        )
    if trainer.accumulate_grad_batches != 1:
        raise ConfigError(
            "trainer.accumulate_grad_batches has to stay 1: a step already takes its whole batch in parts of "
            "model.max_tokens_per_micro_batch tokens; for larger batches raise data.tasks_per_round"
        )
    for name in ("max_steps", "max_epochs", "limit_train_batches"):
        if trainer.get(name) == 0:
            raise ConfigError(f"trainer.{name} is 0, so that nothing would be trained: give 1 or more, or use `test`")
    if trainer.log_every_n_steps is not None and trainer.log_every_n_steps < 1:
        raise ConfigError(
            f"trainer.log_every_n_steps is {trainer.log_every_n_steps}: give 1 or more; without curves: --trainer.logger false"
        )


def main(args: ArgsType = None, run: bool = True) -> CAHLCLI:
    """Run the command line.

    Args:
        args: arguments to use instead of `sys.argv[1:]`.
        run: run the subcommand; False only builds trainer, model and data (then without a subcommand in `args`).
    """
    return CAHLCLI(
        CAHLModule,
        RolloutDataModule,
        args=args,
        run=run,
        seed_everything_default=0,
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,  # it is for save_hyperparameters, and we store none
        save_config_callback=SaveConfig,
        save_config_kwargs={"overwrite": True, "save_to_log_dir": False},
        parser_class=Parser,
        parser_kwargs={
            "prog": "cahl-pl",
            "version": __version__,
            "description": "CAHL: a planner and an executor on one frozen base, trained by GRPO.",
        },
    )


def _role_of(config: Namespace, message: str) -> str:
    """Return the key of the role whose settings a constructor refused, as the start of the sentence; empty for others."""
    whole = config.get(config.subcommand) if config.get("subcommand") else config
    kinds: tuple[tuple[str, type[Any]], ...] = (("data.rollout", Sampling), ("model", OptimizerConfig))
    for key, kind in ((f"{parent}.{role}", kind) for parent, kind in kinds for role in ROLES):
        try:
            kind(**whole.get(key).as_dict())
        except ValueError as error:
            if str(error) == message:
                return f"{key}: "
    return ""


def known_keys(parser: argparse.ArgumentParser) -> set[str]:
    """Return the configuration keys that a parser and its subcommands know."""
    keys = set()
    for action in parser._actions:
        keys.add(action.dest)
        if isinstance(action.choices, dict):  # subcommand name -> its parser
            keys.update(*(known_keys(p) for p in action.choices.values() if isinstance(p, argparse.ArgumentParser)))
    return keys
