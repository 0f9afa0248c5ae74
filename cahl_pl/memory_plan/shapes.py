"""Inputs of the memory plan: the shape of the model and the settings of the run, each read from a configuration."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from cahl_pl.engines import TransformersEngine
from cahl_pl.errors import ConfigError
from cahl_pl.policy.bases import auto_class, check_length, decoder_of, expert_weights, forget_unread, keeps_states
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.policy.folded_attention import is_foldable
from cahl_pl.policy.loading import read_config
from cahl_pl.policy.lora import lora_config, with_adapter
from cahl_pl.policy.masks import MASKED, layer_types
from cahl_pl.policy.noise import layers_of
from cahl_pl.rollout.config import RolloutConfig
from cahl_pl.types import ROLES, Role


@dataclass(frozen=True)
class ModelShape:
    """A base and its adapters, in weights.

    Attributes:
        hidden: width of the model.
        intermediate: width of the MLP.
        layers: decoder layers.
        heads: query heads.
        kv_heads: key and value heads.
        head_dim: width of a head.
        vocabulary: rows of the output layer.
        linear: weights of every linear layer but the output layer: those that bitsandbytes quantises.
        others: all other weights: embeddings, output layer (once, if tied), norms, biases, experts.
        adapter: weights of one adapter.
        adapted_inputs: widths of the inputs of the adapted linear layers of one decoder layer, added up.
        adapted: adapted linear layers of one decoder layer.
        rank: rank of the adapters.
        experts: those of `others` that are experts in one tensor, which bitsandbytes does not quantise.
        masks: types of attention layers, each with its own mask.
        rows_apart: whether each sample has a copy of its prompt's keys and values, since layers carry states.
        folds: whether attention while decoding is folded (`policy.folded_attention`), and repeats no keys and values.
        layer_linear: those of `linear` that are in the largest decoder layer, added up.
        layer_others: those of `others` there.
        output: weights of the output layer, which a sharded base gathers.
        whole: those of `others` that each process of a sharded base keeps whole (`policy.sharding`).
    """

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    linear: tuple[int, ...]
    others: int
    adapter: int
    adapted_inputs: int
    adapted: int
    rank: int
    experts: int = 0
    masks: int = 1
    rows_apart: bool = False
    folds: bool = True
    layer_linear: int = 0
    layer_others: int = 0
    output: int = 0
    whole: int = 0

    @property
    def query(self) -> int:
        """Width of all query heads."""
        return self.heads * self.head_dim


@dataclass(frozen=True)
class Settings:
    """Settings that memory depends on besides shapes, for one device.

    Attributes:
        quantization: quantisation of the base's linear layers.
        dtype_bytes: bytes of a weight that is not quantised, and of an activation.
        gradient_checkpointing: the configured value; activated LoRA trains without.
        adapter: `lora` or `alora`.
        attention: see `PolicyConfig`.
        max_tokens_per_micro_batch: see `CAHLModule`.
        prefix_cache_tokens: see `PolicyConfig`.
        batch_size: see `TransformersEngine`.
        max_prefill_tokens: likewise.
        max_prompt_tokens: see `RolloutConfig`.
        samples: role -> completions sampled from a prompt.
        new_tokens: role -> longest completion.
        prompts: role -> prompts of a round that are sampled at the same time, on this device.
        steps: times that the executor is sampled from in a round.
        evaluated: tasks evaluated at once; 0 if none are.
        references: copies of adapters that a KL divergence is taken to (`references_of`).
        adapter_bytes: bytes of a number while adapters are computed.
        constrained: see `RolloutConfig`.
        shards: processes that the base is sharded over; 1: it is whole.
        samples_here: whether this process samples; otherwise a server does.
    """

    quantization: Literal["none", "nf4"]
    dtype_bytes: int
    gradient_checkpointing: bool
    adapter: Literal["lora", "alora"]
    attention: Literal["sdpa", "eager", "flex_attention"]
    max_tokens_per_micro_batch: int
    prefix_cache_tokens: int
    batch_size: int
    max_prefill_tokens: int
    max_prompt_tokens: int
    samples: dict[Role, int]
    new_tokens: dict[Role, int]
    prompts: dict[Role, int]
    steps: int = 1
    evaluated: int = 0
    references: int = 0
    adapter_bytes: int = 4
    constrained: bool = False
    shards: int = 1
    samples_here: bool = True

    @property
    def checkpoints(self) -> bool:
        """Return whether activations are recomputed in the backward pass."""
        return self.gradient_checkpointing and self.adapter == "lora"

    def micro_batch_tokens(self, role: Role) -> int:
        """Return the most tokens of a forward and backward pass: a sequence longer than a micro-batch has its own pass."""
        return max(self.max_tokens_per_micro_batch, self.max_prompt_tokens + self.new_tokens[role] - 1)


def shape_of(policy: PolicyConfig, longest: int = 0) -> ModelShape:
    """Return the shape of the configured model, counted on the meta device: no weights are read, a `config.json` suffices.

    Args:
        policy: base and adapters.
        longest: tokens of the longest sequence; 0 if not known.

    Raises:
        ConfigError: sequences may become too long for the base, or it is of a kind that cannot be counted.
        PolicyError: the model cannot be found or used (`read_config`), or cannot carry adapters.
    """
    config = read_config(policy, converts=False)
    check_length(config, policy.model, longest)
    try:
        with torch.device("meta"):
            model: Any = auto_class(config).from_config(config, trust_remote_code=policy.trust_remote_code)
    except Exception as error:  # transformers raises a dozen types here
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"the configuration of model {policy.model!r} cannot be read ({reason}): give policy.model a hub id that can be "
            "reached, or a folder with the model's config.json"
        ) from error
    forget_unread(model)
    text = config.get_text_config()
    output = model.get_output_embeddings()
    linear = [m for m in model.modules() if type(m) is torch.nn.Linear and m is not output]
    total = sum(parameter.numel() for parameter in model.parameters())  # tied ones once
    experts = expert_weights(model)
    quantised = tuple(m.weight.numel() for m in linear)
    with torch.device("meta"):
        adapted = with_adapter(policy, model, lora_config(policy, model))
    first = {n: p for n, p in adapted.named_parameters() if "lora_" in n}
    inputs = [p.shape[1] for n, p in first.items() if "lora_A" in n]
    try:
        hidden, heads, layers = text.hidden_size, text.num_attention_heads, text.num_hidden_layers
        return ModelShape(
            hidden=hidden,
            intermediate=_widest(text, "intermediate_size") or 4 * hidden,
            layers=layers,
            heads=heads,
            kv_heads=_widest(text, "num_key_value_heads") or heads,
            head_dim=_widest(text, "head_dim") or hidden // heads,
            vocabulary=text.vocab_size,
            linear=quantised,
            others=total - sum(quantised),
            adapter=sum(p.numel() for p in first.values()),
            adapted_inputs=-(-sum(inputs) // layers),
            adapted=-(-len(inputs) // layers),
            rank=policy.lora_rank,
            experts=experts,
            masks=max(1, len(MASKED.intersection(layer_types(text)))),
            rows_apart=keeps_states(config),
            folds=is_foldable(decoder_of(model)),
            **_sharded(model, {id(m.weight) for m in linear}),
        )
    except AttributeError as error:
        raise ConfigError(
            f"the memory of a {text.model_type} model cannot be planned ({error}): its configuration names its sizes in "
            "another way than those of Qwen2 and Llama do"
        ) from error


def _sharded(model: Any, linear: set[int]) -> dict[str, int]:
    """Return the fields of `ModelShape` for planning a sharded base.

    Args:
        model: the model on the meta device, with an adapter.
        linear: ids of the weights of its linear layers.
    """

    def sizes(module: Any) -> tuple[int, int]:
        own = [p for name, p in module.named_parameters() if "lora_" not in name]
        quantised = sum(p.numel() for p in own if id(p) in linear)
        return quantised, sum(p.numel() for p in own) - quantised

    layer_linear, layer_others = max(map(sizes, layers_of(decoder_of(model))), key=sum, default=(0, 0))
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    adapted = [end for end in ends if any("lora_" in name for name, _ in end.named_parameters())]
    whole = {id(p): p.numel() for end in adapted for name, p in end.named_parameters() if "lora_" not in name}
    return {
        "layer_linear": layer_linear,
        "layer_others": layer_others,
        "output": sum(p.numel() for name, p in ends[1].named_parameters() if "lora_" not in name and id(p) not in whole),
        "whole": sum(whole.values()),
    }


def _widest(config: Any, name: str) -> int:
    """Return the largest value of a size over all layers; 0 if the configuration does not name it."""
    try:
        sizes = [getattr(config, name, None)]
    except RuntimeError:  # it differs between layers (Gemma 4)
        sizes = [getattr(layer, name, None) for layer in config.per_layer_config]
    numbers = [max(size) if isinstance(size, list | tuple) else size or 0 for size in sizes]
    return max(numbers)


def settings_of(
    policy: PolicyConfig,
    rollout: RolloutConfig,
    max_tokens_per_micro_batch: int,
    tasks_per_round: int,
    engine: TransformersEngine | None,
    devices: int = 1,
    single_level: bool = False,
    evaluated: int = 0,
    references: int = 0,
) -> Settings:
    """Return the settings of a configuration on one of its devices, which share the tasks of a round.

    Args:
        policy: base and adapters.
        rollout: group sizes and lengths.
        max_tokens_per_micro_batch: tokens of the update.
        tasks_per_round: number over all devices.
        engine: the engine that samples; None if a server does.
        devices: number of processes, over which the base is sharded if at all.
        single_level: whether the executor works without a planner.
        evaluated: tasks evaluated at once, 0 if none are.
        references: see `Settings`.
    """
    batches = engine or TransformersEngine()
    tasks = -(-tasks_per_round // devices)
    group = {"planner": rollout.planner_group_size, "executor": rollout.executor_group_size}
    samples: dict[Role, int] = {role: group[role] for role in ROLES}
    prompts: dict[Role, int] = {"planner": tasks, "executor": tasks * rollout.planner_group_size}
    if single_level:
        prompts = {"executor": tasks}
    elif rollout.branching == "trajectory":  # as many executions of a plan, each with its own prompts
        prompts["executor"] *= samples["executor"]
        samples["executor"] = 1
    return Settings(
        quantization=policy.quantization or "none",
        dtype_bytes=getattr(torch, policy.dtype).itemsize,
        gradient_checkpointing=policy.gradient_checkpointing,
        adapter=policy.adapter,
        attention=policy.attention,
        max_tokens_per_micro_batch=max_tokens_per_micro_batch,
        prefix_cache_tokens=policy.prefix_cache_tokens,
        batch_size=batches.batch_size,
        max_prefill_tokens=batches.max_prefill_tokens,
        max_prompt_tokens=rollout.max_prompt_tokens,
        samples=samples,
        new_tokens={"planner": rollout.planner.max_new_tokens, "executor": rollout.executor.max_new_tokens},
        prompts=prompts,
        steps=rollout.max_steps,
        evaluated=evaluated,
        references=references,
        adapter_bytes=getattr(torch, policy.adapter_dtype).itemsize,
        constrained=rollout.constrained,
        shards=devices if policy.shard_base else 1,
        samples_here=engine is not None,
    )


def references_of(policy: PolicyConfig, warm_start_rounds: int, weights: Iterable[float]) -> int:
    """Return the number of adapters copied, from a folder or at the end of a warm start, by the roles' KL weights."""
    return sum(weight > 0 for weight in weights) if warm_start_rounds or policy.adapters is not None else 0
