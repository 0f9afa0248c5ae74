"""Whether a base that is no folder here can be had from the Hugging Face Hub, said within seconds."""

from __future__ import annotations

from functools import cache
from typing import Final

from cahl_pl.errors import PolicyError

SECONDS: Final = 10.0
"""That the hub has to answer in; the libraries beneath would try again for minutes."""


@cache  # who has one file of it has the others, and each is asked for by itself
def check_hub(model: str) -> None:
    """Check that a base is in the hub's cache, or that the hub has it.

    Args:
        model: what the configuration names, which is no folder.

    Raises:
        PolicyError: it is neither, or the hub cannot be asked.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.utils import HFValidationError, RepositoryNotFoundError, validate_repo_id
    from transformers.utils import cached_file

    def refused(why: str) -> PolicyError:
        return PolicyError(
            f"model.policy.model names {model!r}, which is no folder here and {why}; give a folder that is there, or the id of "
            "a model on the hub, such as Qwen/Qwen2.5-0.5B-Instruct"
        )

    try:
        validate_repo_id(model)
        cached_file(model, "config.json", local_files_only=True)
        return
    except HFValidationError:
        raise refused("no id of the Hugging Face Hub") from None
    except OSError:  # it is not there
        pass
    if constants.HF_HUB_OFFLINE:
        raise refused("is not in the hub's cache, and the hub is not asked, since HF_HUB_OFFLINE is set")
    try:
        HfApi().model_info(model, timeout=SECONDS)
    except RepositoryNotFoundError:
        raise refused("no model that the Hugging Face Hub has, or shows to you (`hf auth login` shows private ones)") from None
    except Exception as error:  # of the library beneath, which differs between versions
        first = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise refused(f"is not in the hub's cache, and the hub cannot be reached ({first})") from error
