"""The memory that a run takes on one device, from its configuration alone: shapes in, bytes out.

What is counted is what PyTorch holds at the worst moment of each stage: tasks with prompts of `max_prompt_tokens`,
completions of `max_new_tokens`, no prefix in common, and one packed row as long as its micro-batch. The formulas are
those of a decoder with a gated MLP and root mean square norms (Qwen2, Llama, Mistral, SmolLM2) as transformers and PEFT
run it; other layers are taken for such. `tools/check_memory_plan.py` holds them against measured peaks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from cahl_pl.errors import ConfigError
from cahl_pl.logprobs import _CHUNK
from cahl_pl.policy import PolicyConfig, _resolve
from cahl_pl.rollout import RolloutConfig
from cahl_pl.types import ROLES, Role

GIB = 2**30
CONTEXT = int(0.8 * GIB)
"""Assumed, not counted: CUDA's context, its libraries and their workspaces; on a CPU, Python with its libraries."""
FRAGMENTATION = 0.08
"""Assumed: what an allocator holds beyond what is in use, as a share of all that comes and goes."""

_FLOAT32 = 4  # bytes; adapters, their inputs, norms, logits


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
    """What else memory depends on, for one device.

    Attributes:
        quantization: of the base's linear layers.
        dtype_bytes: of a weight that is not quantised, and of an activation.
        gradient_checkpointing: as configured; activated LoRA trains without.
        adapter: `lora` or `alora`.
        attention: `sdpa` or `eager`.
        max_tokens_per_micro_batch: see `CAHLModule`.
        prefix_cache_tokens: see `PolicyConfig`.
        batch_size: see `TransformersEngine`.
        max_prompt_tokens: see `RolloutConfig`.
        samples: role -> completions sampled of a prompt.
        new_tokens: role -> longest completion.
        prompts: role -> prompts of a round that are sampled at the same time, on this device.
        steps: times that the executor is sampled from in a round.
        evaluated: tasks evaluated at once; 0 where nothing is.
    """

    quantization: Literal["none", "nf4"]
    dtype_bytes: int
    gradient_checkpointing: bool
    adapter: Literal["lora", "alora"]
    attention: Literal["sdpa", "eager"]
    max_tokens_per_micro_batch: int
    prefix_cache_tokens: int
    batch_size: int
    max_prompt_tokens: int
    samples: dict[Role, int]
    new_tokens: dict[Role, int]
    prompts: dict[Role, int]
    steps: int = 1
    evaluated: int = 0

    @property
    def checkpoints(self) -> bool:
        """Whether activations are computed again in the backward pass."""
        return self.gradient_checkpointing and self.adapter == "lora"

    def micro_batch_tokens(self, role: Role) -> int:
        """Most tokens of a forward and backward pass: a sequence that is longer than a micro-batch stands alone."""
        return max(self.max_tokens_per_micro_batch, self.max_prompt_tokens + self.new_tokens[role] - 1)


@dataclass(frozen=True)
class Stage:
    """The worst moment of a part of a run.

    Attributes:
        name: of the part.
        parts: what lies in memory then, in bytes.
    """

    name: str
    parts: dict[str, int]

    @property
    def total(self) -> int:
        """Bytes, with the assumed context and fragmentation."""
        return sum(self.parts.values())


# --- the parts ---------------------------------------------------------------------------------------------------------


