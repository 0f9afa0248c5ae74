"""Sampling of a rollout's outputs: freely, from drafts, or within a grammar."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cahl_pl.engines.base import Completion, Engine, Sampling
from cahl_pl.errors import ConfigError
from cahl_pl.grammars import Grammars
from cahl_pl.grammars.outputs import Output
from cahl_pl.policy.policy import Policy
from cahl_pl.prompts import PromptBuilder, thoughts
from cahl_pl.rollout import thinking
from cahl_pl.types import Role, Task


def ask(
    engine: Engine,
    grammars: Grammars | None,
    output: Output,
    policy: Policy,
    builder: PromptBuilder,
    tasks: Sequence[Task],
    prompts: Sequence[list[int]],
    num_samples: int,
    sampling: Sampling,
    generator: torch.Generator,
    drafts: Sequence[list[int]] | None = None,
) -> list[list[Completion]]:
    """Return completions of each prompt; see `Engine.generate`, `generate_from_drafts` and `generate_within`.

    Args:
        engine: samples tokens.
        grammars: grammars of the outputs, or None.
        output: kind of output.
        policy: base and adapters.
        builder: prompt builder.
        tasks: the prompts' tasks.
        prompts: token ids.
        num_samples: samples per prompt; 1 with drafts.
        sampling: temperature and limits.
        generator: the only source of randomness.
        drafts: guesses at the completions, or None.
    """
    role: Role = "planner" if output == "plan" else "executor"
    if grammars is not None:
        if sampling.max_thinking_tokens is not None or builder.template.marks is not thoughts.PLAIN:
            raise ConfigError(
                "outputs are to follow grammars, which know thoughts in <think> tags alone and do not limit them: leave out "
                f"data.rollout.{role}.max_thinking_tokens, or data.inference.constrained and data.rollout.constrained"
            )
        made = [grammars.of(output, builder, task) for task in tasks]
        none = [()] * len(prompts)
        found = engine.generate_within(policy, role, prompts, drafts or none, made, sampling, generator, num_samples)
        for completions, grammar in zip(found, made, strict=True):
            for completion in completions:
                completion.grammar = grammar
        thinking.count(found, builder)
        return found
    return thinking.generate(engine, policy, builder, role, prompts, num_samples, sampling, generator, drafts)
