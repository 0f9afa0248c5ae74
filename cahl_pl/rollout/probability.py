"""Probability that the executor makes the gold call of a step: a plan's reward without the luck of a draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch

from cahl_pl.engines.base import Completion
from cahl_pl.policy.logprobs import micro_batches, score
from cahl_pl.policy.policy import Policy
from cahl_pl.prompts import PromptBuilder
from cahl_pl.rollout.calls import call_ids
from cahl_pl.rollout.episode import make_group
from cahl_pl.types import ToolCall

MAX_TOKENS: Final = 4096
"""Tokens of one forward pass; fewer than in a pass over prompts, so that it fits in memory."""


class Due(NamedTuple):
    """Call to be made next, and the executor's prompt there."""

    prompt: list[int]
    call: ToolCall


@torch.no_grad()
def call_probabilities(policy: Policy, builder: PromptBuilder, due: Sequence[Due], temperature: float) -> list[float]:
    """Return the probability of each call as gold data writes it: the product over its tokens.

    The executor may write the same call in other ways; their probabilities are not added.

    Args:
        policy: policy whose executor is used, whichever engine samples.
        builder: prompt builder.
        due: prompts and calls.
        temperature: sampling temperature of the executor; 0 counts as 1.

    Returns:
        Numbers in [0, 1].
    """
    written = [torch.tensor(call_ids(builder, [one.call], ())) for one in due]
    groups = [
        make_group(one.prompt, [Completion(ids, torch.zeros(len(ids)), True)], [0.0], [{}], number)
        for number, (one, ids) in enumerate(zip(due, written, strict=True))
    ]
    policy.activate("executor")
    found = [0.0] * len(due)
    for part in micro_batches(policy, groups, MAX_TOKENS):
        scored = score(policy, part, temperature or 1.0)
        sums = scored.logprobs.sum(1).exp().tolist()  # zeros at padding
        for sample, probability in zip(part.samples, sums, strict=True):
            found[sample.group.comparison_id] = probability
    return found
