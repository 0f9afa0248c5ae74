"""Limits on the bases that can be trained on, as far as a `config.json` shows them before weights are loaded."""

from __future__ import annotations

import inspect
import math
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from cahl_pl.errors import ConfigError, PolicyError
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.policy.masks import MASKED, layer_types
from cahl_pl.policy.row_cache import STATES_ARE_KNOWN

STATES = {"linear_attention", "conv", "hybrid"}
"""Types of layers that carry a state from token to token, alone or beside attention: no mask can separate two sequences."""

_OTHERS = {
    "rwkv": "keeps states in a form of its own",
    "xlstm": "keeps states in a form of its own",
    "cpmant": "puts tokens of its own before each row",
    "openai-gpt": "takes no mask of who sees whom",
    "gpt_neo": "counts the window of its local layers in the row, not in the sequence",
    "minimax": "takes no cache but one of its own",
    "falcon_mamba": "cannot go on from the states of several sequences (so in transformers)",
    "bloom": "takes distances (ALiBi) from the row, not from the sequence",
}
# families with states whose configurations do not list types of layers in older versions of transformers
_WITHOUT_TYPES = {"mamba", "mamba2", "falcon_mamba", "falcon_h1", "jamba", "bamba", "zamba", "zamba2"}
_LEARNED_POSITIONS = {"gpt2", "gpt_bigcode", "opt", "biogpt", "gptj", "codegen", "ctrl"}
_READS_WINDOWS = re.compile("sliding_window|sliding_attention")
_READS_CHUNKS = re.compile("attention_chunk_size|chunked_attention|chunked_causal")
_ADVICE = "choose another base, such as Qwen3, Llama 3 or Gemma 3"


def auto_class(config: Any) -> Any:
    """Return the class of transformers that loads a model: that of image-text models if there is none for text."""
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
    )

    known = type(config)
    if known not in MODEL_FOR_CAUSAL_LM_MAPPING and known in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return AutoModelForImageTextToText
    return AutoModelForCausalLM


def decoder_of(causal_lm: Any) -> Any:
    """Return the model below the output layer: of a multimodal one the language model, which is all that text needs."""
    below = causal_lm.base_model
    if below is causal_lm:  # its class names an attribute that it lacks (Llama 4)
        below = causal_lm.model
    return getattr(below, "language_model", below)


def keeps_states(config: Any) -> bool:
    """Return whether layers of a model carry a state from token to token (linear attention, state space, convolution)."""
    text = config.get_text_config()
    return text.model_type in _WITHOUT_TYPES or not STATES.isdisjoint(layer_types(text))


def check_base(config: Any, policy: PolicyConfig) -> None:
    """Refuse a base on which sequences would be computed wrongly, or not as configured.

    Args:
        config: the model's configuration, from its `config.json`.
        policy: the configured policy.

    Raises:
        PolicyError: saying why, and what helps.
    """
    for reason in _reasons(config, policy):
        raise PolicyError(f"a {config.get_text_config().model_type} model {reason}")


def _reasons(config: Any, policy: PolicyConfig) -> Iterator[str]:
    text = config.get_text_config()
    known = _model_class(config)
    if known is None and "AutoModelForCausalLM" not in (getattr(config, "auto_map", None) or {}):
        yield f"is no causal language model to transformers: {_ADVICE}"
    if text.model_type in _OTHERS:
        yield f"{_OTHERS[text.model_type]}, so that sequences cannot share a row: {_ADVICE}"
    if _uses_alibi(text):
        yield f"{_OTHERS['bloom']}, so that sequences cannot share a row: {_ADVICE}"
    if text.model_type.startswith("llama4") and getattr(text, "attn_temperature_tuning", False):
        yield f"scales attention by a token's place in the row (attn_temperature_tuning), not in the sequence: {_ADVICE}"
    others = set(layer_types(text)) - MASKED - STATES - {"mlp", "moe"}
    if others:
        yield f"has layers ({', '.join(sorted(others))}) that take no mask of who sees whom: {_ADVICE}"
    if keeps_states(config):
        if not STATES_ARE_KNOWN:
            yield (
                "keeps states in a way that is not known of this version of transformers: install a newer one, or choose a "
                "base of which all layers are attention layers"
            )
        if _clamps_steps(text):
            yield (
                "limits the steps of its states while it reads and not while it samples (time_step_min, time_step_limit; so in "
                f"transformers), so that it is not trained on what it sampled: {_ADVICE}"
            )
        if policy.adapter == "alora":
            yield (
                "carries states from token to token, which an adapter that acts from the middle of a prompt cannot take over: "
                "set model.policy.adapter to lora"
            )
    if known is not None:
        if policy.attention == "sdpa" and not known._supports_sdpa:
            yield "has no sdpa attention in transformers: set model.policy.attention to eager"
        if policy.attention == "flex_attention" and not known._supports_flex_attn:
            yield "has no FlexAttention in transformers: set model.policy.attention to sdpa or eager"
        if policy.gradient_checkpointing and not known.supports_gradient_checkpointing:
            yield "cannot recompute its activations: set model.policy.gradient_checkpointing to false"


