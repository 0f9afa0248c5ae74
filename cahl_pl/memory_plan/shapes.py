"""What memory depends on: the shape of the model, and the settings of the run, each read from a configuration."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from cahl_pl.engines import TransformersEngine
from cahl_pl.errors import ConfigError
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.policy.loading import model_folder
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
        others: all other weights: embeddings, output layer (once, if tied), norms, biases.
        adapter: weights of one adapter.
        adapted_inputs: widths of the inputs of the adapted linear layers of one decoder layer, added up.
        adapted: adapted linear layers of one decoder layer.
        rank: of the adapters.
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

    @property
    def query(self) -> int:
        """Width of all query heads."""
        return self.heads * self.head_dim


@dataclass(frozen=True)
class Settings:
    """Settings that memory depends on besides shapes, for one device.

    Attributes:
        quantization: of the base's linear layers.
        dtype_bytes: of a weight that is not quantised, and of an activation.
        gradient_checkpointing: as configured; activated LoRA trains without.
        adapter: `lora` or `alora`.
        attention: `sdpa` or `eager`.
        max_tokens_per_micro_batch: see `CAHLModule`.
        prefix_cache_tokens: see `PolicyConfig`.
        batch_size: see `TransformersEngine`.
        max_prefill_tokens: likewise.
        max_prompt_tokens: see `RolloutConfig`.
        samples: role -> completions sampled of a prompt.
        new_tokens: role -> longest completion.
        prompts: role -> prompts of a round that are sampled at the same time, on this device.
        steps: times that the executor is sampled from in a round.
        evaluated: tasks evaluated at once; 0 where nothing is.
        references: copies of adapters that a KL divergence is taken to (`references_of`).
    """

    quantization: Literal["none", "nf4"]
    dtype_bytes: int
    gradient_checkpointing: bool
    adapter: Literal["lora", "alora"]
    attention: Literal["sdpa", "eager"]
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

    @property
    def checkpoints(self) -> bool:
        """Whether activations are computed again in the backward pass."""
        return self.gradient_checkpointing and self.adapter == "lora"

    def micro_batch_tokens(self, role: Role) -> int:
        """Return most tokens of a forward and backward pass: a sequence that is longer than a micro-batch stands alone."""
        return max(self.max_tokens_per_micro_batch, self.max_prompt_tokens + self.new_tokens[role] - 1)


def shape_of(policy: PolicyConfig) -> ModelShape:
    """Return the shape of the configured model, counted on the meta device: no weights are read, a `config.json` suffices.

    Raises:
        ConfigError: the model's configuration cannot be found, or is of a kind that cannot be counted.
        PolicyError: `policy.model` names a folder that does not exist.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    gguf = {} if policy.gguf_file is None else {"gguf_file": policy.gguf_file}
    folder = model_folder(replace(policy, gguf_file=None))
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=policy.trust_remote_code, **gguf)
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=policy.trust_remote_code)
    except Exception as error:  # transformers raises a dozen types here
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"the configuration of model {policy.model!r} cannot be read ({reason}): give policy.model a hub id that can be "
            "reached, or a folder with the model's config.json"
        ) from error
    text = config.get_text_config()
    output = model.get_output_embeddings()
    linear = [m for m in model.modules() if type(m) is torch.nn.Linear and m is not output]
    total = sum(parameter.numel() for parameter in model.parameters())  # tied ones once
    quantised = tuple(m.weight.numel() for m in linear)
    lora = LoraConfig(r=policy.lora_rank, target_modules=policy.lora_targets, task_type="CAUSAL_LM")
    with torch.device("meta"):
        adapted: Any = get_peft_model(model, lora)
    first = {n: p for n, p in adapted.named_parameters() if "lora_" in n}
    inputs = [p.shape[1] for n, p in first.items() if "lora_A" in n]
    try:
        hidden, heads, layers = text.hidden_size, text.num_attention_heads, text.num_hidden_layers
        return ModelShape(
            hidden=hidden,
            intermediate=getattr(text, "intermediate_size", None) or 4 * hidden,
            layers=layers,
            heads=heads,
            kv_heads=getattr(text, "num_key_value_heads", None) or heads,
            head_dim=getattr(text, "head_dim", None) or hidden // heads,
            vocabulary=text.vocab_size,
            linear=quantised,
            others=total - sum(quantised),
            adapter=sum(p.numel() for p in first.values()),
            adapted_inputs=-(-sum(inputs) // layers),
            adapted=-(-len(inputs) // layers),
            rank=policy.lora_rank,
        )
    except AttributeError as error:
        raise ConfigError(
            f"the memory of a {text.model_type} model cannot be planned ({error}): its configuration names its sizes in "
            "another way than those of Qwen2 and Llama do"
        ) from error


def settings_of(
    policy: PolicyConfig,
    rollout: RolloutConfig,
    max_tokens_per_micro_batch: int,
    tasks_per_round: int,
    engine: TransformersEngine,
    devices: int = 1,
    single_level: bool = False,
    evaluated: int = 0,
    references: int = 0,
) -> Settings:
    """Return the settings of a configuration on one of its devices, among which the tasks of a round are shared out.

    Args:
        policy: base and adapters.
        rollout: group sizes and lengths.
        max_tokens_per_micro_batch: of the update.
        tasks_per_round: over all devices.
        engine: samples.
        devices: number of processes.
        single_level: the executor works without a planner.
        evaluated: tasks evaluated at once, 0 where nothing is.
        references: see `Settings`.
    """
    tasks = -(-tasks_per_round // devices)
    group = {"planner": rollout.planner_group_size, "executor": rollout.executor_group_size}
    samples: dict[Role, int] = {role: group[role] for role in ROLES}
    prompts: dict[Role, int] = {"planner": tasks, "executor": tasks * rollout.planner_group_size}
    if single_level:
        prompts = {"executor": tasks}
    elif rollout.branching == "trajectory":  # as many executions of a plan, each with prompts of its own
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
        batch_size=engine.batch_size,
        max_prefill_tokens=engine.max_prefill_tokens,
        max_prompt_tokens=rollout.max_prompt_tokens,
        samples=samples,
        new_tokens={"planner": rollout.planner.max_new_tokens, "executor": rollout.executor.max_new_tokens},
        prompts=prompts,
        steps=rollout.max_steps,
        evaluated=evaluated,
        references=references,
    )


def references_of(warm_start_rounds: int, weights: Iterable[float]) -> int:
    """Return how many adapters are copied at the end of a warm start, by the roles' weights of the KL divergence."""
    return sum(weight > 0 for weight in weights) if warm_start_rounds else 0
