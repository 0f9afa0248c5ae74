"""Compare computations on a base with plain passes of the model, one sequence each; make the table of docs/bases.md.

    python -m tools.quality.check_bases                   # all families: the table, in a few minutes
    python -m tools.quality.check_bases "Gemma 3" Qwen3   # some of them

Every family is a tiny random model (`random_bases`) with random adapters. Compared are the log-probabilities and gradients
of packed sequences, with and without gradient checkpointing, the log-probabilities of sampled tokens, and greedy tokens
with and without drafts.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cahl_pl  # noqa: F401 - before torch: it decides how torch's threads wait

# isort: split
import torch
from torch import Tensor

from cahl_pl.commands.pipes import reader_may_leave
from cahl_pl.engines import TransformersEngine
from cahl_pl.engines.base import Sampling
from cahl_pl.errors import ConfigError, PolicyError
from cahl_pl.grpo.advantages import advantages
from cahl_pl.policy.bases import length_limit
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.policy.logprobs import micro_batches, score
from cahl_pl.policy.policy import Policy
from cahl_pl.types import Group
from tools.quality.random_bases import FAMILIES, Family, build, config_of

TOLERANCE = 1e-3
"""Nats, and a share of the largest gradient: above float32 rounding in another order of summation, below any fault seen."""

NEW_TOKENS = 10


def texts(seed: int, *lengths: int) -> list[list[int]]:
    """Return random token ids of these lengths, without special tokens."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(10, 800, (length,), generator=generator).tolist() for length in lengths]


