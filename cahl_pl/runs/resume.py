"""The folder that a run writes into: `--ckpt_path last` resumes in that of the newest run, `test` has its own."""

from __future__ import annotations

import os
import pkgutil
import re
import shutil
from pathlib import Path
from typing import Any, Final

import yaml
from jsonargparse import Namespace

from cahl_pl.errors import ConfigError
from cahl_pl.import_path import import_function
from cahl_pl.runs.checkpoints import newest, paths_by_step
from cahl_pl.runs.trackers import TRACKERS, Tracker, check_package, noted_run, tracker_of

_RANKS = ("LOCAL_RANK", "NODE_RANK", "RANK", "SLURM_PROCID")
"""Variables of Lightning's own launcher, of torchrun and of srun, all of which are 0 only in the first process."""

VERBS = ("validate", "test", "predict")
"""The subcommands that train nothing."""

MEASURED = (
    *(f"data.{name}" for name in ("engine", "environment", "inference", "prompts", "single_level")),
    *(f"data.{name}" for name in ("requests", "test", "validation")),
    *(f"data.rollout.{name}" for name in ("max_", "too_long", "planner.max_", "executor.max_")),
    "model.policy.",
)
"""Prefixes of the keys that `validate`, `test` and `predict` depend on; the others belong to training."""


_AT_EVERY_START = (
    "ckpt_path",
    "config",
    *(f"trainer.logger.init_args.{name}" for name in ("version", *(tracker.run for tracker in TRACKERS.values()))),
)
"""Keys whose values differ at every start."""


def resume_last(config: Namespace, training: bool = True) -> None:
    """Replace `ckpt_path: last` by the newest complete checkpoint of the newest run, and log into that run's folder.

    If there is no run yet, or it has no checkpoint, training starts from the beginning: the same command serves for
    the first start and for all later ones.

    Args:
        config: a subcommand's configuration, in which `ckpt_path` is set and, for training, the logger's `version` or the
            tracker's run.
        training: whether the subcommand trains; others need a checkpoint, and have their own folders.

    Raises:
        ConfigError: there are checkpoints, but all of them are damaged; there is none to test; or the logger's folder is
            not known.
    """
    is_rank_zero = all(os.environ.get(name, "0") == "0" for name in _RANKS)
    folder, version = _newest_run(config)
    if training and version is not None:
        first_logger(config).init_args.version = version
    if training and (tracker := _tracker(config)) and (run := noted_run(folder)) is not None:
        first_logger(config).init_args[tracker.run] = run
    checkpoint = newest(folder, is_rank_zero)
    if checkpoint is None and paths_by_step(folder):
        raise ConfigError(
            f"no checkpoint in {folder / 'checkpoints'} is whole: move them away to start from the beginning, or give "
            "--ckpt_path another run's"
        )
    if checkpoint is None and not training:
        if not _saves(config):
            raise ConfigError(f"there is no checkpoint in {folder}: {_SAVE}, and train; or name one in --ckpt_path")
        raise ConfigError(f"there is no checkpoint in {folder} yet: train first, or name one in --ckpt_path")
    config.ckpt_path = None if checkpoint is None else str(checkpoint)
    if not is_rank_zero:
        return
    if checkpoint is None:
        print(f"no checkpoint in {folder} yet: starting from the beginning", flush=True)
        if not _saves(config):
            print(f"warning: this run will leave none for --ckpt_path last: {_SAVE}", flush=True)
        return
    print(f"{'going on from' if training else 'checkpoint:'} {checkpoint}", flush=True)
    if training:
        _keep_metrics(folder, checkpoint)
    for change in _changes(folder / "config.yaml", config):
        if not (training or change.startswith(MEASURED)):
            continue
        print(f"  changed since then: {change}", flush=True)


def _keep_metrics(folder: Path, checkpoint: Path) -> None:
    """Keep what CSVLogger has written so far, which it deletes when a run resumes in its folder."""
    metrics = folder / "metrics.csv"
    if metrics.is_file():
        kept = metrics.with_name(f"metrics.until-{checkpoint.stem}.csv")
        shutil.copy2(metrics, kept)
        print(f"kept: {metrics} so far as {kept.name}", flush=True)


_SAVE: Final = (
    "its configuration has no callback that saves any: add one, --trainer.callbacks+=cahl_pl.callbacks.Checkpoints"
)


def _saves(config: Namespace) -> bool:
    """Return whether a callback of the configuration writes checkpoints that `last` finds."""
    callbacks = config.trainer.get("callbacks") or []
    given = callbacks if isinstance(callbacks, list) else [callbacks]
    kinds = (pkgutil.resolve_name(str(one.class_path)) for one in given if isinstance(one, Namespace))
    return any("Checkpoints" in {base.__name__ for base in kind.__mro__} for kind in kinds if isinstance(kind, type))


def name_folder(config: Namespace, verb: str) -> None:
    """Make `validate`, `test` and `predict` log into their own folder, `<save_dir>/<name>/test_0` and so on.

    So no version number of training runs is used up, and no run's curves get points that its training did not measure.

    Args:
        config: a subcommand's configuration; its logger's `version` is set, unless that names a folder without training.
        verb: the subcommand.
    """
    logger = first_logger(config)
    arguments = logger.get("init_args") if isinstance(logger, Namespace) else None
    if arguments is None or not str(logger.class_path).endswith(("TensorBoardLogger", "CSVLogger")):
        return
    root, version = expanded(arguments.save_dir) / (arguments.get("name") or ""), arguments.get("version")
    if version is not None and not _has_trained(root / _folder_name(version) / (arguments.get("sub_dir") or "")):
        return
    numbers = [path.name[len(verb) + 1 :] for path in root.glob(f"{verb}_*")]
    arguments.version = f"{verb}_{1 + max((int(text) for text in numbers if text.isdecimal()), default=-1)}"


