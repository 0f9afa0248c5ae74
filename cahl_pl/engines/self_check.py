"""Self-check of a base when it is loaded: its results here are compared with plain passes over single sequences.

That costs a few passes over about 20 tokens. It finds what `bases` does not know: positions or masks that a model takes
from the row, noise in train mode, caches that it uses differently from others. Effects that depend on the length of
sequences stay hidden with so few tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cahl_pl.engines.base import Sampling
from cahl_pl.engines.local import TransformersEngine
from cahl_pl.errors import ConfigError, PolicyError
from cahl_pl.policy.folded_attention import folded_attention
from cahl_pl.policy.forward import run
from cahl_pl.policy.packing import pack
from cahl_pl.policy.policy import Policy

TOLERANCE = {"float32": 0.01, "bfloat16": 0.2}
"""Tolerance by the base's dtype: a share of the norm of hidden states, nats of log-probabilities; a mean over tokens.

Rounding stays far below; in bfloat16 a router may choose another expert for a token.
"""

_TEXT = "A planner splits what is asked into steps, and an executor turns each of these steps into one call of a tool."


def check_computation(policy: Policy) -> None:
    """Compare sampled, packed and recomputed passes with plain ones, all by the active adapter.

    Raises:
        PolicyError: they differ, or the base cannot run them.
    """
    # as in training: while Lightning loads a model, new tensors are on its device unless another is given
    with torch.device("cpu"):
        problem = _difference(policy)
    policy.prefixes.forget()
    if problem is not None:
        raise PolicyError(
            f"the base {_name(policy)} would be trained wrongly: {problem}; choose another base, or set "
            "model.policy.check_base to false to use it all the same"
        )


def _name(policy: Policy) -> str:
    return f"{policy.config.model!r} ({policy.causal_lm.config.get_text_config().model_type})"


@torch.no_grad()
def _difference(policy: Policy) -> str | None:
    """Return one clause on what differs; None if nothing does.

    Raises:
        PolicyError: the base cannot run this way, which no key would change.
    """
    limit = TOLERANCE[policy.config.dtype]
    doing = "sampling"
    try:
        prompts = _prompts(policy)
        # a server samples for a sharded base, and processes that ended a sample earlier than others would wait for ever
        completions, logprobs = _sampled(policy, prompts) if policy.shards == 1 else ([[], []], [])
        doing = "a plain pass"
        sequences = [[*prompt, *ids] for prompt, ids in zip(prompts, completions, strict=True)]
        plain = [_plain(policy, sequence) for sequence in sequences]
        errors = [
            (_logprobs(policy, hidden[len(prompt) - 1 : -1], ids) - own).abs().mean()
            for hidden, prompt, ids, own in zip(plain, prompts, completions, logprobs, strict=policy.shards == 1)
        ]
        if errors and not max(errors) <= limit:
            return f"its log-probabilities while sampling differ from those of plain passes by {max(errors):.2g} nats"
        doing = "a pass over packed sequences"
        if not (off := _packed_error(policy, sequences, plain)) <= limit:
            return f"hidden states of packed sequences differ from those of plain passes by {off:.0%}"
        doing = "a pass that recomputes activations"
        if policy.config.gradient_checkpointing:
            with policy.training_mode(), torch.enable_grad():
                off = _packed_error(policy, sequences, plain)
            if not off <= limit:
                return f"hidden states in train mode (gradient_checkpointing) differ from those of plain passes by {off:.0%}"
    except (ConfigError, PolicyError) as error:
        raise PolicyError(f"the base {_name(policy)} cannot be trained: {error}") from error
    except Exception as error:  # a model that is not made for this may raise anything
        reason = (str(error).strip().splitlines() or [""])[0]
        raise PolicyError(
            f"the base {_name(policy)} cannot be trained: {doing} ends with {type(error).__name__}: {reason}; choose "
            "another base"
        ) from error
    return None


def _prompts(policy: Policy) -> list[list[int]]:
    """Return two prompts with a common start."""
    words = policy.tokenizer(_TEXT, add_special_tokens=False)["input_ids"]
    words = (words * (16 // max(len(words), 1) + 1))[:16] if words else [*range(3, 19)]
    return [words[:11], [*words[:6], *words[11:14]]]


def _sampled(policy: Policy, prompts: list[list[int]]) -> tuple[list[list[int]], list[Tensor]]:
    """Return a completion of each prompt, sampled alongside another one, and its log-probabilities."""
    generator = torch.Generator().manual_seed(0)
    found = TransformersEngine().sample(policy, prompts, [0, 0], 2, Sampling(1.0, 1.0, 3), generator)
    last = [completions[-1] for completions in found]
    return [c.ids.tolist() for c in last], [c.logprobs for c in last]


def _plain(policy: Policy, sequence: Sequence[int]) -> Tensor:
    """Return hidden states of one sequence by itself, [L, H]."""
    ids = torch.tensor([sequence], device=policy.device)
    with folded_attention(policy.decoder):  # no FlexAttention: it would be compiled for so few tokens
        hidden: Tensor = policy.decoder(input_ids=ids, use_cache=False).last_hidden_state[0]
    return hidden.float()


def _logprobs(policy: Policy, hidden: Tensor, ids: Sequence[int]) -> Tensor:
    logprobs = torch.log_softmax(policy.logits(hidden.to(policy.causal_lm.dtype)), -1).cpu()
    return logprobs.gather(-1, torch.tensor(ids)[:, None])[:, 0]


def _packed_error(policy: Policy, sequences: Sequence[Sequence[int]], plain: Sequence[Tensor]) -> float:
    """Return the error of packed sequences' hidden states, as a share of their norm: the mean of the worst sequence."""
    rows = pack(sequences, policy.hidden_size, 1000, share=policy.shares_rows)
    result = run(policy, rows)
    worst = 0.0
    for r, row in enumerate(rows):
        for member, path in zip(row.members, row.paths, strict=True):
            places = torch.from_numpy(result.columns[r][path] - result.width).to(policy.device)
            hidden, expected = result.hidden[r, places].detach().float(), plain[member]
            share = (hidden - expected).norm(dim=-1) / expected.norm(dim=-1).clamp_min(1e-6)
            worst = max(worst, float(share.mean().nan_to_num(float("inf"))))
    return worst
