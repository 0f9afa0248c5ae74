"""Fit of a run into memory, and changes that achieve it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from cahl_pl.memory_plan.shapes import ModelShape, Settings
from cahl_pl.memory_plan.stages import Stage, stages, update_stage


def peak(shape: ModelShape, settings: Settings) -> int:
    """Return the bytes at the worst moment of the run."""
    return worst_stage(shape, settings).total


def worst_stage(shape: ModelShape, settings: Settings) -> Stage:
    """Return the stage that takes the most memory."""
    return max(stages(shape, settings), key=lambda stage: stage.total)


def largest_micro_batch(shape: ModelShape, settings: Settings, limit: int) -> int | None:
    """Return the largest `max_tokens_per_micro_batch`, in steps of 256 tokens, whose update fits.

    Args:
        shape: the model's shape.
        settings: the run's settings.
        limit: bytes of the device.

    Returns:
        Tokens; None if even the longest sequence, which is never split, does not fit.
    """

    def fits(tokens: int) -> bool:
        at = replace(settings, max_tokens_per_micro_batch=tokens)
        return all(update_stage(shape, at, role).total <= limit for role in settings.prompts)

    if not fits(1):
        return None
    low, high = 0, 2**14  # in steps of 256 tokens: up to 4 million
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(256 * middle) else (low, middle)
    return max(1, 256 * low)


def made_to_fit(shape: ModelShape, settings: Settings, limit: int) -> Settings | None:
    """Return the settings with only the changes needed to make the run fit.

    Changes are tried in this order, the mildest first: gradient checkpointing, a smaller micro-batch, fewer prompts read in
    one pass, fewer completions decoded at once, fewer kept prefixes, a base in 4 bits, shorter prompts.

    Args:
        shape: the model's shape.
        settings: the run's settings.
        limit: bytes of the device.

    Returns:
        The settings themselves if they fit; None if nothing helps.
    """
    current = settings
    for name, values in _choices(settings):
        current = _largest(shape, current, name, values, limit) or replace(current, **{name: values[-1]})
        if peak(shape, current) <= limit:
            break
    else:
        return None
    for name, values in _choices(settings):  # undo what a later change has made needless
        current = _largest(shape, current, name, values, limit) or current
    return current


def _choices(settings: Settings) -> Iterator[tuple[str, list[Any]]]:
    """Yield fields of the settings and their values, from the current one to the one that saves the most."""
    yield "gradient_checkpointing", [settings.gradient_checkpointing, True]
    yield "max_tokens_per_micro_batch", _halves(settings.max_tokens_per_micro_batch, 256)
    yield "max_prefill_tokens", _halves(settings.max_prefill_tokens, 256)
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
    "max_prefill_tokens": "--data.engine.max_prefill_tokens",
    "batch_size": "--data.engine.batch_size",
    "prefix_cache_tokens": "--model.policy.prefix_cache_tokens",
    "quantization": "--model.policy.quantization",
    "max_prompt_tokens": "--data.rollout.max_prompt_tokens",
}
_ENGINE = "--data.engine cahl_pl.engines.TransformersEngine"  # must be named once before its options


def overrides(before: Settings, after: Settings) -> list[str]:
    """Return the options to add to the command line to get from one to the other."""
    changed = [name for name in _KEYS if getattr(before, name) != getattr(after, name)]
    keys = [f"{_KEYS[name]} {str(getattr(after, name)).lower()}" for name in changed]
    first = next((i for i, key in enumerate(keys) if key.startswith("--data.engine")), None)
    if first is not None:
        keys[first] = f"{_ENGINE} {keys[first]}"
    return keys
