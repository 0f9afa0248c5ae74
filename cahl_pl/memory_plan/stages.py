"""The worst moments of a run: memory while tokens are sampled, and while an adapter is updated.

Tasks are assumed to have prompts of `max_prompt_tokens`, completions of `max_new_tokens` and no common prefix, and one packed
row to be as long as its micro-batch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from cahl_pl.memory_plan.parts import (
    FLOAT32,
    attention_bytes,
    backward_bytes,
    base_bytes,
    dequantised_bytes,
    folded_mask_bytes,
    grammar_bytes,
    kv_bytes,
    mask_bytes,
    mlp_bytes,
    rounded_bytes,
    saved_bytes,
    score_logits_bytes,
)
from cahl_pl.memory_plan.shapes import ModelShape, Settings
from cahl_pl.types import ROLES, Role

GIB = 2**30
CONTEXT = int(0.8 * GIB)
"""Assumed, not counted: CUDA's context, its libraries and their workspaces; on a CPU, Python with its libraries."""
FRAGMENTATION = 0.08
"""Assumed: memory that an allocator holds beyond that in use, as a share of all that is allocated and freed."""


@dataclass(frozen=True)
class Stage:
    """The worst moment of a part of a run.

    Attributes:
        name: name of the part.
        parts: contents of memory at that moment, in bytes.
    """

    name: str
    parts: dict[str, int]

    @property
    def total(self) -> int:
        """Sum in bytes, with the assumed context and fragmentation."""
        return sum(self.parts.values())


def stages(shape: ModelShape, settings: Settings) -> list[Stage]:
    """Return the worst moments of sampling, unless a server samples, and of the update, for each role that is sampled from.

    Args:
        shape: the model's shape.
        settings: the run's settings.
    """
    updates = [update_stage(shape, settings, role) for role in settings.prompts]
    if not settings.samples_here:
        return updates
    found = [_sampling(shape, settings, role, f"sample {role}") for role in settings.prompts]
    if settings.evaluated:
        alone = replace(settings, samples=dict.fromkeys(ROLES, 1), prompts=dict.fromkeys(ROLES, settings.evaluated))
        found.append(max((_sampling(shape, alone, role, "evaluate") for role in ROLES), key=lambda s: s.total))
    return found + updates


