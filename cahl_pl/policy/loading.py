"""Loading of the base model and its tokenizer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cahl_pl.errors import PolicyError
from cahl_pl.policy.bases import auto_class, check_base
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.policy.four_bit import keep_cpu_gradients
from cahl_pl.policy.hub import on_hub
from cahl_pl.policy.tokenizers import check_vocabulary, end_and_pad, tokenizer_of
from cahl_pl.policy.weights import check_weights


def read_config(config: PolicyConfig, converts: bool = True) -> Any:
    """Return the content of the base's `config.json`, if the base can be used.

    Args:
        config: the policy's configuration.
        converts: whether a GGUF file is converted for it; else it is read as it is.

    Raises:
        PolicyError: the model cannot be found or used (`bases.check_base`).
    """
    from transformers import AutoConfig

    as_it_is = {} if converts or config.gguf_file is None else {"gguf_file": config.gguf_file}
    folder = model_folder(replace(config, gguf_file=None) if as_it_is else config)
    try:
        found = AutoConfig.from_pretrained(folder, trust_remote_code=config.trust_remote_code, **as_it_is)
    except Exception as error:  # as in `load_base`
        raise _not_loaded(config, error) from error
    check_base(found, config)
    return found


def load_base(config: PolicyConfig, base_config: Any, device: torch.device) -> tuple[Any, Any]:
    """Return tokenizer and base model, in eval mode, without adapters; nothing is frozen yet.

    Args:
        config: the policy's configuration.
        base_config: result of `read_config`.
        device: target device.

    Raises:
        PolicyError: the model cannot be found or loaded as configured.
    """
    from transformers import BitsAndBytesConfig

    folder = model_folder(config)
    tokenizer = load_tokenizer(config, base_config)
    kwargs: dict[str, Any] = {}
    if config.quantization == "nf4":
        kwargs["device_map"] = {"": device}
        kwargs["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, config.dtype),
        )
    try:
        base, found = auto_class(base_config).from_pretrained(
            folder,
            dtype=getattr(torch, config.dtype),
            attn_implementation=config.attention,
            trust_remote_code=config.trust_remote_code,
            ignore_mismatched_sizes=True,  # `check_weights` names them
            output_loading_info=True,
            **kwargs,
        )
    except Exception as error:  # transformers raises a dozen types here; all mean the same to the user
        raise _not_loaded(config, error) from error
    check_weights(base, found, config)
    if config.quantization == "nf4":
        keep_cpu_gradients(base)
    elif device.type != "cpu":
        base.to(device)
    return tokenizer, base.eval()


def _not_loaded(config: PolicyConfig, error: Exception) -> PolicyError:
    if isinstance(error, PolicyError):
        return error
    reason = _reason(error)
    if "scaled_dot_product_attention" in reason:
        return PolicyError(
            f"model {config.model!r} has no sdpa attention in transformers: set model.policy.attention to eager"
        )
    if "trust_remote_code" in str(error):
        return PolicyError(
            f"model {config.model!r} comes with code of its own, which is not run unasked: read it, then set "
            "model.policy.trust_remote_code to true, or choose another base"
        )
    return PolicyError(
        f"model {config.model!r} cannot be loaded ({reason}): give policy.model the hub id or the local folder of a "
        "causal language model in safetensors format, or a folder and policy.gguf_file"
    )


def _reason(error: Exception) -> str:
    """Return the first line of a library's message, or the first two if the first only announces the second."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return " ".join(line.strip() for line in (lines[:2] if lines[0].endswith(":") else lines[:1])).rstrip(".")


def load_tokenizer(config: PolicyConfig, base_config: Any = None) -> Any:
    """Return the tokenizer alone.

    Args:
        config: the policy's configuration.
        base_config: result of `read_config`; None if another program has the model: then nothing is compared with it.

    Raises:
        PolicyError: it cannot be found or loaded, or does not fit the base.
    """
    folder = model_folder(config)
    try:
        tokenizer = tokenizer_of(folder, config)
    except Exception as error:  # as in `load_base`
        raise PolicyError(
            f"the tokenizer of {config.model!r} cannot be loaded ({_reason(error)}): model.policy.model must hold "
            "tokenizer.json or the files of a tokenizer that transformers knows"
        ) from error
    if base_config is not None:
        end_and_pad(tokenizer, folder, config)
        check_vocabulary(tokenizer, config, base_config)
    return tokenizer


def model_folder(config: PolicyConfig) -> str:
    """Return the folder or hub id that `config.model` means.

    Raises:
        PolicyError: it looks like a folder that does not exist, or the hub does not have it either.
    """
    if config.model == "toolworld":
        return str(Path(__file__).parents[1] / "toolworld" / "model")
    folder = Path(config.model).expanduser()
    looks_local = config.model.startswith((".", "/", "~"))
    if folder.is_file():
        helps = (
            f"set model.policy.model to {str(folder.parent)!r} and model.policy.gguf_file to {folder.name!r}"
            if folder.suffix == ".gguf"
            else f"give the folder that it lies in, {str(folder.parent)!r}"
        )
        raise PolicyError(f"model.policy.model names the file {config.model!r}, where it takes a folder: {helps}")
    if looks_local and not folder.is_dir():
        raise PolicyError(f"policy.model names the folder {config.model!r}, which does not exist")
    if config.gguf_file is not None:
        from cahl_pl.policy.gguf import safetensors_of

        return str(safetensors_of(folder, config.gguf_file))
    if folder.is_dir():
        return str(folder)
    return on_hub(config.model)