def folder_beside_tracker(config: Namespace, verb: str, goes_on: bool) -> Path | None:
    """Return the folder of a run whose first logger is W&B's or MLflow's, which provide none; None with other loggers.

    Args:
        config: a subcommand's configuration.
        verb: the subcommand.
        goes_on: whether to resume the newest training run, if there is one.
    """
    root = _root_beside_tracker(config)
    if root is None:
        return None
    if goes_on and (newest_run := _newest_version(root)) is not None:
        return root / f"version_{newest_run}"
    kind = verb if verb in VERBS else "version"
    numbers = [path.name[len(kind) + 1 :] for path in root.glob(f"{kind}_*")]
    return root / f"{kind}_{1 + max((int(text) for text in numbers if text.isdecimal()), default=-1)}"


def _tracker(config: Namespace) -> Tracker | None:
    logger = first_logger(config)
    return tracker_of(str(logger.class_path)) if isinstance(logger, Namespace) and "class_path" in logger else None


def _root_beside_tracker(config: Namespace) -> Path | None:
    """Return the folder of all runs of a tracker's project."""
    tracker = _tracker(config)
    if tracker is None:
        return None
    project = (first_logger(config).get("init_args") or {}).get(tracker.project) or "lightning_logs"
    return expanded(config.trainer.get("default_root_dir") or ".") / project


def _newest_version(root: Path) -> int | None:
    """Return the number of the newest training run below a folder."""
    runs = [path for path in root.glob("version_*") if _has_trained(path)]
    return max((int(path.name[8:]) for path in runs if path.name[8:].isdecimal()), default=None)


def _folder_name(version: int | str) -> str:
    return version if isinstance(version, str) else f"version_{version}"


def _has_trained(folder: Path) -> bool:
    """Return whether it is a training run's folder, which has one for checkpoints from the start."""
    return (folder / "checkpoints").is_dir()


def check_loggers(config: Namespace) -> None:
    """Check that the packages of all loggers are installed.

    Raises:
        ConfigError: one is not.
    """
    loggers = config.trainer.logger
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        if isinstance(logger, Namespace) and "class_path" in logger:
            check_package(str(logger.class_path))


def first_logger(config: Namespace) -> Any:
    """Return the configuration of the logger whose folder is the run's; False if there is none, None for Lightning's own."""
    logger = config.trainer.logger
    return [*logger, False][0] if isinstance(logger, list) else logger


def expanded(folder: str | os.PathLike[str]) -> Path:
    """Return a folder as Lightning's loggers understand it: with `~` and environment variables replaced."""
    return Path(os.path.expanduser(os.path.expandvars(folder)))


def _newest_run(config: Namespace) -> tuple[Path, int | str | None]:
    """Return the folder of the newest run that has trained, or of the one that `version` names, and its version."""
    logger = first_logger(config)
    if logger is False:
        return Path(config.trainer.default_root_dir or "."), None
    if (beside := _root_beside_tracker(config)) is not None:
        return beside / f"version_{_newest_version(beside) or 0}", None
    arguments = logger.get("init_args") if isinstance(logger, Namespace) else None
    if arguments is None or not str(logger.class_path).endswith(("TensorBoardLogger", "CSVLogger")):
        raise ConfigError(
            "--ckpt_path last knows the folders of TensorBoardLogger, CSVLogger, WandbLogger and MLFlowLogger alone: give "
            "trainer.logger one of them, the first of several, or name the checkpoint itself"
        )
    root = expanded(arguments.save_dir) / (arguments.get("name") or "")
    version = arguments.get("version")
    if version is None:
        version = _newest_version(root) or 0
    folder = root / _folder_name(version)
    return folder / (arguments.get("sub_dir") or ""), version


def _changes(path: Path, config: Namespace) -> list[str]:
    """Return the keys whose values differ from those that the run was started with."""
    try:
        then = _flat(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError):
        return []
    now = _flat(_plain(config))
    found: dict[str, str] = {}
    for key in dict.fromkeys([*then, *now]):
        if key in then and key in now:
            if not _same(then[key], now[key]):
                found[key] = f"{key}: {then[key]} -> {now[key]}"
            continue
        # on one side only: a class that was dropped, or that replaced a plain value
        other = now if key in then else then
        parents = [key[: at.start()] for at in re.finditer(r"\.", key)]
        for parent in (parent for parent in parents if parent in other):
            found[parent] = f"{parent}: {_told(then, parent)} -> {_told(now, parent)}"
    return list(found.values())


def _told(values: dict[str, Any], key: str) -> Any:
    """Return a flat configuration's value of a key; for a class, its path."""
    return values[key] if key in values else values.get(f"{key}.class_path", "other keys")


def _same(then: Any, now: Any) -> bool:
    """Return whether a value equals that of a configuration file, which names functions by their import paths."""
    if callable(now) and isinstance(then, str):
        try:
            return import_function(then, "") is now
        except ConfigError:
            return False
    return bool(then == now)


def _plain(value: Any) -> Any:
    """Return namespaces as dictionaries, and what YAML does not know as text; functions stay."""
    if isinstance(value, Namespace):
        value = vars(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if callable(value) or isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return `{"a": {"b": 1}}` as `{"a.b": 1}`, without the keys that differ at every start."""
    if not isinstance(value, dict):
        return {prefix: value}
    result: dict[str, Any] = {}
    for key, item in value.items():
        result |= _flat(item, f"{prefix}.{key}" if prefix else str(key))
    return {k: v for k, v in result.items() if k not in _AT_EVERY_START}
