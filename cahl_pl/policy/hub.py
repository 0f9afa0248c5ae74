"""Availability on the Hugging Face Hub of a base that is no folder here, checked within seconds."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

from cahl_pl.errors import PolicyError

SECONDS: Final = 10.0
"""Time limit for the hub's answer; the underlying libraries would retry for minutes."""


@cache  # the answer for one file holds for all of them, and each is loaded by a separate call
def on_hub(model: str) -> str:
    """Return where a base is loaded from: its id, or its folder in the hub's cache if the hub is out of reach.

    Args:
        model: the configured name, which is no folder.

    Raises:
        PolicyError: it is no id, or it is not in the cache, and the hub does not have it or is out of reach.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.utils import HFValidationError, RepositoryNotFoundError, validate_repo_id
    from transformers.utils import cached_file

    def refused(why: str) -> PolicyError:
        return PolicyError(
            f"model.policy.model names {model!r}, which is no folder here and {why}; give a folder that is there, or the id of "
            "a model on the hub, such as Qwen/Qwen2.5-0.5B-Instruct"
        )

    folder: str | None = None
    try:
        validate_repo_id(model)
        found = cached_file(model, "config.json", local_files_only=True)
        folder = None if found is None else str(Path(found).parent)
    except HFValidationError:
        raise refused("no id of the Hugging Face Hub") from None
    except OSError:  # it is not in the cache
        pass
    if constants.HF_HUB_OFFLINE:
        if folder is not None:
            return folder
        raise refused("is not in the hub's cache, and the hub is not asked, since HF_HUB_OFFLINE is set")
    try:
        HfApi().model_info(model, timeout=SECONDS)
        return model
    except RepositoryNotFoundError:
        why = "no model that the Hugging Face Hub has, or shows to you (`hf auth login` shows private ones)"
    except Exception as error:  # of the underlying library, whose types differ between versions
        first = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        why = f"is not in the hub's cache, and the hub cannot be reached ({first})"
    if folder is None:
        raise refused(why)
    print(f"note: {model!r} is taken from the hub's cache, since the hub does not answer for it: {folder}", flush=True)
    return folder
