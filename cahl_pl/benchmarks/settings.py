"""Settings that a benchmark's records depend on besides the benchmark: records of different settings are never mixed."""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from cahl_pl.datamodule import RolloutDataModule
    from cahl_pl.policy.config import PolicyConfig

_SAMPLE: Final = 1 << 20


def run_settings(
    policy: PolicyConfig, data: RolloutDataModule, checkpoint: str | os.PathLike[str] | None
) -> dict[str, Any]:
    """Return model, checkpoint, prompts, limits and choices at test time, as JSON values.

    Args:
        policy: base and adapters.
        data: prompts, limits, engine.
        checkpoint: the file of the adapters; None for fresh ones.
    """
    rollout = data.rollout.config
    return {
        "checkpoint": None if checkpoint is None else str(checkpoint),
        "weights": fingerprint(checkpoint),
        "policy": asdict(policy),
        "base": fingerprint(policy.model),
        "prompts": asdict(data.prompts),
        "template": data.builder.template_key,
        "single_level": data.single_level,
        "inference": asdict(data.inference),
        "engine": type(data.rollout.engine).__qualname__,
        "seed": data.seed,
        "max_steps": rollout.max_steps,
        "max_prompt_tokens": rollout.max_prompt_tokens,
        "too_long": rollout.too_long,
        "max_new_tokens": {
            "planner": rollout.planner.max_new_tokens,
            "executor": rollout.executor.max_new_tokens,
        },
        "max_thinking_tokens": {
            "planner": rollout.planner.max_thinking_tokens,
            "executor": rollout.executor.max_thinking_tokens,
        },
    }


def fingerprint(path: str | os.PathLike[str] | None) -> str | None:
    """Return a fingerprint of the contents of a file or a folder.

    For a file it covers all of it. For the files in a folder, which may be a large base, it covers names, sizes and both ends.
    None if nothing has that name on this machine, such as for the name of a model on the hub.
    """
    root = None if path is None else Path(path).expanduser()
    if root is None or not os.path.exists(root):
        return None
    digest = hashlib.sha256()
    files = [root] if root.is_file() else sorted(file for file in root.rglob("*") if file.is_file())
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.relative_to(root)} {size}\n".encode("utf-8", "surrogateescape"))
        with file.open("rb") as content:
            if file == root:
                return hashlib.file_digest(content, "sha256").hexdigest()[:16]
            digest.update(content.read(_SAMPLE))
            content.seek(max(content.tell(), size - _SAMPLE))
            digest.update(content.read())
    return digest.hexdigest()[:16]
