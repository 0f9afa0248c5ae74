"""How likely the executor is to make the gold call of a step: what a plan can be paid for without the luck of a draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch

from cahl_pl.engines.base import Completion
from cahl_pl.parsing import format_call
from cahl_pl.policy.logprobs import micro_batches, score
from cahl_pl.policy.policy import Policy
from cahl_pl.prompts import PromptBuilder
from cahl_pl.rollout.episode import make_group
from cahl_pl.types import ToolCall

MAX_TOKENS: Final = 4096
"""Tokens that are read at once; less than a pass over prompts, so that memory has room for it."""


class Due(NamedTuple):
    """A call that is to be made next, and the executor's prompt there."""

    prompt: list[int]
    call: ToolCall


@torch.no_grad()
def call_probabilities(policy: Policy, builder: PromptBuilder, due: Sequence[Due], temperature: float) -> list[float]:
    """Return the probability of each call, written as gold is written: the product over its tokens.

    The executor may write the same call in other ways; their probabilities are not added.

    Args:
        policy: its executor is asked, whatever samples.
        builder: of the prompts.
        due: prompts and calls.
        temperature: at which the executor is sampled; 0 counts as 1.

    Returns:
        Numbers in [0, 1].
    """
    written = [torch.tensor(builder.completion(format_call(one.call))) for one in due]
    groups = [
        make_group(one.prompt, [Completion(ids, torch.zeros(len(ids)), True)], [0.0], [{}], number)
        for number, (one, ids) in enumerate(zip(due, written, strict=True))
    ]
    policy.activate("executor")
    found = [0.0] * len(due)
    for part in micro_batches(policy, groups, MAX_TOKENS):
        scored = score(policy, part, temperature or 1.0)
        sums = scored.logprobs.sum(1).exp().tolist()  # zeros where they are padded
        for sample, probability in zip(part.samples, sums, strict=True):
            found[sample.group.comparison_id] = probability
    return found
