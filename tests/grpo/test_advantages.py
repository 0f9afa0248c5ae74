"""Advantages against values computed by hand, and what is trained on."""

from __future__ import annotations

import math

import pytest
import torch

from cahl_pl.grpo.advantages import Scoring, advantages, fill_advantages, has_signal, overlong_penalties, scores
from cahl_pl.grpo.config import GRPOConfig
from cahl_pl.grpo.loss import Size
from cahl_pl.grpo.selection import select
from cahl_pl.rollout.pooling import equal_plans
from cahl_pl.types import Group, Plan, SubTask


def group(rewards, lengths=None, comparison_id=0, truncated=None, components=None, alike=None):
    size = len(rewards)
    return Group(
        prompt_ids=torch.arange(3),
        completion_ids=[torch.arange(n) for n in lengths or [1] * size],
        rewards=torch.tensor(rewards),
        components={tag: torch.tensor(values) for tag, values in (components or {}).items()},
        advantages=torch.zeros(size),
        truncated=torch.tensor(truncated or [False] * size),
        comparison_id=comparison_id,
        logprobs=[torch.zeros(n) for n in lengths or [1] * size],
        alike=None if alike is None else torch.tensor(alike),
    )


def filled(groups, weights=None, limit=10, **config):
    signal = fill_advantages(groups, Scoring(GRPOConfig(**{"epsilon": 0.0, **config}), weights or {}, limit))
    return [g.advantages.tolist() for g in groups], signal


def test_group_advantages_by_hand():
    # mean 2, unbiased std sqrt(((1-2)^2 + 0 + (3-2)^2) / 2) = 1
    (a,) = advantages([torch.tensor([1.0, 2.0, 3.0])], "group", epsilon=0.0)
    torch.testing.assert_close(a, torch.tensor([-1.0, 0.0, 1.0]))


def test_scale_none_only_centres():
    (a,) = advantages([torch.tensor([0.0, 1.0])], "none")
    torch.testing.assert_close(a, torch.tensor([-0.5, 0.5]))


def test_batch_scale_divides_by_the_std_of_all_rewards():
    # all rewards 0, 1, 0, 4: mean 1.25, unbiased variance (1.5625 + 0.0625 + 1.5625 + 7.5625) / 3 = 3.5833
    a, b = advantages([torch.tensor([0.0, 1.0]), torch.tensor([0.0, 4.0])], "batch", epsilon=0.0)
    std = math.sqrt(10.75 / 3)
    torch.testing.assert_close(a, torch.tensor([-0.5, 0.5]) / std)
    torch.testing.assert_close(b, torch.tensor([-2.0, 2.0]) / std)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_constant_groups_and_groups_of_one_have_zero_advantage(scale):
    a, b, c = advantages([torch.tensor([0.7] * 3), torch.tensor([5.0]), torch.tensor([0.0, 1.0])], scale)
    assert a.tolist() == [0, 0, 0]
    assert b.tolist() == [0]
    assert c[1] > 0


def test_signal_is_exact():
    assert not has_signal(torch.full((4,), 0.1))
    assert has_signal(torch.tensor([0.1, 0.1 + 1e-7]))


def test_groups_of_the_same_comparison_are_joined():
    # (0, 1, 5) is one comparison: mean 2
    values, signal = filled(
        [group([0.0, 1.0], comparison_id=7), group([5.0], comparison_id=7), group([3.0, 3.0])], scale_rewards="none"
    )
    assert values == [[-2.0, -1.0], [3.0], [0.0, 0.0]]
    assert signal == {7}


def test_pooled_rewards_of_plans_that_ask_for_the_same_calls():
    # the first and the third share the mean (1 + 0) / 2 = 0.5; all: 0.5, 0.2, 0.5, 0.8, mean 0.5
    mixed = group([1.0, 0.2, 0.0, 0.8], alike=[0, 1, 0, 3])
    (values, signal) = filled([mixed], scale_rewards="none", pool_equal_plans=True)
    assert values[0] == pytest.approx([0.0, -0.3, 0.0, 0.3])
    assert signal == {0}
    same = group([0.1, 0.7, 0.4], alike=[0, 0, 0])  # the executor's noise alone
    assert filled([same], scale_rewards="none", pool_equal_plans=True) == ([[0.0, 0.0, 0.0]], set())
    assert filled([same], scale_rewards="none", pool_equal_plans=False) != ([[0.0, 0.0, 0.0]], set())
    assert mixed.rewards.tolist() == pytest.approx([1.0, 0.2, 0.0, 0.8])  # what is logged stays


