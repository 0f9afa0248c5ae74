"""Adapters on disk, for a server to read and for training to start from."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from cahl_pl.errors import ConfigError
from cahl_pl.types import ROLES, Role

if TYPE_CHECKING:
    from cahl_pl.policy.config import PolicyConfig
    from cahl_pl.policy.policy import Policy

_ACTING: Final = {"r": "lora_rank", "lora_alpha": "lora_alpha", "use_rslora": "use_rslora", "use_dora": "use_dora"}
"""Settings that decide how an adapter acts: PEFT's names and ours."""


def write_adapter(policy: Policy, role: Role, folder: Path, run: str = "") -> Path:
    """Save one role's adapter, as it is now, as a PEFT folder (safetensors) that is named by its content and the run.

    It is written aside and renamed: an existing folder is a complete adapter, and always the same one. Another run's folder
    has another name even if its adapter is equal: each run deletes its own.

    Args:
        policy: the policy with the adapters.
        role: the adapter's role.
        folder: the parent folder.
        run: text that distinguishes this run from others that write to the same folder.

    Returns:
        The folder, `<role>-<12 hexadecimal digits>`.

    Raises:
        ConfigError: it cannot be written.
    """
    aside = (
        folder / f".{role}-{socket.gethostname()}-{os.getpid()}"
    )  # processes of several machines may share the folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        policy.lm.save_pretrained(aside, selected_adapters=[role])
        saved = aside / role
        digest = hashlib.sha256(run.encode())
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            digest.update((saved / name).read_bytes())
        target = folder / f"{role}-{digest.hexdigest()[:12]}"
        try:
            saved.rename(target)
        except OSError:
            if not target.is_dir():  # else the same one exists, written before or by another process
                raise
    except OSError as error:
        raise ConfigError(
            f"the {role}'s adapter cannot be written to data.engine.adapter_folder {str(folder)!r} "
            f"({error.strerror or error}): make room or correct the permissions"
        ) from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def adapter_weights(policy: Policy) -> dict[str, Tensor]:
    """Return a copy of both adapters' weights on the CPU, name -> tensor."""
    return {name: tensor.to("cpu", copy=True) for name, tensor in _own(policy).items()}


@contextlib.contextmanager
def swapped(policy: Policy, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Replace the current weights by some that `adapter_weights` returned, for a while."""
    now = adapter_weights(policy)
    _put(policy, weights)
    try:
        yield
    finally:
        _put(policy, now)


def _own(policy: Policy) -> dict[str, Tensor]:
    state = policy.adapter_state()  # which may contain references too
    return {name: tensor for name, tensor in state.items() if any(f".{role}." in name for role in ROLES)}


def _put(policy: Policy, weights: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in _own(policy).items():
            tensor.copy_(weights[name])


def check_adapters(config: PolicyConfig) -> None:
    """Check that the adapters to start training from exist and act as configured; weights are not read.

    Raises:
        ConfigError: one of them is missing or damaged, or was made with other settings.
    """
    if config.adapters is None:
        return
    _refuse_other(config.adapters)
    if not Path(config.adapters).is_dir():
        kind = "is no folder" if Path(config.adapters).exists() else "does not exist"
        raise ConfigError(
            f"model.policy.adapters names {config.adapters!r}, which {kind}: give a folder that "
            "`python -m cahl_pl export --out FOLDER` has written"
        )
    for role in ROLES:
        where = _where(config, role)
        try:
            saved = json.loads((Path(config.adapters) / role / "adapter_config.json").read_text(encoding="utf-8"))
            there = (Path(config.adapters) / role / "adapter_model.safetensors").is_file()
        except FileNotFoundError:
            there = False
        except (OSError, ValueError) as error:
            raise ConfigError(f"{where} cannot be read ({error}): export it again") from None
        if not there:
            raise ConfigError(
                f"{where} is missing: give a folder that `python -m cahl_pl export --out FOLDER` has written, or null "
                "where --ckpt_path brings trained ones"
            )
        for theirs, ours in _ACTING.items():
            then, now = saved.get(theirs, False), getattr(config, ours)
            if then != now:
                raise ConfigError(f"{where} has {theirs} {then!r}, and model.policy.{ours} is {now!r}: use the same")
        kind = "alora" if saved.get("alora_invocation_tokens") else "lora"
        if kind != config.adapter:
            raise ConfigError(
                f"{where} is of the kind {kind}, and model.policy.adapter is {config.adapter}: use the same"
            )


def read_adapters(policy: Policy) -> None:
    """Replace the fresh adapters by the configured ones (`check_adapters`).

    Raises:
        ConfigError: weights are damaged, or were made for another base or other modules.
    """
    from peft import get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict

    for role in ROLES:
        where = _where(policy.config, role)
        try:
            weights = load_peft_weights(str(Path(str(policy.config.adapters)) / role), device="cpu")
        except Exception as error:  # a damaged file, no permission: the library has its own errors
            raise ConfigError(f"{where} cannot be read ({error}): export it again") from None
        own = get_peft_model_state_dict(policy.lm, adapter_name=role)
        if {name: tensor.shape for name, tensor in own.items()} != {n: tensor.shape for n, tensor in weights.items()}:
            raise ConfigError(
                f"{where} does not fit {policy.config.model!r}: give the base and the model.policy.lora_targets that it was "
                "trained with"
            )
        set_peft_model_state_dict(policy.lm, weights, adapter_name=role)
    policy.restore_active()


def _refuse_other(adapters: str) -> None:
    """Refuse what people give instead of a folder of adapters: a checkpoint, a run, one role's folder.

    Raises:
        ConfigError: saying what to give.
    """
    path = Path(adapters)
    what = f"model.policy.adapters names {adapters!r}, which is"
    export = "export it first, `python -m cahl_pl export --out FOLDER --ckpt_path"
    if path.is_file():
        raise ConfigError(
            f"{what} a file and no folder of adapters: for a checkpoint, {export} {adapters}`, and give FOLDER"
        )
    if any((path / role).is_dir() for role in ROLES):
        return
    if (path / "adapter_config.json").is_file():
        raise ConfigError(f"{what} the folder of one adapter: give the folder above it, which has one for each role")
    found = sorted([*path.glob("*.ckpt"), *path.glob("checkpoints/*.ckpt"), *path.glob("version_*/checkpoints/*.ckpt")])
    if found:
        raise ConfigError(f"{what} the folder of a run: choose a checkpoint and {export} {found[-1]}`, and give FOLDER")


def _where(config: PolicyConfig, role: Role) -> str:
    return f"model.policy.adapters names {config.adapters!r}, whose {role}"
