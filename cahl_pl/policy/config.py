"""The base to load, and the adapters to put on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cahl_pl.errors import ConfigError


@dataclass
class PolicyConfig:
    """The base model and its adapters.

    Attributes:
        model: hub id or local folder of a causal language model; a relative folder is looked up in the working
            directory, `toolworld` is the small model that ships with this package.
        gguf_file: name of a GGUF file inside that folder, to load (and de-quantise) instead of safetensors.
        quantization: `nf4` loads the base in 4 bits with double quantisation, `none` in `dtype`; null is `none`, unless
            the callback `FourBitMemory` decides otherwise.
        dtype: dtype of the base's weights and activations. The weights of adapters are always float32.
        adapter_dtype: dtype that adapters are computed in; `bfloat16`, on a base of that dtype, saves copies of every input.
        adapter: `lora`, or `alora` (activated LoRA, arXiv 2504.12397): the adapter acts from the role's own words on;
            the bare base reads what comes before, the tools and the request, once for both roles.
        lora_rank: rank r of both adapters.
        lora_alpha: scale numerator; an adapter's update is multiplied by lora_alpha / lora_rank.
        lora_targets: module names to adapt, or `all-linear`: every linear layer but the output layer; in a mixture of experts
            only those of its attention, in a multimodal model those of its language model.
        use_rslora: multiply by lora_alpha / sqrt(lora_rank) instead (rsLoRA, arXiv 2312.03732).
        use_dora: learn a magnitude of each output beside the update (DoRA, arXiv 2402.09353): slower, more memory, and
            available neither with `alora` nor on a vLLM server.
        init_lora_weights: initialisation of the adapters, all of which start as the base itself: `default` (A as a linear
            layer's weights, B 0), `gaussian` (A normal, B 0) or `orthogonal` (A and B that cancel). Methods that change the
            base's weights, such as PiSSA or OLoRA, are refused.
        adapters: folder written by `export`: training starts from its two adapters, and the KL divergence is taken to
            them. Null: from adapters that change nothing yet.
        gradient_checkpointing: recompute activations in the backward pass: less memory, more time.
        attention: attention implementation of transformers; all three can take the mask of packed sequences (`packing`),
            which `flash_attention_2` cannot. `flex_attention` needs CUDA to train: it skips what no token sees, which is
            most of a long row.
        shard_base: with several processes, each has only a part of the base (FSDP2), and gathers a layer from all of them to
            compute it; adapters are whole on each. It requires an engine that samples elsewhere (`ServerEngine`).
        prefix_cache_tokens: number of prompt tokens whose keys and values are kept within a round for reuse (56 KB a
            token for Qwen2.5-7B in bfloat16).
        check_base: when the base is loaded, compare packed, sampled and recomputed passes of a few tokens with plain ones, and
            refuse a base on which they differ, or whose layers contain weights that the model has no place for.
        trust_remote_code: run code that comes with the model. Off unless you have read that code.
    """

    model: str = "toolworld"
    gguf_file: str | None = None
    quantization: Literal["none", "nf4"] | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    adapter_dtype: Literal["float32", "bfloat16"] = "float32"
    adapter: Literal["lora", "alora"] = "lora"
    lora_rank: int = 16
    lora_alpha: int = 32
    lora_targets: str | list[str] = "all-linear"
    use_rslora: bool = False
    use_dora: bool = False
    init_lora_weights: str = "default"
    adapters: str | None = None
    gradient_checkpointing: bool = False
    attention: Literal["sdpa", "eager", "flex_attention"] = "sdpa"
    shard_base: bool = False
    prefix_cache_tokens: int = 65536
    check_base: bool = True
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: one is out of range, or no base is named.
        """
        for name in ("lora_rank", "lora_alpha"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"model.policy.{name} is {getattr(self, name)}, so that adapters would change nothing: give 1 or more"
                )
        if self.prefix_cache_tokens < 0:
            raise ConfigError(f"model.policy.prefix_cache_tokens is {self.prefix_cache_tokens}: give 0 or more")
        if not self.model.strip():
            raise ConfigError("model.policy.model is blank: give a hub id or a folder, or `toolworld`")
        if not self.lora_targets:
            raise ConfigError("model.policy.lora_targets names nothing: give all-linear, or names of modules")

    def decide_quantization(self, otherwise: Literal["none", "nf4"]) -> None:
        """Set this quantization, unless the configuration itself names one; the callback `FourBitMemory` asks for it."""
        if self.quantization is None and otherwise != "none":  # null is none already
            self.quantization = otherwise