def forget_unread(model: Any) -> None:
    """Clear the windows and chunks in a model's configuration that its code never reads.

    transformers keeps any key of a `config.json`. In a family without windows (Llama, OLMo 2), the model ignores a
    `sliding_window`, but the masks that are made here would not.

    Args:
        model: the model as loaded, or on the meta device.
    """
    code = inspect.getsource(sys.modules[type(decoder_of(model)).__module__])
    config = model.config.get_text_config()
    windows, chunks = bool(_READS_WINDOWS.search(code)), bool(_READS_CHUNKS.search(code))
    listed = getattr(config, "layer_types", None)
    unread = {"sliding_window": windows, "attention_chunk_size": chunks}
    if listed and MASKED.issuperset(listed):
        unread["layer_types"] = (windows or chunks) and bool(re.search(r"layer_types?\b|attention_type", code))
    for name, is_read in unread.items():
        if not is_read and getattr(config, name, None) is not None:
            setattr(config, name, None)


def _clamps_steps(text: Any) -> bool:
    """Return whether a pass over several tokens clamps the steps of a state space, unlike a pass over one."""
    if text.model_type in ("nemotron_h", "zamba2"):
        low, high = text.time_step_min, math.inf
    else:
        low, high = getattr(text, "time_step_limit", None) or (0.0, math.inf)
    return float(low) > 0 or float(high) < math.inf


def _uses_alibi(text: Any) -> bool:
    places = (text, getattr(text, "attn_config", None))
    if any(getattr(place, "alibi", False) is True for place in places):
        return True
    return getattr(text, "position_embedding_type", None) == "alibi"


def _model_class(config: Any) -> Any:
    """Return the class of the model, None if it comes with its own code."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoModelForCausalLM

    text = auto_class(config) is AutoModelForCausalLM
    return (MODEL_FOR_CAUSAL_LM_MAPPING if text else MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING).get(type(config), None)


@dataclass(frozen=True)
class LengthLimit:
    """Limit on the length of sequences.

    Attributes:
        tokens: the most tokens of a sequence.
        reason: the reason, with the key of `config.json` that sets it.
    """

    tokens: int
    reason: str

    def check(self, model: str, longest: int) -> None:
        """Check that sequences are within the limit.

        Raises:
            ConfigError: they are longer.
        """
        if longest > self.tokens:
            raise ConfigError(
                f"a sequence may have {longest} tokens, but the base {model!r} takes {self.tokens} at most: it "
                f"{self.reason}; lower data.rollout.max_prompt_tokens or max_new_tokens"
            )


def length_limit(config: Any) -> LengthLimit | None:
    """Return the length up to which a sequence is computed correctly whatever shares its pass; None: any length.

    Frequencies of rotary embeddings that follow the longest position of a pass (LongRoPE, dynamic NTK) would depend on
    the rest of the pass, and a completion that crosses the limit would be sampled with other frequencies than it is
    scored with. Below the limit they are constant.
    """
    text = config.get_text_config()
    found = []
    for rope in _ropes(text):
        kind = rope.get("rope_type") or ""
        if kind == "longrope":
            tokens = rope.get("original_max_position_embeddings") or text.original_max_position_embeddings
            found.append(LengthLimit(tokens, f"turns longer ones by other frequencies (longrope beyond {tokens})"))
        elif "dynamic" in kind:
            tokens = text.max_position_embeddings
            found.append(LengthLimit(tokens, f"turns longer ones by other frequencies ({kind} rope beyond {tokens})"))
    if text.model_type in _LEARNED_POSITIONS:
        tokens = text.max_position_embeddings
        found.append(LengthLimit(tokens, f"knows no more positions (max_position_embeddings {tokens})"))
    return min(found, key=lambda limit: limit.tokens, default=None)


def positions_known(config: Any) -> int | None:
    """Return the number of positions that a base was made for, if it computes longer sequences like others."""
    text = config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None)
    if not isinstance(positions, int) or keeps_states(config):
        return None
    # if frequencies are stretched, some configurations count stretched positions, some do not
    factors = [float(rope.get("factor") or 1) for rope in _ropes(text) if rope.get("rope_type") != "default"]
    return int(positions * max([1.0, *factors]))


def check_length(config: Any, model: str, longest: int) -> None:
    """Check that a base can take sequences of a given length; warn if it was made for shorter ones.

    Args:
        config: the model's configuration.
        model: its name, for the message.
        longest: tokens of the longest sequence.

    Raises:
        ConfigError: it cannot.
    """
    limit, known = length_limit(config), positions_known(config)
    if limit is not None:
        limit.check(model, longest)
    elif known is not None and longest > known:
        print(
            f"warning: a sequence may have {longest:,} tokens, but the base {model!r} was made for {known:,} "
            "(max_position_embeddings in its config.json), and is likely to write nonsense beyond: lower "
            "data.rollout.max_prompt_tokens or max_new_tokens",
            file=sys.stderr,
        )


def _ropes(text: Any) -> list[dict[str, Any]]:
    """Return the parameters of a model's rotary embeddings, one for each type of layer if they differ."""
    parameters = getattr(text, "rope_parameters", None) or {}
    nested = [value for value in parameters.values() if isinstance(value, dict)]
    return nested or [parameters]


def expert_weights(model: nn.Module) -> int:
    """Return the number of a model's expert weights that share one tensor, which stay out of NF4."""
    return sum(p.numel() for name, p in model.named_parameters() if p.ndim == 3 and ".experts." in name)


def has_experts(model: nn.Module) -> bool:
    """Return whether a model is a mixture of experts."""
    return any(name.rpartition(".")[2] == "experts" for name, _ in model.named_modules())
