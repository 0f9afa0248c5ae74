"""Adapters computed in bfloat16: what they compute, that their weights stay float32, and how far training drifts."""

from __future__ import annotations

import pytest
import torch

from cahl_pl.engines import TransformersEngine
from cahl_pl.engines.base import Sampling
from cahl_pl.errors import ConfigError
from cahl_pl.policy.adapter_dtype import LinearInInputDtype
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.policy.logprobs import micro_batches, score
from cahl_pl.policy.lora import check_lora
from cahl_pl.policy.reference import as_reference, keep_reference
from tools.quality.check_bases import groups_of


@pytest.fixture
def policies(make_policy):
    """The same weights, computed in float32, in bfloat16 with adapters in float32, and in bfloat16 altogether."""
    return [
        make_policy(),
        make_policy(dtype="bfloat16"),
        make_policy(dtype="bfloat16", adapter_dtype="bfloat16"),
    ]


def groups():
    made = groups_of(60)
    for group in made:
        group.prompt_ids, group.completion_ids = group.prompt_ids % 250, [ids % 250 for ids in group.completion_ids]
    return made


def scores(policy):
    policy.activate("planner")
    (batch,) = micro_batches(policy, groups(), 4000)
    found = score(policy, batch)
    order = sorted(
        range(len(batch.samples)), key=lambda i: (batch.samples[i].group.comparison_id, batch.samples[i].index)
    )
    advantages = batch.advantages[order]
    return found.logprobs[order], found.mask[order], advantages


def trained(policy, steps=8):
    """By how much log-probabilities change in a few steps on the same samples, in which rounding could build up."""
    optimiser = torch.optim.AdamW(policy.parameters_of("planner"), lr=3e-3, weight_decay=0)
    with torch.no_grad():
        before = scores(policy)[0]
    for _ in range(steps):
        optimiser.zero_grad()
        logprobs, mask, advantages = scores(policy)
        (-(logprobs * mask * advantages[:, None]).sum() / mask.sum()).backward()
        optimiser.step()
    with torch.no_grad():
        return scores(policy)[0] - before


def test_training_drifts_from_float32_no_farther_than_the_base_in_bfloat16_itself(policies):
    exact, mixed, rounded = (trained(policy) for policy in policies)
    moved = exact.norm()
    assert moved > 1  # nats: a difference would be nothing without a movement
    far, farther = (mixed - exact).norm() / moved, (rounded - exact).norm() / moved
    assert farther < 0.1
    assert farther < 3 * far + 0.01
    for policy in policies:
        assert all(p.dtype == torch.float32 for p in policy.parameters_of("planner"))


def test_products_run_in_bfloat16_and_small_updates_are_not_lost(policies):
    *_, rounded = policies
    linear = [m for m in rounded.lm.modules() if isinstance(m, LinearInInputDtype)]
    seen = set()
    for module in linear:
        module.register_forward_hook(lambda module, args, out: seen.update({args[0].dtype, out.dtype}))
    logprobs, mask, _ = scores(rounded)
    assert seen == {torch.bfloat16}
    assert len(linear) == len(rounded.parameters_of("planner")) + len(rounded.parameters_of("executor"))
    (logprobs * mask).sum().backward()
    parameter = next(p for p in rounded.parameters_of("planner") if p.grad is not None and p.grad.abs().max() > 0)
    assert parameter.grad.dtype == torch.float32
    before = parameter.detach().clone()
    with torch.no_grad():
        parameter.add_(1e-5 * parameter)  # far below bfloat16's resolution
    assert not torch.equal(parameter, before)


def test_what_is_sampled_is_what_is_scored(policies):
    *_, rounded = policies
    rounded.activate("planner")
    made = groups()
    prompts = [group.prompt_ids.tolist() for group in made]
    found = TransformersEngine().generate(
        rounded, "planner", prompts, 3, Sampling(1.0, 1.0, 8), torch.Generator().manual_seed(0)
    )
    for group, completions in zip(made, found, strict=True):
        group.completion_ids = [completion.ids for completion in completions]
    with torch.no_grad():
        (batch,) = micro_batches(rounded, made, 4000)
        again = score(rounded, batch)
    for row, sample in zip(again.logprobs, batch.samples, strict=True):
        logprobs = found[sample.group.comparison_id][sample.index].logprobs
        assert (row[: len(logprobs)] - logprobs).abs().mean() < 0.05


def test_a_copy_that_is_made_later_computes_alike(make_policy):
    policy = make_policy(dtype="bfloat16", adapter_dtype="bfloat16")
    policy.activate("planner")
    keep_reference(policy, "planner")
    with torch.no_grad():
        own = scores(policy)[0]
        with as_reference(policy, "planner"):
            (batch,) = micro_batches(policy, groups(), 4000)
            copy = score(policy, batch).logprobs
        torch.testing.assert_close(copy.sum(), own.sum())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, r"base computes in policy\.dtype float32: set both to bfloat16"),
        ({"dtype": "bfloat16", "use_dora": True}, "DoRA's norms are computed in float32"),
    ],
)
def test_where_it_cannot_be_had_one_sentence_says_so(settings, said):
    with pytest.raises(ConfigError, match=said) as error:
        check_lora(PolicyConfig(adapter_dtype="bfloat16", **settings))
    assert "\n" not in str(error.value)