def groups_of(longest: int = 100) -> list[Group]:
    """Return groups of completions: prompts that extend one another, one that branches off early, and an unrelated one.

    Args:
        longest: tokens of the longest sequence; the shared prefix is longer than `forward.SHORTEST_TRUNK` from about 90 on.
    """
    shared, later, early, own = texts(0, longest - 24, 8, 5, 9)
    prompts = [shared, shared + later, shared[: len(shared) // 2] + early, own]
    generator = torch.Generator().manual_seed(1)
    groups = []
    for i, prompt in enumerate(prompts):
        completions = [torch.tensor(ids) for ids in texts(10 + i, 6, 2, 9)]
        completions[1] = completions[0][:2]  # one completion may contain another
        rewards = torch.rand(3, generator=generator)
        none = torch.zeros(3).bool()
        groups.append(Group(torch.tensor(prompt), completions, rewards, {}, advantages([rewards])[0], none, i))
    return groups


def plain_logprobs(policy: Policy, prompt: Sequence[int], completion: Sequence[int]) -> Tensor:
    """Return log-probabilities of a completion's tokens by one pass of the whole model over one sequence, [C]."""
    ids = torch.tensor([[*prompt, *completion]])
    logits = policy.lm(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    return torch.log_softmax(logits, -1).gather(-1, ids[0, len(prompt) :, None])[:, 0]


def load(folder: Path, **config: Any) -> Policy:
    """Return a policy on a base, its adapters moved away from zero so that they matter."""
    policy = Policy(PolicyConfig(model=str(folder), lora_rank=4, lora_alpha=8, **config))
    torch.manual_seed(1)
    policy.load()
    with torch.no_grad():
        for name, parameter in policy.lm.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    return policy


def scoring_error(policy: Policy, groups: Sequence[Group], max_tokens: int = 4000) -> float:
    """Return the largest difference from plain passes: of log-probabilities in nats, of gradients relative to the largest."""
    policy.activate("planner")
    named = [(name, p) for name, p in policy.lm.named_parameters() if ".planner." in name]
    policy.lm.zero_grad(set_to_none=True)
    wanted = {}
    for group in groups:
        for i, (ids, advantage) in enumerate(zip(group.completion_ids, group.advantages, strict=True)):
            values = plain_logprobs(policy, group.prompt_ids.tolist(), ids.tolist())
            wanted[group.comparison_id, i] = values.detach()
            (advantage * values.sum()).backward()
    expected = {name: p.grad.clone() for name, p in named if p.grad is not None}
    policy.lm.zero_grad(set_to_none=True)
    policy.prefixes.forget()
    worst = 0.0
    with policy.training_mode():
        for batch in micro_batches(policy, groups, max_tokens):
            scores = score(policy, batch)
            (scores.logprobs * batch.advantages[:, None] * scores.mask).sum().backward()  # type: ignore[no-untyped-call]
            for row, sample in zip(scores.logprobs.detach(), batch.samples, strict=True):
                difference = row[: len(sample.ids)] - wanted[sample.group.comparison_id, sample.index]
                worst = max(worst, float(difference.abs().max().nan_to_num(9e9)))
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, p in named:
        if name in expected or p.grad is not None:
            got, want = (torch.zeros_like(p) if g is None else g for g in (p.grad, expected.get(name)))
            worst = max(worst, float((got - want).abs().max().nan_to_num(9e9)) / largest)
    policy.lm.zero_grad(set_to_none=True)
    policy.prefixes.forget()
    return worst


def sampling_error(policy: Policy, groups: Sequence[Group]) -> float:
    """Return the largest difference in nats between sampled tokens' log-probabilities and those of plain passes."""
    prompts = [group.prompt_ids.tolist() for group in groups]
    policy.prefixes.forget()
    worst = 0.0
    # the second time with kept prefixes, the third time in small parts
    for seed, engine in enumerate((TransformersEngine(), TransformersEngine(), TransformersEngine(4, 60))):
        generator = torch.Generator().manual_seed(seed)
        found = engine.generate(policy, "planner", prompts, 3, Sampling(1.0, 1.0, NEW_TOKENS), generator)
        for prompt, completions in zip(prompts, found, strict=True):
            for completion in completions:
                with torch.no_grad():
                    plain = plain_logprobs(policy, prompt, completion.ids.tolist())
                worst = max(worst, float((completion.logprobs - plain).abs().max().nan_to_num(9e9)))
    policy.prefixes.forget()
    return worst


def greedy_error(policy: Policy, groups: Sequence[Group]) -> float:
    """Return the largest margin in nats of the likeliest token of a plain pass over the one taken, drafted or not."""
    prompts = [group.prompt_ids.tolist() for group in groups]
    greedy, generator, engine = Sampling(0.0, 1.0, NEW_TOKENS), torch.Generator(), TransformersEngine()
    policy.prefixes.forget()
    sampled = engine.generate(policy, "planner", prompts, 1, greedy, generator)
    drafts = [_half_right(completion.ids.tolist()) for (completion,) in sampled]
    drafted = engine.generate_from_drafts(policy, "planner", prompts, drafts, greedy, generator)
    worst = 0.0
    for found in (sampled, drafted):
        for prompt, (completion,) in zip(prompts, found, strict=True):
            ids = torch.tensor([[*prompt, *completion.ids.tolist()]])
            with torch.no_grad():
                logits = policy.lm(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
            taken = logits.gather(-1, completion.ids[:, None])[:, 0]
            worst = max(worst, float((logits.amax(-1) - taken).max().nan_to_num(9e9)))
    policy.prefixes.forget()
    return worst


def _half_right(ids: list[int]) -> list[int]:
    return ids[: len(ids) // 2] + [(token + 1) % 800 for token in ids[len(ids) // 2 :]]


CHECKS = ("scoring", "sampling", "greedy", "checkpointing")


def compare(family: Family, folder: Path) -> dict[str, str]:
    """Return the result of each check of a family: `ok`, the deviation, or the message that refuses it.

    Args:
        family: family of the model in `folder`.
        folder: folder written by `build`.
    """
    said: dict[str, str] = {}
    limit = length_limit(config_of(family))
    longest = 100 if limit is None else min(100, limit.tokens)
    if longest < 100:
        said["length"] = f" (up to its limit of {longest} tokens)"
    for config in ({}, {"gradient_checkpointing": True}):
        checks = {"checkpointing": scoring_error} if config else _CHECKS
        try:
            policy = load(folder, **family.policy, **config)
            policy.activate("planner")
            for check, error in checks.items():
                worst = error(policy, groups_of(longest))
                said[check] = "ok" if worst <= TOLERANCE else f"**off by {worst:.2g}**"
        except (PolicyError, ConfigError) as refusal:
            said["checkpointing" if config else "refused"] = f"refused: {refusal}".replace(str(folder), "model")
        except Exception as error_:  # the table covers all families, whatever happens with one
            said["checkpointing" if config else "refused"] = f"**ends with {type(error_).__name__}: {error_}**"
        if "refused" in said:
            break
    return said


_CHECKS = {"scoring": scoring_error, "sampling": sampling_error, "greedy": greedy_error}


def table(names: Sequence[str]) -> Iterator[str]:
    """Yield the table's lines."""
    yield f"| family | model type | {' | '.join(CHECKS)} |"
    yield "| --- " * (2 + len(CHECKS)) + "|"
    for name in names:
        family = FAMILIES[name]
        with tempfile.TemporaryDirectory() as folder:
            build(family, Path(folder))
            said = compare(family, Path(folder))
        cells = [said["refused"], *[""] * (len(CHECKS) - 1)] if "refused" in said else [said[check] for check in CHECKS]
        cells = [cell.replace("\n", " ").replace("|", "\\|") for cell in cells]
        yield f"| {name}{said.get('length', '')} | `{family.model_type}` | {' | '.join(cells)} |"


@reader_may_leave()
def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", help="names of the table; none: all", default=[])
    names = parser.parse_args().families
    unknown = set(names) - set(FAMILIES)
    if unknown:
        parser.error(f"no family is called {', '.join(sorted(unknown))}: give one of {', '.join(FAMILIES)}")
    from transformers.utils import logging

    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    for line in table(names or list(FAMILIES)):
        print(line, flush=True)


if __name__ == "__main__":
    main()
