"""Load the base model and its tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from cahl_pl.errors import PolicyError
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.policy.four_bit import keep_cpu_gradients


def load_base(config: PolicyConfig, device: torch.device) -> tuple[Any, Any]:
    """Tokenizer and base model, in eval mode, without adapters; nothing is frozen yet.

    Raises:
        PolicyError: the model cannot be found or loaded as configured.
    """
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

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
        base = AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, config.dtype), attn_implementation=config.attention, **kwargs, **kwargs_model
        )
    except Exception as error:  # transformers raises a dozen types here; each means the same to the user
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise PolicyError(
            f"model {config.model!r} cannot be loaded ({reason}): give policy.model the hub id or the local folder of a "
            "causal language model in safetensors format, or a folder and policy.gguf_file"
        ) from error
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
        base.to(device)  # type: ignore[arg-type]
    return tokenizer, base.eval()


def _check_layers(config: Any) -> None:
    """Refuse layers that packed sequences cannot go through: they need layers that take a mask of who sees whom.

    Raises:
        PolicyError: the model has layers of another kind.
    """
    others = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if others or config.model_type in ("mamba", "mamba2", "rwkv", "falcon_mamba"):
        raise PolicyError(
            f"a {config.model_type} model has layers ({', '.join(sorted(others)) or 'recurrent'}) that cannot take sequences "
            "which share a prefix: choose a base of which all layers are attention layers, such as Qwen2.5 or Llama"
        )


def _without_dropout(base: nn.Module) -> None:
    """Dropout would make the update's log-probabilities differ from those at sampling; checkpointing runs in train mode."""
    for module in base.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("dropout", "attention_dropout", "activation_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


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