def test_gdpo_by_hand():
    # first group: a is (0, 1): mean .5, std sqrt(.5), normalised -+.7071; b is (1, 1): 0. Weights 2 and 1: -+1.4142
    # second: a is (3, 3): 0; b is (0, 4): -+.7071. All six: mean 0, variance (2 * 2 + 2 * .5) / 5 = 1
    groups = [
        group([0.0, 0.0], components={"a": [0.0, 1.0], "b": [1.0, 1.0]}),
        group([0.0, 0.0], comparison_id=1, components={"a": [3.0, 3.0], "b": [0.0, 4.0]}),
        group([0.0, 9.0], comparison_id=2, components={"a": [1.0, 1.0], "b": [math.nan, math.nan]}),
    ]
    values, signal = filled(groups, {"a": 2.0}, aggregate_rewards="normalize_then_sum")
    one, two = math.sqrt(2), math.sqrt(0.5)
    assert [*values[0], *values[1], *values[2]] == pytest.approx([-one, one, -two, two, 0, 0])
    assert signal == {0, 1}


def test_a_component_that_is_undefined_for_some_counts_for_the_others():
    # a: (0, -, 2): mean 1, std sqrt(2); the second gets 0 of it
    found = scores(
        [group([0.0] * 3, components={"a": [0.0, math.nan, 2.0]})],
        Scoring(GRPOConfig(aggregate_rewards="normalize_then_sum", epsilon=0.0), {}, 10),
    )
    assert found[0].tolist() == pytest.approx([-math.sqrt(0.5), 0.0, math.sqrt(0.5)])


def test_soft_penalty_of_long_completions_by_hand():
    # limit 10, cache 4: nothing up to 6; 7: -1/4; 9: -3/4; 10: -1
    long = group([0.0] * 5, lengths=[1, 6, 7, 9, 10])
    assert overlong_penalties(long, 10, 4).tolist() == [0.0, 0.0, -0.25, -0.75, -1.0]
    assert overlong_penalties(long, 10, None).tolist() == [0.0, 0.0, 0.0, -0.5, -1.0]  # a fifth: 2
    values, signal = filled(
        [group([1.0, 1.0], lengths=[6, 10])],
        scale_rewards="none",
        truncation="soft",
        overlong_cache=4,
        overlong_penalty=0.5,
    )
    assert values == [[0.25, -0.25]]  # 1 and 0.5
    assert signal == {0}
    normalised, _ = filled(
        [group([1.0, 1.0], lengths=[6, 10], components={"a": [1.0, 1.0]})],
        truncation="soft",
        overlong_cache=4,
        aggregate_rewards="normalize_then_sum",
    )
    assert normalised[0] == pytest.approx([math.sqrt(0.5), -math.sqrt(0.5)])  # of one pair, over its std


def test_groups_without_a_signal_are_left_out_unless_they_have_a_divergence_or_an_entropy():
    groups = [group([0.0, 1.0], [2, 3]), group([1.0, 1.0], [4, 5], comparison_id=1)]
    plain = select(groups, {0}, GRPOConfig())
    assert (plain.groups, plain.size, plain.regularised) == (groups[:1], Size(2, 5), Size(2, 5))
    for config in (GRPOConfig(kl=0.1), GRPOConfig(entropy=0.1)):
        kept = select(groups, {0}, config)
        assert (kept.groups, kept.size, kept.regularised) == (groups, Size(2, 5), Size(4, 14))


def test_masked_completions_are_counted_and_not_trained_on():
    groups = [
        group([0.0, 1.0, 2.0], [2, 9, 3], truncated=[False, True, False], components={"a": [1.0, 2.0, 3.0]}),
        group([0.0, 1.0], [9, 9], comparison_id=1, truncated=[True, True]),
    ]
    fill_advantages(groups, Scoring(GRPOConfig(scale_rewards="none"), {}, 9))
    masked = select(groups, {0, 1}, GRPOConfig(truncation="mask"))
    (left,) = masked.groups
    assert [len(ids) for ids in left.completion_ids] == [2, 3]
    assert [len(values) for values in left.logprobs] == [2, 3]
    assert left.advantages.tolist() == [-1.0, 1.0]  # of all three
    assert left.components["a"].tolist() == [1.0, 3.0]
    assert masked.size == Size(5, 5)
    assert select(groups, {0, 1}, GRPOConfig()).groups == groups  # punished: as they are


def test_plans_that_tell_the_executor_the_same_have_the_same_number():
    one, other = SubTask("first words", "f", {"a": 1, "b": 2}), SubTask("first words ", "f", {"b": 2, "a": 1})
    plans = [
        Plan((one,)),
        Plan((SubTask("other words", "f", {"a": 1, "b": 2}),)),  # the executor reads the words as well
        Plan((other,)),
        Plan((one, one)),
        Plan(error="no plan"),
        Plan(error="no plan"),
        Plan((SubTask("answer", None),)),
        Plan((SubTask("answer", None),)),
    ]
    assert equal_plans(plans[:4]).tolist() == [0, 1, 0, 3]
    assert equal_plans(plans[4:]).tolist() == [0, 1, 2, 2]
    assert equal_plans([]).tolist() == []
