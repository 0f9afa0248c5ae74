"""Tiny random models of the families that people use as bases, with the tokenizer of the shipped model.

Their weights are large enough that every token of a sequence affects what follows it: a wrong mask, position or state
shows in the log-probabilities.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cahl_pl

# isort: split
import torch
from torch import nn

LAYERS = 4
WINDOW = 24
"""Tokens of every sliding window and chunk here: fewer than in most sequences that are compared."""

FULL, SLIDING = "full_attention", "sliding_attention"
MIXED = {"sliding_window": WINDOW, "layer_types": [SLIDING, FULL, SLIDING, FULL]}
ALL_SLIDING = {"sliding_window": WINDOW}
LATENT = {  # multi-head latent attention (DeepSeek)
    "q_lora_rank": 24, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 12,
    "num_key_value_heads": 4, "head_dim": 8,
}  # fmt: skip
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_chunk_size": 16}
GPT = {"n_embd": 64, "n_layer": LAYERS, "n_head": 4, "n_positions": 512, "n_inner": None}
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 4}
DELTA = {
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "linear_attention", "linear_attention", FULL],
}  # fmt: skip
EXPERTS = {"moe_intermediate_size": 32, "num_experts": 8, "num_experts_per_tok": 2}

ENDS = range(960, 1024)
"""Tokens that end a completion: enough that samples of a prompt end at different times, and leave their batch."""

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 4096,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "num_experts": 8,
    "num_local_experts": 8,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "n_shared_experts": 1,
    "num_shared_experts": 1,
    "vocab_size_per_layer_input": 1024,
    "hidden_size_per_layer_input": 16,
}
"""Sizes; the configuration of a family takes those whose names it knows."""


@dataclass(frozen=True)
class Family:
    """Kind of base.

    Attributes:
        model_type: `model_type` in transformers.
        values: values of its configuration, or of the text model's within a multimodal one.
        vision: configuration of a multimodal model's image encoder; None for a text model.
        policy: settings of `PolicyConfig` that it needs.
        text_type: `model_type` of the text model within a multimodal one.
    """

    model_type: str
    values: dict[str, Any] = field(default_factory=dict)
    vision: dict[str, Any] | None = None
    policy: dict[str, Any] = field(default_factory=dict)
    text_type: str = ""


def _family(model_type: str, /, **values: Any) -> Family:
    return Family(model_type, values)


EAGER = {"attention": "eager"}

FAMILIES: dict[str, Family] = {
    "Llama": _family("llama"),
    "Llama 3 RoPE": _family(
        "llama",
        rope_parameters={
            "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
        },
    ),
    "Llama, YaRN": _family(
        "llama",
        rope_parameters={
            "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32,
        },
    ),
    "Llama, dynamic NTK": _family(
        "llama",
        max_position_embeddings=48,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
    ),
    "Llama 4": _family(
        "llama4_text",
        attention_chunk_size=WINDOW, attn_temperature_tuning=False, no_rope_layers=[1, 1, 0, 1], intermediate_size_mlp=96,
    ),
    "Mistral": _family("mistral", **ALL_SLIDING),
    "Mixtral": _family("mixtral", **ALL_SLIDING, router_jitter_noise=0.1),
    "Ministral": _family("ministral", **MIXED),
    "Ministral 3": _family("ministral3", **ALL_SLIDING),
    "Mistral 3 (multimodal)": Family(
        "mistral3", {"sliding_window": WINDOW}, {**VISION, "model_type": "pixtral", "image_size": 16, "head_dim": 16},
        text_type="ministral3",
    ),
    "Qwen2": _family("qwen2"),
    "Qwen2, window": _family(
        "qwen2", sliding_window=WINDOW, use_sliding_window=True, layer_types=[FULL, SLIDING, SLIDING, SLIDING]
    ),
    "Qwen2-MoE": _family("qwen2_moe"),
    "Qwen3": _family("qwen3"),
    "Qwen3-MoE": _family("qwen3_moe", **EXPERTS),
    "Qwen3-Next": _family("qwen3_next", **DELTA),
    "Qwen3.5": _family("qwen3_5_text", **DELTA),
    "Qwen3.5-MoE": _family("qwen3_5_moe_text", **DELTA),
    "Qwen3.5 (multimodal)": Family(
        "qwen3_5", DELTA,
        {"hidden_size": 32, "intermediate_size": 48, "depth": 2, "num_heads": 2, "patch_size": 4, "out_hidden_size": 64,
         "num_position_embeddings": 64},
        text_type="qwen3_5_text",
    ),
    "Qwen3-VL": Family(
        "qwen3_vl", {},
        {"hidden_size": 32, "intermediate_size": 48, "depth": 2, "num_heads": 2, "patch_size": 4, "out_hidden_size": 64,
         "num_position_embeddings": 64, "deepstack_visual_indexes": [0]},
        text_type="qwen3_vl_text",
    ),
    "Gemma": _family("gemma"),
    "Gemma 2": Family("gemma2", {**MIXED, "query_pre_attn_scalar": 16}, policy=EAGER),
    "Gemma 3": _family("gemma3_text", **MIXED, query_pre_attn_scalar=16),
    "Gemma 3 (multimodal)": Family(
        "gemma3", {**MIXED, "query_pre_attn_scalar": 16}, {**VISION, "image_size": 16}, text_type="gemma3_text"
    ),
    "Gemma 3n": _family("gemma3n_text", **MIXED, num_kv_shared_layers=2),
    "Gemma 4": _family("gemma4_text", **MIXED, num_kv_shared_layers=0, global_head_dim=24, num_experts=None),
    "Gemma 4, shared keys": _family("gemma4_text", **MIXED, num_kv_shared_layers=2, global_head_dim=24, num_experts=None),
    "Gemma 4 (multimodal)": Family(
        "gemma4", {**MIXED, "num_kv_shared_layers": 0, "global_head_dim": 24, "num_experts": None},
        {**VISION, "num_key_value_heads": 2, "head_dim": 16, "position_embedding_size": 64}, text_type="gemma4_text",
    ),
    "Phi": _family("phi"),
    "Phi-3": _family("phi3", **ALL_SLIDING),
    "Phi-3, LongRoPE": _family(
        "phi3",
        sliding_window=None,
        original_max_position_embeddings=80,
        rope_parameters={
            "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 8, "long_factor": [4.0] * 8,
            "original_max_position_embeddings": 80,
        },
    ),
    "PhiMoE": _family("phimoe", sliding_window=None),
    "gpt-oss": Family("gpt_oss", MIXED, policy=EAGER),
    "SmolLM3": _family("smollm3", **MIXED, use_sliding_window=True),
    "Granite": _family("granite", logits_scaling=8.0, embedding_multiplier=12.0, residual_multiplier=0.22),
    "Granite-MoE": _family("granitemoe", logits_scaling=6.0),
    "Granite 4-H": _family(
        "granitemoehybrid", layer_types=["linear_attention", FULL, "linear_attention", FULL], **MAMBA
    ),
    "Cohere": _family("cohere", logit_scale=0.25),
    "Cohere 2": _family("cohere2", **MIXED, logit_scale=0.25),
    "OLMo 2": _family("olmo2"),
    "OLMo 3": _family("olmo3", **MIXED),
    "OLMoE": _family("olmoe"),
    "GLM-4": _family("glm4"),
    "GLM-4-MoE": _family("glm4_moe"),
    "DeepSeek-V2": _family("deepseek_v2", **LATENT),
    "DeepSeek-V3": _family("deepseek_v3", **LATENT, topk_method="noaux_tc"),
    "LFM2": _family("lfm2", layer_types=["conv", FULL, "conv", FULL], block_auto_adjust_ff_dim=False),
    "LFM2-MoE": _family("lfm2_moe", layer_types=["conv", FULL, "conv", FULL]),
    "Falcon": _family("falcon", new_decoder_architecture=True, num_kv_heads=2, hidden_dropout=0.1),
    "Falcon, ALiBi": _family("falcon", alibi=True, multi_query=False, new_decoder_architecture=False),
    "Falcon-H1": _family("falcon_h1", mamba_d_ssm=64, **{**MAMBA, "mamba_n_heads": 4}),
    "Nemotron": _family("nemotron"),
    "Nemotron-H": _family("nemotron_h", layer_types=["linear_attention", FULL, "linear_attention", FULL], **MAMBA),
    "Jamba": _family("jamba", attn_layer_period=2, attn_layer_offset=1, use_mamba_kernels=False),
    "Bamba": _family("bamba", attn_layer_indices=[1, 3], **MAMBA),
    "Mamba 2": Family(
        "mamba2", {"num_heads": 8, "head_dim": 16, "state_size": 16, "n_groups": 2, "chunk_size": 16}, policy=EAGER
    ),
    "RWKV": Family("rwkv", policy=EAGER),
    "xLSTM": Family("xlstm", policy=EAGER),
    "StableLM": _family("stablelm"),
    "StarCoder 2": _family("starcoder2", **ALL_SLIDING, residual_dropout=0.1, embedding_dropout=0.1),
    "Seed-OSS": _family("seed_oss"),
    "ERNIE 4.5": _family("ernie4_5"),
    "HunYuan": _family("hunyuan_v1_dense"),
    "EXAONE 4": _family("exaone4", **MIXED),
    "HyperCLOVA X": _family("hyperclovax", logits_scaling=0.125),
    "GPT-2": _family("gpt2", **GPT),
    "GPT-BigCode": _family("gpt_bigcode", **GPT),
    "GPT-NeoX": _family("gpt_neox", hidden_dropout=0.1),
    "GPT-Neo": Family(
        "gpt_neo",
        {"num_layers": LAYERS, "attention_types": [[["global", "local"], 2]], "window_size": WINDOW},
        policy=EAGER,
    ),
    "OPT": _family("opt", ffn_dim=96, word_embed_proj_dim=64, max_position_embeddings=512, layerdrop=0.5),
    "BLOOM": Family("bloom", {"n_layer": LAYERS, "n_head": 4}, policy=EAGER),
    "MPT": Family("mpt", {"d_model": 64, "n_heads": 4, "n_layers": LAYERS, "max_seq_len": 512}, policy=EAGER),
    "CPM-Ant": Family("cpmant", {"dim_ff": 96, "dim_head": 16}, policy=EAGER),
}  # fmt: skip


def config_of(family: Family) -> Any:
    """Return the configuration of a tiny model of a family."""
    from transformers import AutoConfig

    if family.vision is None:
        return _text_config(family.model_type, family.values)
    text = _text_config(family.text_type, family.values).to_dict()
    more = {"audio_config": None} if family.model_type == "gemma4" else {}
    ids = {name: 10_000 + i for i, name in enumerate(_IMAGE_IDS.get(family.model_type, ()))}
    return AutoConfig.for_model(family.model_type, text_config=text, vision_config=family.vision, **more, **ids)


_IMAGE_IDS = {  # of tokens that no text here contains, and that are never sampled
    "gemma3": ("boi_token_index", "eoi_token_index", "image_token_index"),
    "gemma4": ("boi_token_id", "eoi_token_id", "image_token_id", "audio_token_id", "boa_token_id", "eoa_token_index",
               "video_token_id"),
    "mistral3": ("image_token_index",),
    "qwen3_vl": ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"),
    "qwen3_5": ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"),
}  # fmt: skip


def _text_config(model_type: str, own: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    default = AutoConfig.for_model(model_type)
    same = dict(default.attribute_map)  # other names of sizes -> the family's names
    values = {name: value for name, value in SIZES.items() if name in {*default.to_dict(), *same}}
    values = {name: value for name, value in values.items() if same.get(name) not in own}
    values |= {"vocab_size": 1024, "eos_token_id": 2, "pad_token_id": 0, "bos_token_id": None, **own}
    return AutoConfig.for_model(model_type, **values)


def build(family: Family, folder: Path) -> None:
    """Write a tiny random model of a family and its tokenizer into a folder.

    Raises:
        ValueError: its configuration makes it larger than a tiny model.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

    kind: Any = AutoModelForCausalLM if family.vision is None else AutoModelForImageTextToText
    attention = family.policy.get("attention", "sdpa")
    config = config_of(family)
    with torch.device("meta"):
        count = sum(p.numel() for p in kind.from_config(config_of(family), attn_implementation=attention).parameters())
    if count > 5_000_000:
        raise ValueError(f"{family.model_type} would have {count:,} parameters")
    model = kind.from_config(config, attn_implementation=attention)
    randomise(model)
    model.generation_config.eos_token_id = [2, *ENDS]
    model.save_pretrained(folder)

    AutoTokenizer.from_pretrained(Path(cahl_pl.__file__).parent / "toolworld" / "model").save_pretrained(folder)


def randomise(model: nn.Module, seed: int = 0) -> None:
    """Give matrices normal weights that preserve the scale of activations, and move vectors a little."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "A_log" in name or "dt_bias" in name or not parameter.is_floating_point():
                continue  # decays of a state: random ones would forget, or grow without bound
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                inputs = parameter.shape[-1] if parameter.ndim == 2 else min(parameter.shape[-2:])
                parameter.copy_(1.5 * noise / math.sqrt(max(inputs, 4)))
            else:
                parameter.add_(0.1 * noise)