def nf4_bytes(weights: int) -> int:
    """Bytes of a weight in NF4 with double quantisation (bitsandbytes, blocks of 64).

    Two weights a byte; a byte of scale a block; of 256 scales each, a float32; the offset of the scales; and the two
    tables by which weights (16 float32) and scales (256 float32) are looked up.
    """
    blocks = -(-weights // 64)
    return -(-weights // 2) + blocks + 4 * -(-blocks // 256) + 4 + 4 * 16 + 4 * 256


def base_bytes(shape: ModelShape, settings: Settings) -> int:
    """Bytes of the frozen base: embeddings, norms, biases and the output layer keep their dtype in either case."""
    if settings.quantization == "nf4":
        return sum(map(nf4_bytes, shape.linear)) + shape.others * settings.dtype_bytes
    return (sum(shape.linear) + shape.others) * settings.dtype_bytes


def dequantised_bytes(shape: ModelShape, settings: Settings) -> int:
    """Bytes of the largest weight while it is computed with: written out in the dtype, its scales in float32, twice."""
    if settings.quantization == "none":
        return 0
    largest = max(shape.linear)
    return largest * settings.dtype_bytes + 2 * _FLOAT32 * -(-largest // 64)


def kv_bytes(shape: ModelShape, settings: Settings) -> int:
    """Bytes of the keys and values of a token, all layers."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * settings.dtype_bytes


def saved_bytes(shape: ModelShape, settings: Settings) -> int:
    """Bytes a token that a decoder layer keeps for its backward pass, attention masks and scores apart.

    The two norms compute in float32 and keep their input. Queries, repeated keys and values and the attention's output
    are kept; so are the MLP's gate, the gate's activation and the up projection. Every adapted layer keeps the input
    of its adapter in float32 (a copy for each, unless activations are float32 already) and what comes out of A. All
    other weights are frozen: their inputs are not kept.
    """
    h, i, q, e = shape.hidden, shape.intermediate, shape.query, settings.dtype_bytes
    norms = 2 * _FLOAT32 * (h + 1)
    attention = 4 * e * q + _FLOAT32 * shape.heads
    mlp = 3 * e * i
    inputs = _FLOAT32 * shape.adapted_inputs
    if (
        e == _FLOAT32
    ):  # no copies: queries, keys and values share one input, as do gate and up; the output is kept above
        inputs = min(inputs, _FLOAT32 * (2 * h + i))
    return norms + attention + mlp + inputs + _FLOAT32 * shape.rank * shape.adapted


def mlp_bytes(shape: ModelShape, settings: Settings) -> int:
    """Bytes a token that a decoder layer takes at its worst in the MLP, run without gradient.

    The embeddings, the layer's input, the residual and the normed input; the activation of the gate; and of the up
    projection the base's output, and the adapter's in float32, before and after scaling. A bfloat16 input is also there
    in float32.
    """
    h, i, e = shape.hidden, shape.intermediate, settings.dtype_bytes
    copy = 0 if e == _FLOAT32 else _FLOAT32 * h
    return 4 * e * h + copy + e * i + (e + 2 * _FLOAT32) * i


def attention_bytes(shape: ModelShape, settings: Settings) -> int:
    """Bytes a token that a decoder layer takes in the attention, run without gradient, masks apart.

    The embeddings, the layer's input and the normed input; queries, keys and values, these repeated too, and the output.
    """
    e = settings.dtype_bytes
    return 3 * e * shape.hidden + 4 * e * shape.query + 2 * e * shape.kv_heads * shape.head_dim


def backward_bytes(shape: ModelShape, settings: Settings) -> int:
    """Bytes a token that a layer's backward pass takes beyond what was saved, at its worst.

    Either at the end of the layer's forward pass (with checkpointing it has just been repeated): the MLP's product, and
    the down projection's output, the base's, and the adapter's before and after scaling; the residual and the normed input. Or
    in the backward pass of the MLP: gradients of the width of the MLP, of which the saved product makes room for one.
    """
    h, i, e = shape.hidden, shape.intermediate, settings.dtype_bytes
    product = 0 if e == _FLOAT32 else e * i
    forward = product + (e + 2 * _FLOAT32) * h + (0 if e == _FLOAT32 else 2 * e * h)
    return max(forward, 2 * e * (i + h))


def mask_bytes(
    shape: ModelShape, settings: Settings, tokens: int, seen: int, layers: int = 0, attending: bool = False
) -> int:
    """Bytes of the attention masks [rows, 1, tokens, seen], and of the scores where a kernel does not keep them to itself.

    `sdpa` shares a boolean mask; in each layer it makes a float one of it, which the backward pass needs, and before
    that its negation. `eager` shares a float mask; each layer keeps the weights of all heads, in float32 and in the
    dtype, and makes three copies of the scores.

    Args:
        shape: of the model.
        settings: of the run.
        tokens: padded tokens of all rows.
        seen: columns, the tokens that one may see.
        layers: layers that keep theirs for the backward pass.
        attending: whether a layer is computing its attention.
    """
    places, e = tokens * seen, settings.dtype_bytes
    if settings.attention == "sdpa":
        return places * (1 + e * layers + (e + 1) * attending)
    kept = _FLOAT32 + (0 if e == _FLOAT32 else e)
    return places * (1 + e + shape.heads * (kept * layers + (3 * e + _FLOAT32) * attending))


def score_logits_bytes(shape: ModelShape, tokens: int) -> int:
    """Bytes of a chunk of logits while log-probabilities are taken.

    Four in float32: scaled logits, log-probabilities, and for the entropy probabilities and their product.
    """
    return 4 * _FLOAT32 * min(tokens, _CHUNK) * shape.vocabulary


# --- the stages --------------------------------------------------------------------------------------------------------


def stages(shape: ModelShape, settings: Settings) -> list[Stage]:
    """The worst moments of sampling and of the update, of each role that the run samples from.

    Args:
        shape: of the model.
        settings: of the run.
    """
    found = [_sampling(shape, settings, role, f"sample {role}") for role in settings.prompts]
    if settings.evaluated:
        alone = replace(settings, samples=dict.fromkeys(ROLES, 1), prompts=dict.fromkeys(ROLES, settings.evaluated))
        found.append(max((_sampling(shape, alone, role, "evaluate") for role in ROLES), key=lambda s: s.total))
    return found + [_update(shape, settings, role) for role in settings.prompts]


def _stage(shape: ModelShape, settings: Settings, name: str, parts: dict[str, int]) -> Stage:
    """With what lies there all the time, and what is assumed.

    Both adapters and both moments of AdamW for each are float32. The gradients of the role that stepped last stay until
    the next step.
    """
    fixed = {
        "base": base_bytes(shape, settings),
        "adapters": 2 * _FLOAT32 * shape.adapter,
        "optimiser": 4 * _FLOAT32 * shape.adapter,
        "gradients": _FLOAT32 * shape.adapter,
    }
    assumed = {"fragmentation": int(FRAGMENTATION * sum(parts.values())), "context": CONTEXT}
    return Stage(name, fixed | parts | assumed)


def _parts(
    activations: int = 0, masks: int = 0, logits: int = 0, cache: int = 0, prefixes: int = 0, dequantised: int = 0
) -> dict[str, int]:
    return {
        "activations": activations,
        "attention masks": masks,
        "logits": logits,
        "KV cache": cache,
        "kept prefixes": prefixes,
        "de-quantised weight": dequantised,
    }


def sampling_moments(
    shape: ModelShape, settings: Settings, role: Role, prompt_tokens: int | None = None
) -> list[dict[str, int]]:
    """Four moments of sampling that may be the worst: prompts are read (attention, MLP), laid out, and continued.

    Args:
        shape: of the model.
        settings: of the run.
        role: who samples.
        prompt_tokens: of each prompt; None for `max_prompt_tokens`.

    Returns:
        The parts of each in bytes.
    """
    length = settings.max_prompt_tokens if prompt_tokens is None else prompt_tokens
    samples, e = settings.samples[role], settings.dtype_bytes
    count = min(settings.prompts[role], max(1, settings.batch_size // samples))  # a prompt's samples stay together
    final = length + samples * settings.new_tokens[role]  # columns of a prompt's buffer: its samples lie side by side
    token, tokens = kv_bytes(shape, settings), count * length
    dequantised = dequantised_bytes(shape, settings)
    kept = _prefix_tokens(settings, role, length)
    # all layers' keys and values are there when the last layer runs; these prompts are kept only then
    before = token * min(settings.prefix_cache_tokens, kept - tokens)
    places = 2 * e * shape.head_dim  # cosines and sines of the positions
    attend, read = (
        _parts(tokens * (width + places), masks, cache=tokens * token, prefixes=before, dequantised=dequantised)
        for width, masks in (
            (attention_bytes(shape, settings), mask_bytes(shape, settings, tokens, length, attending=True)),
            (mlp_bytes(shape, settings), mask_bytes(shape, settings, tokens, length)),
        )
    )
    prefixes = token * min(settings.prefix_cache_tokens, kept)
    # the packed keys and values, and the buffers that they are copied to
    laid_out = _parts(cache=(tokens + count * final) * token, prefixes=prefixes)
    # for several new tokens at once, keys and values are repeated for all query heads, a layer at a time
    repeated = shape.heads > shape.kv_heads and (samples > 1 or settings.attention == "eager")
    continued = _parts(
        count * final * 2 * e * shape.query * repeated + count * samples * mlp_bytes(shape, settings),
        count * samples * final + mask_bytes(shape, settings, count * samples, final, attending=True),
        # logits, those of unfinished samples, scaled, log-probabilities, probabilities
        5 * _FLOAT32 * count * samples * shape.vocabulary,
        count * final * token,
        prefixes,
        dequantised,
    )
    return [attend, read, laid_out, continued]


def _prefix_tokens(settings: Settings, role: Role, length: int) -> int:
    """Prompt tokens of a round up to and including the role's: of the executor, those of every step."""
    times = {"planner": 1, "executor": settings.steps}
    roles = list(settings.prompts)
    return sum(settings.prompts[r] * times[r] * length for r in roles[: roles.index(role) + 1])


def _sampling(shape: ModelShape, settings: Settings, role: Role, name: str) -> Stage:
    moments = [_stage(shape, settings, name, parts) for parts in sampling_moments(shape, settings, role)]
    return max(moments, key=lambda stage: stage.total)


def update_moments(
    shape: ModelShape, settings: Settings, tokens: int, row: int, predicted: int | None = None
) -> list[dict[str, int]]:
    """Two moments of a forward and backward pass that may be the worst: a chunk of logits, and a layer's backward pass.

    Args:
        shape: of the model.
        settings: of the run.
        tokens: padded tokens of the micro-batch.
        row: length of its rows.
        predicted: completion tokens among them; None for all.

    Returns:
        The parts of each in bytes.
    """
    e, layers = settings.dtype_bytes, shape.layers
    predicted = tokens if predicted is None else predicted
    saved, alive = saved_bytes(shape, settings), layers
    inputs = 0
    if settings.checkpoints:  # each layer's input, and one layer at a time
        inputs, alive = layers * e * shape.hidden, 1
    # embeddings, cosines and sines; the last norm and its output
    ends = tokens * (e * shape.hidden + 2 * e * shape.head_dim + (_FLOAT32 + e) * shape.hidden)
    # the hidden states that predict something; later their gradients
    chosen = predicted * e * shape.hidden
    alora = settings.adapter == "alora"
    cache = tokens * kv_bytes(shape, settings) if alora else 0  # what the body is run on top of
    prefixes = 0
    if alora:
        kept = _prefix_tokens(settings, list(settings.prompts)[-1], settings.max_prompt_tokens)
        prefixes = kv_bytes(shape, settings) * min(settings.prefix_cache_tokens, kept)
    # sdpa's backward pass makes no further masks
    masks = mask_bytes(shape, settings, tokens, row, alive, attending=settings.attention == "eager")
    return [
        _parts(
            ends + chosen + tokens * (inputs + (0 if settings.checkpoints else layers * saved)),
            mask_bytes(shape, settings, tokens, row, 0 if settings.checkpoints else layers),
            score_logits_bytes(shape, predicted),
            cache,
            prefixes,
        ),
        _parts(
            tokens * (inputs + alive * saved + backward_bytes(shape, settings) + e * shape.hidden),
            masks,
            prefixes=prefixes,
            dequantised=dequantised_bytes(shape, settings),
        ),
    ]


def _update(shape: ModelShape, settings: Settings, role: Role) -> Stage:
    tokens = settings.micro_batch_tokens(role)
    moments = [
        _stage(shape, settings, f"update {role}", parts) for parts in update_moments(shape, settings, tokens, tokens)
    ]
    return max(moments, key=lambda stage: stage.total)


# --- what fits ---------------------------------------------------------------------------------------------------------


def peak(shape: ModelShape, settings: Settings) -> int:
    """Bytes at the worst moment of the run."""
    return max(stage.total for stage in stages(shape, settings))


def largest_micro_batch(shape: ModelShape, settings: Settings, limit: int) -> int | None:
    """The largest `max_tokens_per_micro_batch`, in steps of 256 tokens, whose update fits.

    Args:
        shape: of the model.
        settings: of the run.
        limit: bytes of the device.

    Returns:
        Tokens; None where the longest sequence alone, which is never split, does not fit.
    """

    def fits(tokens: int) -> bool:
        at = replace(settings, max_tokens_per_micro_batch=tokens)
        return all(_update(shape, at, role).total <= limit for role in settings.prompts)

    if not fits(1):
        return None
    low, high = 0, 2**14  # in steps of 256 tokens: up to 4 million
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(256 * middle) else (low, middle)
    return max(1, 256 * low)


def made_to_fit(shape: ModelShape, settings: Settings, limit: int) -> Settings | None:
    """The settings with as little changed as makes the run fit.

    Changes are tried in this order, the mildest first: gradient checkpointing, a smaller micro-batch, fewer completions
    decoded at once, fewer kept prefixes, a base in 4 bits, shorter prompts.

    Args:
        shape: of the model.
        settings: of the run.
        limit: bytes of the device.

    Returns:
        The settings themselves where they fit; None where nothing helps.
    """
    current = settings
    for name, values in _choices(settings):
        current = _largest(shape, current, name, values, limit) or replace(current, **{name: values[-1]})
        if peak(shape, current) <= limit:
            break
    else:
        return None
    for name, values in _choices(settings):  # what a later change has made needless
        current = _largest(shape, current, name, values, limit) or current
    return current


def _choices(settings: Settings) -> Iterator[tuple[str, list[Any]]]:
    """Fields of the settings and their values, from the present one to the one that saves the most."""
    yield "gradient_checkpointing", [settings.gradient_checkpointing, True]
    yield "max_tokens_per_micro_batch", _halves(settings.max_tokens_per_micro_batch, 256)
    yield "batch_size", _halves(settings.batch_size, 1)
    yield "prefix_cache_tokens", [*_halves(settings.prefix_cache_tokens, 1024), 0]
    yield "quantization", [settings.quantization, "nf4"]
    yield "max_prompt_tokens", _halves(settings.max_prompt_tokens, 128)


def _halves(value: int, least: int) -> list[int]:
    values = [value]
    while values[-1] // 2 >= least:
        values.append(values[-1] // 2)
    return values


def _largest(shape: ModelShape, settings: Settings, name: str, values: list[Any], limit: int) -> Settings | None:
    trials = (replace(settings, **{name: value}) for value in values)
    return next((trial for trial in trials if peak(shape, trial) <= limit), None)


_KEYS = {
    "gradient_checkpointing": "--model.policy.gradient_checkpointing",
    "max_tokens_per_micro_batch": "--model.max_tokens_per_micro_batch",
    "batch_size": "--data.engine cahl_pl.engines.TransformersEngine --data.engine.batch_size",
    "prefix_cache_tokens": "--model.policy.prefix_cache_tokens",
    "quantization": "--model.policy.quantization",
    "max_prompt_tokens": "--data.rollout.max_prompt_tokens",
}


def overrides(before: Settings, after: Settings) -> list[str]:
    """What to add to the command line to get from one to the other."""
    changed = [name for name in _KEYS if getattr(before, name) != getattr(after, name)]
    return [f"{_KEYS[name]} {str(getattr(after, name)).lower()}" for name in changed]


# --- from a configuration ----------------------------------------------------------------------------------------------


def shape_of(policy: PolicyConfig) -> ModelShape:
    """The shape of the configured model, counted on the meta device: no weights are read, a `config.json` suffices.

    Raises:
        ConfigError: the model's configuration cannot be found, or is of a kind that cannot be counted.
        PolicyError: `policy.model` names a folder that does not exist.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    gguf = {} if policy.gguf_file is None else {"gguf_file": policy.gguf_file}
    folder = _resolve(replace(policy, gguf_file=None))
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
    batch_size: int,
    devices: int = 1,
    single_level: bool = False,
    evaluated: int = 0,
) -> Settings:
    """The settings of a configuration on one of its devices, among which the tasks of a round are shared out.

    Args:
        policy: base and adapters.
        rollout: group sizes and lengths.
        max_tokens_per_micro_batch: of the update.
        tasks_per_round: over all devices.
        batch_size: of the engine.
        devices: number of processes.
        single_level: the executor works without a planner.
        evaluated: tasks evaluated at once, 0 where nothing is.
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
        batch_size=batch_size,
        max_prompt_tokens=rollout.max_prompt_tokens,
        samples=samples,
        new_tokens={"planner": rollout.planner.max_new_tokens, "executor": rollout.executor.max_new_tokens},
        prompts=prompts,
        steps=rollout.max_steps,
        evaluated=evaluated,
    )
