"""Shared-prefix log-probabilities and their gradients against one plain forward pass per sample."""

from __future__ import annotations

import pytest
import torch

from cahl_pl.grpo import GRPOConfig, advantages, grpo_loss
from cahl_pl.logprobs import micro_batches, score
from cahl_pl.types import Group


def make_groups(sizes=((7, (3, 5, 1)), (12, (4, 4)), (3, (6, 2, 9, 1)))):
    generator = torch.Generator().manual_seed(0)
    return [
        Group(
            prompt_ids=torch.randint(3, 250, (prompt,), generator=generator),
            completion_ids=[torch.randint(3, 250, (n,), generator=generator) for n in lengths],
            rewards=(rewards := torch.rand(len(lengths), generator=generator)),
            components={},
            advantages=advantages([rewards])[0],
            truncated=torch.zeros(len(lengths), dtype=torch.bool),
            peers=i,
        )
        for i, (prompt, lengths) in enumerate(sizes)
    ]


def naive_logprobs(policy, group, ids, temperature=1.0):
    """One sample, one forward pass, no cache, no padding."""
    sequence = torch.cat([group.prompt_ids, ids])[None]
    logits = policy.lm(input_ids=sequence, use_cache=False).logits[0, len(group.prompt_ids) - 1 : -1]
    return torch.log_softmax(logits / temperature, -1).gather(-1, ids[:, None])[:, 0]


def gradients(policy, role):
    result = [p.grad.clone() for p in policy.parameters_of(role)]
    policy.lm.zero_grad(set_to_none=True)
    return result


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("role", ["planner", "executor"])
@pytest.mark.parametrize("loss_name", ["grpo", "dr_grpo", "dapo", "gspo"])
def test_loss_and_gradients_equal_the_naive_reference(make_policy, role, loss_name, checkpointing):
    policy = make_policy(gradient_checkpointing=checkpointing)
    groups, config = make_groups(), GRPOConfig(loss=loss_name, max_completion_length=9)
    count = sum(len(g.completion_ids) for g in groups)
    tokens = sum(len(ids) for g in groups for ids in g.completion_ids)
    policy.activate(role)

    total = 0.0
    with policy.training_mode():
        for part in micro_batches(groups, 60):
            scores = score(policy, part, 0.8)
            share, _ = grpo_loss(
                scores.logprobs, None, None, torch.cat([g.advantages for g in part]), scores.mask, config, count, tokens
            )
            share.backward()
            total += share.item()
    fast = gradients(policy, role)

    naive = 0.0
    for group in groups:
        for ids, advantage in zip(group.completion_ids, group.advantages, strict=True):
            logprobs = naive_logprobs(policy, group, ids, 0.8)
            ratio = (logprobs - logprobs.detach()).exp()
            if loss_name == "gspo":
                ratio = (logprobs.mean() - logprobs.mean().detach()).exp()[None]
            value = {
                "grpo": ratio.mean() / count,
                "gspo": ratio.mean() / count,
                "dr_grpo": ratio.sum() / (count * 9),
                "dapo": ratio.sum() / tokens,
            }[loss_name]
            naive = naive - advantage * value
    naive.backward()
    assert total == pytest.approx(naive.item(), abs=1e-5)
    for a, b in zip(fast, gradients(policy, role), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_values_and_mask(policy):
    groups = make_groups()
    scores = score(policy, groups)
    row = 0
    for group in groups:
        for ids in group.completion_ids:
            assert scores.mask[row].sum() == len(ids)
            torch.testing.assert_close(
                scores.logprobs[row, : len(ids)], naive_logprobs(policy, group, ids), atol=1e-5, rtol=1e-5
            )
            assert (scores.logprobs[row, len(ids) :] == 0).all()
            assert (scores.entropy[row, : len(ids)] > 0).all()
            row += 1


def test_micro_batches_keep_every_group_once_within_the_budget():
    groups = make_groups()
    parts = list(micro_batches(groups, 40))
    assert sorted(g.peers for part in parts for g in part) == [0, 1, 2]
    assert len(parts) > 1
    assert [len(part) for part in micro_batches(groups, 1_000_000)] == [3]
