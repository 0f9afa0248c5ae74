"""PEFT's configuration of both adapters, and the options that two adapters on one frozen base can have."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from torch import nn

from cahl_pl.errors import ConfigError, PolicyError
from cahl_pl.policy.bases import decoder_of, has_experts
from cahl_pl.types import ROLES

if TYPE_CHECKING:
    from cahl_pl.policy.config import PolicyConfig

_MIXES_TOKENS = re.compile(r"att|mamba|mixer|conv")  # in the path of a module that is neither expert nor router
# In state space layers, modules whose weights a fused kernel uses without the adapter; in Gemma 3n, those not always run
_UNFIT = re.compile(r"(mamba|mixer)\.(out_proj|x_proj|dt_proj)$|altup")
# PEFT takes these for projections of experts wherever they are, and wants the other half too (AFMoE's attention gate)
_PART_OF_EXPERTS = re.compile(r"att\w*\.(gate_proj|up_proj|w1|w3)$")
_LEAVING_THE_BASE = ("default", "gaussian", "orthogonal")
_CHANGING_THE_BASE = ("pissa", "olora", "corda", "loftq")


def lora_config(config: PolicyConfig, base: Any) -> Any:
    """Return PEFT's `LoraConfig` of both adapters on a base, whose weights may be on the meta device."""
    from peft import LoraConfig
    from transformers.pytorch_utils import Conv1D

    init: Any = True if config.init_lora_weights == "default" else config.init_lora_weights
    return LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        fan_in_fan_out=any(
            isinstance(module, Conv1D) for module in base.modules()
        ),  # GPT-2's linear layers are transposed
        lora_dropout=0.0,  # dropout would make the ratio of an on-policy sample differ from 1
        target_modules=targets_of(config, base),
        task_type="CAUSAL_LM",
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
        init_lora_weights=init,
    )


def targets_of(config: PolicyConfig, base: Any) -> str | list[str]:
    """Return the modules to adapt, in a form that PEFT knows, with `all-linear` resolved for this base.

    In a mixture of experts, the layers that mix tokens: adapters on every expert would be many, PEFT does not load activated
    ones, and experts in one tensor have none. In a multimodal model, the language model: nothing else sees text.
    """
    if config.lora_targets != "all-linear":
        return config.lora_targets
    experts, decoder = has_experts(base), decoder_of(base)
    names = dict(base.named_modules())
    linear = [name for name, module in names.items() if isinstance(module, nn.Linear)]
    within = next(f"{name}." if name else "" for name, module in names.items() if module is decoder)
    chosen = [
        name
        for name in linear
        if name.startswith(within) and not _UNFIT.search(name) and (not experts or _of_attention(name))
    ]
    if not chosen or (decoder is base.base_model and not experts and not any(map(_UNFIT.search, linear))):
        return "all-linear"
    last = {name.rpartition(".")[2] for name in chosen}
    if not any(name.rpartition(".")[2] in last for name in set(names) - set(chosen)):
        return sorted(last)
    patterns = {re.sub(r"(?<=\\\.)\d+(?=\\\.)", r"\\d+", re.escape(name)) for name in chosen}
    return "|".join(sorted(patterns))


def _of_attention(name: str) -> bool:
    return _MIXES_TOKENS.search(name) is not None and _PART_OF_EXPERTS.search(name) is None


def with_adapter(config: PolicyConfig, base: Any, lora: Any) -> Any:
    """Return a base with its first adapter on it.

    Raises:
        PolicyError: PEFT cannot add one.
    """
    from peft import get_peft_model

    # adapters' weights stay in float32 on a bfloat16 base (PEFT's default): their updates are too small for bfloat16
    try:
        return get_peft_model(base, lora, adapter_name=ROLES[0])
    except Exception as error:  # PEFT raises half a dozen types for modules that it does not know
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise PolicyError(
            f"no adapters can be put on {config.model!r} ({reason}): name other modules in model.policy.lora_targets, such as "
            "[q_proj,k_proj,v_proj,o_proj]"
        ) from error


def check_lora(config: PolicyConfig) -> None:
    """Check the options of the adapters.

    Raises:
        ConfigError: an option is not available here, or not together with another one.
    """
    init = config.init_lora_weights
    if init.startswith(_CHANGING_THE_BASE):
        raise ConfigError(
            f"policy.init_lora_weights is {init!r}, which takes a part out of the base's weights, but two adapters share that "
            "base, and it is itself the reference of the KL divergence and what an activated adapter reads with: give default, "
            "gaussian or orthogonal"
        )
    if init not in _LEAVING_THE_BASE:
        raise ConfigError(f"policy.init_lora_weights is {init!r}: give default, gaussian or orthogonal")
    if init == "orthogonal" and (config.lora_rank % 2 or config.quantization == "nf4" or config.dtype != "float32"):
        raise ConfigError(
            "policy.init_lora_weights orthogonal needs an even lora_rank and a float32 base that is not quantised, since "
            "its A and B cancel only unrounded: give default or gaussian"
        )
    if config.use_dora and config.adapter == "alora":
        raise ConfigError(
            "policy.use_dora is true and policy.adapter alora, which PEFT cannot combine, so that nothing could load the "
            "adapters: use --model.policy.adapter lora, or leave DoRA out"
        )
    if config.shard_base and (config.adapter == "alora" or config.use_dora):
        kind, key = ("activated adapters", "adapter lora") if config.adapter == "alora" else ("DoRA", "use_dora false")
        raise ConfigError(
            f"policy.shard_base is true, for which a vLLM server has to sample, but vLLM cannot run {kind}: use "
            f"--model.policy.{key}, or --model.policy.shard_base false"
        )
    if config.adapter_dtype == "bfloat16" and config.dtype != "bfloat16":
        raise ConfigError(
            f"policy.adapter_dtype is bfloat16, but the base computes in policy.dtype {config.dtype}: set both to bfloat16, or "
            "leave adapter_dtype out"
        )
    if config.adapter_dtype == "bfloat16" and config.use_dora:
        raise ConfigError(
            "policy.use_dora is true and policy.adapter_dtype bfloat16, but DoRA's norms are computed in float32: leave one out"
        )
