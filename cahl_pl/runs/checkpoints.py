"""Search for the checkpoints of a run, and checks of them.

A checkpoint is Lightning's, one dictionary, and never contains the base. Its entries and their sources:

    state_dict                          both adapters: `CAHLModule.state_dict`, of `Policy.adapter_state`
    policy_version, policy_config, warm
                                        steps of each role, the configuration that the adapters fit, roles that imitate:
                                        `CAHLModule.on_save_checkpoint`
    RolloutDataModule                   position in the data, each process's generator and pending batches of the round,
                                        the sampler: `RolloutDataModule.state_dict`
    callbacks                           counts of each callback: its own `state_dict`
    optimizer_states, lr_schedulers, loops, global_step, epoch      Lightning's own

The callback `Checkpoints` writes it.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from cahl_pl.errors import ConfigError
from cahl_pl.errors.own_code import is_ours, own_code, path_of


def newest(folder: Path, is_rank_zero: bool = True) -> Path | None:
    """Return the newest complete checkpoint of a run's folder; print the names of damaged ones."""
    for path in reversed(paths_by_step(folder)):
        fault = fault_of(path)
        if fault is None and is_checkpoint(path):
            return path
        fault = fault or "it cannot be read as one of this trainer's"
        if is_rank_zero:
            print(f"warning: the checkpoint {path} is damaged ({fault}); trying the one before", flush=True)
    return None


def paths_by_step(folder: Path) -> list[Path]:
    """Return checkpoints of a run's folder by their steps."""
    paths = [path for path in (folder / "checkpoints").glob("step-*.ckpt") if path.stem[5:].isdecimal()]
    return sorted(paths, key=lambda path: int(path.stem[5:]))


def fault_of(path: Path) -> str | None:
    """Return why a checkpoint cannot be used; None if it is complete.

    A checkpoint is a zip archive with a checksum of every record, which loading alone would not check.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            record = archive.testzip()
    except Exception as error:  # a flipped bit in the directory makes zipfile raise a dozen types
        return str(error) or type(error).__name__
    return None if record is None else f"the checksum of {record} is wrong"


def read_checkpoint(path: Path) -> Any:
    """Return the content of a file, with its tensors in host memory, wherever they were when it was written.

    Raises:
        Exception: of many types, if it is damaged; see `fault_of`.
    """
    return torch.load(path, map_location="cpu", weights_only=True)


def check_state(owner: Any) -> None:
    """Check that the state that a user's own object keeps in checkpoints can be written and read back.

    Args:
        owner: a callback, or the like, with a `state_dict`.

    Raises:
        ConfigError: it cannot, or getting it raises an error.
    """
    if is_ours(owner):
        return
    with own_code(owner, "state_dict"):
        state = owner.state_dict()
    file = io.BytesIO()
    try:
        torch.save(state, file)
        torch.load(io.BytesIO(file.getvalue()), map_location="cpu", weights_only=True)
    except Exception as error:  # any error of pickling an object
        first = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")
        raise ConfigError(
            f"{path_of(owner)}.state_dict gives what no checkpoint can hold ({first}): let it give numbers, texts, lists, "
            "mappings and tensors alone"
        ) from error


def is_checkpoint(path: Path) -> bool:
    """Return whether a complete archive is a checkpoint of this trainer. Unsafe content is left for loading to refuse."""
    try:
        content = read_checkpoint(path)
    except pickle.UnpicklingError:
        return True
    except Exception:  # a flipped bit between the records escapes their checksums
        return False
    return isinstance(content, dict) and {"policy_version", "policy_config"} <= content.keys()
