"""An adapter on disk, as a server reads it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import torch

from cahl_pl.errors import ConfigError, PolicyError
from cahl_pl.policy.policy import Policy
from cahl_pl.types import ROLES, Role


def write_adapter(policy: Policy, role: Role, folder: Path) -> Path:
    """Save one role's adapter, as it is now, as a PEFT folder (safetensors) that is named by its content.

    It is written aside and renamed: a name that is there is an adapter that is whole, and always the same one.

    Args:
        policy: with the adapters.
        role: whose.
        folder: where to make the folder.

    Returns:
        The folder, `<role>-<12 hexadecimal digits>`.

    Raises:
        ConfigError: it cannot be written.
    """
    aside = folder / f".{role}-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        policy.lm.save_pretrained(aside, selected_adapters=[role])
        saved = aside / role
        digest = hashlib.sha256()
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            digest.update((saved / name).read_bytes())
        target = folder / f"{role}-{digest.hexdigest()[:12]}"
        if not target.is_dir():
            saved.rename(target)
    except OSError as error:
        raise ConfigError(
            f"the {role}'s adapter cannot be written to data.engine.adapter_folder {str(folder)!r} "
            f"({error.strerror or error}): make room or correct the permissions"
        ) from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def read_adapters(policy: Policy, folder: Path) -> None:
    """Load both adapters from the PEFT folders that `cahl-pl export` writes.

    Args:
        policy: loaded, on the base that the adapters were trained on.
        folder: with `planner/` and `executor/` in it.

    Raises:
        ConfigError: they are not there, or cannot be read.
        PolicyError: they do not fit the policy as it is configured.
    """
    from peft import get_peft_model_state_dict, load_peft_weights

    for role in ROLES:
        try:
            told = json.loads((folder / role / "adapter_config.json").read_text(encoding="utf-8"))
            weights = load_peft_weights(str(folder / role), device="cpu")
        except Exception as error:  # no file, no JSON, no safetensors
            raise ConfigError(
                f"the {role}'s adapter cannot be read from {str(folder / role)!r} ({error}): give the folder that "
                "`cahl-pl export --out` has written"
            ) from None
        config = policy.config
        for key, now in (
            ("r", config.lora_rank),
            ("lora_alpha", config.lora_alpha),
            ("use_rslora", config.use_rslora),
            ("use_dora", config.use_dora),
        ):
            if told.get(key, False) != now:
                raise PolicyError(
                    f"the {role}'s adapter in {str(folder)!r} has {key} = {told.get(key)!r}, the configuration {now!r}, and "
                    "it would act in another way: give the configuration of its training"
                )
        own = get_peft_model_state_dict(policy.lm, adapter_name=role)
        if {name: tensor.shape for name, tensor in own.items()} != {name: w.shape for name, w in weights.items()}:
            raise PolicyError(
                f"the {role}'s adapter in {str(folder)!r} does not fit the model {config.model!r}: give the base and the "
                "target modules of its training"
            )
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(weights[name])
    policy.prefixes.forget()
    policy.loads += 1
