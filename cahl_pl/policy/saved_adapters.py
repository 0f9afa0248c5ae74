"""An adapter on disk, as a server reads it."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from cahl_pl.errors import ConfigError
from cahl_pl.policy.policy import Policy
from cahl_pl.types import Role


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
