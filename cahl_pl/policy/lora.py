"""What both adapters are to PEFT, and which of its options two adapters on one frozen base can have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cahl_pl.errors import ConfigError

if TYPE_CHECKING:
    from cahl_pl.policy.config import PolicyConfig

_LEAVING_THE_BASE = ("default", "gaussian", "orthogonal")
_CHANGING_THE_BASE = ("pissa", "olora", "corda", "loftq")


def lora_config(config: PolicyConfig) -> Any:
    """PEFT's `LoraConfig` of both adapters.

    Raises:
        ConfigError: an option cannot be had here, or not together with another one.
    """
    from peft import LoraConfig

    _check(config)
    init: Any = True if config.init_lora_weights == "default" else config.init_lora_weights
    return LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=0.0,  # dropout would make the ratio of an on-policy sample differ from 1
        target_modules=config.lora_targets,
        task_type="CAUSAL_LM",
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
        init_lora_weights=init,
    )


def _check(config: PolicyConfig) -> None:
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