def _stage(shape: ModelShape, settings: Settings, name: str, parts: dict[str, int]) -> Stage:
    """Return a stage with its parts, what is always in memory, and what is assumed.

    Adapters, references among them, and both moments of AdamW for each of the two that learn are float32. The gradients of
    the role that stepped last stay until the next step.
    """
    fixed = {
        "base": base_bytes(shape, settings),
        "adapters": (2 + settings.references) * FLOAT32 * shape.adapter,
        "optimiser": 4 * FLOAT32 * shape.adapter,
        "gradients": FLOAT32 * shape.adapter,
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
    """Return four moments of sampling that may be the worst: prompts are read (attention, MLP), laid out, and continued.

    Args:
        shape: the model's shape.
        settings: the run's settings.
        role: the role that samples.
        prompt_tokens: tokens of each prompt; None for `max_prompt_tokens`.

    Returns:
        The parts of each in bytes.
    """
    length = settings.max_prompt_tokens if prompt_tokens is None else prompt_tokens
    samples, e = settings.samples[role], settings.dtype_bytes
    count = min(settings.prompts[role], max(1, settings.batch_size // samples))  # a prompt's samples stay together
    new = settings.new_tokens[role]
    # rows and columns of the buffers: the samples of a prompt are side by side, or each follows a copy of it
    rows, final = (count * samples, length + new) if shape.rows_apart else (count, length + samples * new)
    token, tokens = kv_bytes(shape, settings), count * length
    read_tokens = min(tokens, max(settings.max_prefill_tokens // length, 1) * length)  # in one pass
    buffers = rows * final * token
    earlier = buffers if read_tokens < tokens else 0  # the buffers are made after the first pass
    dequantised = dequantised_bytes(shape, settings)
    kept = _prefix_tokens(settings, role, length)
    # prompts are read to the last layer's keys and values (`forward`), and kept then: those of the passes before the last
    before = token * min(settings.prefix_cache_tokens, kept - read_tokens)
    rounded = rounded_bytes(shape, settings, 1)
    places = 2 * e * shape.head_dim  # cosines and sines of the positions
    # a product's weight is in memory before the adapter's output is
    adapted = read_tokens * 2 * settings.adapter_bytes * shape.intermediate
    attend, read = (
        _parts(
            read_tokens * (width + places) + rounded,
            masks,
            cache=read_tokens * token * (shape.layers - 1) // shape.layers + earlier,
            prefixes=before,
            dequantised=weight,
        )
        for width, masks, weight in (
            (
                attention_bytes(shape, settings),
                mask_bytes(shape, settings, read_tokens, length, attending=True),
                dequantised,
            ),
            (
                mlp_bytes(shape, settings),
                mask_bytes(shape, settings, read_tokens, length),
                max(dequantised - adapted, 0),
            ),
        )
    )
    prefixes = token * min(settings.prefix_cache_tokens, kept)
    # the packed keys and values, and the buffers that they are copied to
    laid_out = _parts(cache=read_tokens * token + buffers, prefixes=prefixes)
    # if not folded, keys and values are repeated for all query heads, a layer at a time
    grouped = shape.heads > shape.kv_heads
    repeated = grouped and not shape.folds and (samples > 1 or settings.attention == "eager")
    # one of the other two then replaces FlexAttention: the larger of what they take
    masks = max(
        mask_bytes(shape, at, count * samples, final, attending=True)
        + (folded_mask_bytes(shape, at, count * samples, final) if grouped and shape.folds else 0)
        for at in _while_decoding(settings)
    )
    continued = _parts(
        rows * final * 2 * e * shape.query * repeated + count * samples * mlp_bytes(shape, settings) + rounded,
        count * samples * final + masks,
        # logits, those of unfinished samples, scaled, log-probabilities, probabilities
        5 * FLOAT32 * count * samples * shape.vocabulary + grammar_bytes(shape, settings, count * samples),
        buffers,
        prefixes,
        dequantised,
    )
    return [attend, read, laid_out, continued]


def _while_decoding(settings: Settings) -> list[Settings]:
    if settings.attention != "flex_attention":
        return [settings]
    return [replace(settings, attention="sdpa"), replace(settings, attention="eager")]


def _prefix_tokens(settings: Settings, role: Role, length: int) -> int:
    """Return prompt tokens of a round up to and including the role's; for the executor, those of every step."""
    times = {"planner": 1, "executor": settings.steps}
    roles = list(settings.prompts)
    return sum(settings.prompts[r] * times[r] * length for r in roles[: roles.index(role) + 1])


def _sampling(shape: ModelShape, settings: Settings, role: Role, name: str) -> Stage:
    moments = [_stage(shape, settings, name, parts) for parts in sampling_moments(shape, settings, role)]
    return max(moments, key=lambda stage: stage.total)


def update_moments(
    shape: ModelShape, settings: Settings, tokens: int, row: int, predicted: int | None = None, trunk: int = 0
) -> list[dict[str, int]]:
    """Return two moments of a forward and backward pass that may be the worst: a chunk of logits, and a layer's backward pass.

    Args:
        shape: the model's shape.
        settings: the run's settings.
        tokens: padded tokens of the micro-batch.
        row: length of its rows.
        predicted: completion tokens among them; None for all.
        trunk: tokens of each row that all its members start with, if they are run first (`forward`): they take no mask,
            and their last layer ends with keys and values. With 0, the memory is the most that may be needed.

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
    ends = tokens * (e * shape.hidden + 2 * e * shape.head_dim + (FLOAT32 + e) * shape.hidden)
    # the hidden states that predict something; later their gradients
    chosen = predicted * e * shape.hidden
    alora = settings.adapter == "alora"
    trunk = 0 if settings.checkpoints else trunk
    # keys and values of trunks are kept for their own attention, and again, with those of the rest, for that of the rest
    in_trunks = tokens // row * trunk
    trunks = in_trunks * (kv_bytes(shape, settings) - saved)
    masked = tokens - in_trunks
    cache = tokens * kv_bytes(shape, settings) if alora else 0  # the cache that the body is run on top of
    prefixes = 0
    if alora:
        kept = _prefix_tokens(settings, list(settings.prompts)[-1], settings.max_prompt_tokens)
        prefixes = kv_bytes(shape, settings) * min(settings.prefix_cache_tokens, kept)
    # the backward pass first handles what comes after the trunks, and has finished it when it reaches them
    working = backward_bytes(shape, settings) + e * shape.hidden
    # sdpa's backward pass makes no further masks
    masks = mask_bytes(shape, settings, masked, row, alive, attending=settings.attention == "eager")
    return [
        _parts(
            ends
            + chosen
            + tokens * (inputs + (0 if settings.checkpoints else layers * saved))
            + trunks
            + rounded_bytes(shape, settings, 0 if settings.checkpoints else layers),
            mask_bytes(shape, settings, masked, row, 0 if settings.checkpoints else layers),
            score_logits_bytes(shape, settings, predicted),
            cache,
            prefixes,
        ),
        _parts(
            tokens * (inputs + alive * saved)
            + trunks
            + rounded_bytes(shape, settings, alive)
            + max(masked * working, in_trunks * working - masked * alive * saved),
            masks,
            prefixes=prefixes,
            dequantised=dequantised_bytes(shape, settings),
        ),
    ]


def update_stage(shape: ModelShape, settings: Settings, role: Role) -> Stage:
    """Return the worst moment of a role's update, its micro-batch one row."""
    tokens = settings.micro_batch_tokens(role)
    moments = [
        _stage(shape, settings, f"update {role}", parts) for parts in update_moments(shape, settings, tokens, tokens)
    ]
    return max(moments, key=lambda stage: stage.total)
