"""Thoughts of sampled outputs: counted, and closed where they grow too long.

A thought that reaches `max_thinking_tokens` is closed with the words of the chat template, and the model continues with its
answer (budget forcing, arXiv 2501.19393). The closing words are not chosen by the policy: like a tool's answer they are left
out of the loss, and the tokens sampled after them are conditioned on them, there as here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from cahl_pl.engines.base import Completion, Engine, Sampling
from cahl_pl.errors import ConfigError
from cahl_pl.policy.policy import Policy
from cahl_pl.prompts import PromptBuilder
from cahl_pl.types import Role


def generate(
    engine: Engine,
    policy: Policy,
    builder: PromptBuilder,
    role: Role,
    prompts: Sequence[Sequence[int]],
    num_samples: int,
    sampling: Sampling,
    generator: torch.Generator,
    drafts: Sequence[Sequence[int]] | None = None,
) -> list[list[Completion]]:
    """Return the engine's samples, with thoughts counted and kept within their limit.

    Args:
        engine: samples tokens.
        policy: holds the base and the adapters.
        builder: tells thoughts from answers.
        role: the adapter to sample from.
        prompts: token ids.
        num_samples: completions per prompt; 1 with drafts.
        sampling: sampling parameters, with the limit if any.
        generator: the only source of randomness.
        drafts: a guess at each completion, or None.

    Raises:
        ConfigError: the limits of thought and completion leave no room for the words that close a thought, or these are
            not known.
    """
    limit, closing = sampling.max_thinking_tokens, builder.end_of_thought
    first = sampling
    if limit is not None:
        if builder.template.hides_thoughts:
            raise ConfigError(
                f"data.rollout.{role}.max_thinking_tokens is {limit}, but the chat template of "
                f"{builder.tokenizer.name_or_path!r} writes thoughts in marks that are not known here, so that none can be "
                "told or closed: leave it out, and turn thinking off in data.prompts.template_arguments if the template can"
            )
        if limit + len(closing) >= sampling.max_new_tokens:
            hint = "; the chat template shows no thoughts; without them, leave max_thinking_tokens out"
            without = "" if builder.template.shows_thoughts else hint
            raise ConfigError(
                f"a thought may have data.rollout.{role}.max_thinking_tokens = {limit} tokens and takes {len(closing)} to be "
                f"closed, which leaves no answer of max_new_tokens = {sampling.max_new_tokens}: raise that, or lower "
                f"max_thinking_tokens{without}"
            )
        first = replace(sampling, max_new_tokens=limit, max_thinking_tokens=None)
    if drafts is None:
        found = engine.generate(policy, role, prompts, num_samples, first, generator)
    else:
        found = engine.generate_from_drafts(policy, role, prompts, drafts, first, generator)
    if limit is not None:
        cut = [(p, i) for p, group in enumerate(found) for i, completion in enumerate(group) if not completion.ended]
        begun = [
            _closed(found[p][i], closing) if builder.breaks_off_in_thought(found[p][i].ids.tolist()) else found[p][i]
            for p, i in cut
        ]
        rests = _rests(engine, policy, role, [prompts[p] for p, _ in cut], begun, sampling, generator)
        for (p, i), start, rest in zip(cut, begun, rests, strict=True):
            found[p][i] = _joined(start, rest, sampling.max_new_tokens)
    count(found, builder)
    return found


def count(found: Sequence[Sequence[Completion]], builder: PromptBuilder) -> None:
    """Record how many tokens of each completion are its thought, without those that closed it."""
    for group in found:
        for completion in group:
            thought = builder.thinking_tokens(completion.ids.tolist())
            mask = completion.sampled
            completion.thinking_tokens = thought if mask is None else int(mask[:thought].sum())


def _closed(begun: Completion, closing: Sequence[int]) -> Completion:
    """Return the beginning of a completion, its thought closed by the part of the closing words not yet written."""
    ids = begun.ids.tolist()
    written = next(n for n in range(len(closing) - 1, -1, -1) if ids[len(ids) - n :] == list(closing[:n]))
    forced = torch.tensor(closing[written:])
    sampled = torch.ones(len(ids) + len(forced), dtype=torch.bool)
    sampled[len(ids) :] = False
    logprobs = torch.cat([begun.logprobs, torch.zeros(len(forced))])
    return Completion(torch.cat([begun.ids, forced]), logprobs, False, sampled)


def _rests(
    engine: Engine,
    policy: Policy,
    role: Role,
    prompts: Sequence[Sequence[int]],
    begun: Sequence[Completion],
    sampling: Sampling,
    generator: torch.Generator,
) -> list[Completion]:
    """Return each beginning's continuation: in one batch or, if the base limits the length, in one per remaining length."""
    room = [sampling.max_new_tokens - len(start.ids) for start in begun]
    batches = sorted(set(room)) if policy.limits_length else [max(room)] if room else []
    rests: dict[int, Completion] = {}
    for left in batches:
        members = [i for i, own in enumerate(room) if own == left or not policy.limits_length]
        found = engine.go_on(
            policy,
            role,
            [prompts[i] for i in members],
            [begun[i].ids.tolist() for i in members],
            replace(sampling, max_new_tokens=left, max_thinking_tokens=None),
            generator,
        )
        rests |= dict(zip(members, found, strict=True))
    return [rests[i] for i in range(len(begun))]


def _joined(begun: Completion, rest: Completion, limit: int) -> Completion:
    ids, logprobs = torch.cat([begun.ids, rest.ids]), torch.cat([begun.logprobs, rest.logprobs])
    sampled = None
    if begun.sampled is not None:
        sampled = torch.cat([begun.sampled, torch.ones(len(rest.ids), dtype=torch.bool)])[:limit]
    return Completion(ids[:limit], logprobs[:limit], rest.ended and len(ids) <= limit, sampled)
