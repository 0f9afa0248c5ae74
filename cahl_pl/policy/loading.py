"""Load the base model and its tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from cahl_pl.errors import PolicyError
from cahl_pl.policy.bases import auto_class, check_base
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.policy.four_bit import keep_cpu_gradients


def read_config(config: PolicyConfig) -> Any:
    """Return what the base's `config.json` says, if it is one that can be used.

    Raises:
        PolicyError: the model cannot be found, or not be used (`bases.check_base`).
    """
    from transformers import AutoConfig

    try:
        found = AutoConfig.from_pretrained(model_folder(config), trust_remote_code=config.trust_remote_code)
    except PolicyError:
        raise
    except Exception as error:  # as in `load_base`
        raise _not_loaded(config, error) from error
    check_base(found, config)
    return found


def load_base(config: PolicyConfig, base_config: Any, device: torch.device) -> tuple[Any, Any]:
    """Tokenizer and base model, in eval mode, without adapters; nothing is frozen yet.

    Args:
        config: which base.
        base_config: of `read_config`.
        device: where to.

    Raises:
        PolicyError: the model cannot be found or loaded as configured.
    """
    from transformers import BitsAndBytesConfig

    folder = model_folder(config)
    kwargs: dict[str, Any] = {"trust_remote_code": config.trust_remote_code}
    if config.quantization == "nf4":
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, config.dtype),
        )
        kwargs_model = {"quantization_config": quantization, "device_map": {"": device}}
    else:
        kwargs_model = {}
    try:
        tokenizer = _load_tokenizer(folder, kwargs)
        base = auto_class(base_config).from_pretrained(
            folder, dtype=getattr(torch, config.dtype), attn_implementation=config.attention, **kwargs, **kwargs_model
        )
    except Exception as error:  # transformers raises a dozen types here; each means the same to the user
        raise _not_loaded(config, error) from error
    if tokenizer.eos_token_id is None:
        configured = base.generation_config.eos_token_id
        ids = configured if isinstance(configured, list) else [configured]
        if ids[0] is None:
            raise PolicyError(
                f"the tokenizer of {config.model!r} has no end-of-sequence token, so that no output would ever end: name the "
                "one that ends a turn as eos_token in its tokenizer_config.json"
            )
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(ids[0])
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if config.quantization == "nf4":
        keep_cpu_gradients(base)
    elif device.type != "cpu":
        base.to(device)
    return tokenizer, base.eval()


def _not_loaded(config: PolicyConfig, error: Exception) -> PolicyError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if "scaled_dot_product_attention" in reason:
        return PolicyError(
            f"model {config.model!r} has no sdpa attention in transformers: set model.policy.attention to eager"
        )
    return PolicyError(
        f"model {config.model!r} cannot be loaded ({reason}): give policy.model the hub id or the local folder of a "
        "causal language model in safetensors format, or a folder and policy.gguf_file"
    )


def load_tokenizer(config: PolicyConfig) -> Any:
    """Return the tokenizer alone, where another program has the model.

    Raises:
        PolicyError: it cannot be found or loaded.
    """
    folder = model_folder(config)
    try:
        return _load_tokenizer(folder, {"trust_remote_code": config.trust_remote_code})
    except Exception as error:  # as in `load_base`
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise PolicyError(f"the tokenizer of {config.model!r} cannot be loaded ({reason})") from error


def _load_tokenizer(folder: str, kwargs: dict[str, Any]) -> Any:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    # For some model types (Qwen2 among them) AutoTokenizer builds the class of that type whatever the folder says, and
    # that class replaces the pre-tokenizer of tokenizer.json: the model then reads ids that it was never trained on.
    said = get_tokenizer_config(folder, **kwargs).get("tokenizer_class")
    generic = said in ("TokenizersBackend", "PreTrainedTokenizerFast")
    return (PreTrainedTokenizerFast if generic else AutoTokenizer).from_pretrained(folder, **kwargs)


def model_folder(config: PolicyConfig) -> str:
    """Return the folder or hub id that `config.model` means.

    Raises:
        PolicyError: it looks like a folder that does not exist.
    """
    if config.model == "toolworld":
        return str(Path(__file__).parents[1] / "toolworld" / "model")
    folder = Path(config.model).expanduser()
    looks_local = config.model.startswith((".", "/", "~"))
    if looks_local and not folder.is_dir():
        raise PolicyError(f"policy.model names the folder {config.model!r}, which does not exist")
    if config.gguf_file is not None:
        from cahl_pl.policy.gguf import safetensors_of

        return str(safetensors_of(folder, config.gguf_file))
    return str(folder) if folder.is_dir() else config.model
