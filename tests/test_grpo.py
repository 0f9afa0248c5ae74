"""Advantages and losses against values computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from cahl_pl.advantages import advantages, has_signal
from cahl_pl.grpo import LossStats, Size, grpo_loss
from cahl_pl.grpo_config import GRPOConfig


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


def loss_of(config, logprobs, old, advantage, mask, reference=None):
    mask = torch.tensor(mask)
    loss, stats = grpo_loss(
        torch.tensor(logprobs, requires_grad=True),
        None if old is None else torch.tensor(old),
        None if reference is None else torch.tensor(reference),
        torch.tensor(advantage),
        mask,
        config,
        Size(len(mask), int(mask.sum())),
    )
    return loss.item(), stats


MASK = [[True, True, True], [True, False, False]]
LOGPROBS = [[0.1, 0.2, 0.3], [0.4, 9.0, 9.0]]  # the 9.0 are padding and must not count
OLD = [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # ratios e^.1, e^.2 (clipped at 1.2), e^.3 (clipped) with A = 1; e^.4 with A = -1 is not clipped
        ("grpo", (-(math.exp(0.1) + 1.2 + 1.2) / 3 + math.exp(0.4)) / 2),
        ("dapo", (-(math.exp(0.1) + 1.2 + 1.2) + math.exp(0.4)) / 4),
        ("dr_grpo", (-(math.exp(0.1) + 1.2 + 1.2) + math.exp(0.4)) / (2 * 10)),
        # sequence ratios: e^mean(.1 .2 .3) = e^.2 = 1.2214, clipped at 1.2; e^.4
        ("gspo", (-1.2 + math.exp(0.4)) / 2),
    ],
)
def test_losses_by_hand(name, expected):
    config = GRPOConfig(loss=name, max_completion_length=10)
    loss, stats = loss_of(config, LOGPROBS, OLD, [1.0, -1.0], MASK)
    assert loss == pytest.approx(expected, abs=1e-6)
    assert stats.tokens == 4


def test_clip_higher_lets_likely_tokens_grow_further():
    low, _ = loss_of(GRPOConfig(clip_high=0.2), [[0.25]], [[0.0]], [1.0], [[True]])
    high, stats = loss_of(GRPOConfig(clip_high=0.28), [[0.25]], [[0.0]], [1.0], [[True]])
    assert low == pytest.approx(-1.2)
    assert high == pytest.approx(-1.28)  # e^.25 = 1.284
    assert (stats.high, stats.low) == (1, 0)


def test_kl_is_the_k3_estimate():
    d = -1.5 - -1.0
    loss, stats = loss_of(GRPOConfig(kl=0.1), [[-1.0]], None, [0.0], [[True]], reference=[[-1.5]])
    assert stats.kl == pytest.approx(math.exp(d) - d - 1)
    assert loss == pytest.approx(0.1 * (math.exp(d) - d - 1))


def test_on_policy_gradient_is_the_policy_gradient():
    logprobs = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    loss, _ = grpo_loss(logprobs, None, None, torch.tensor([2.0]), torch.tensor([[True, True]]), GRPOConfig(), Size(1, 2))
    loss.backward()
    torch.testing.assert_close(logprobs.grad, torch.tensor([[-1.0, -1.0]]))  # -A / length


def test_shares_of_micro_batches_add_up():
    torch.manual_seed(0)
    logprobs, old, mask = torch.randn(4, 5), torch.randn(4, 5), torch.rand(4, 5) > 0.3
    advantage = torch.randn(4)
    for name in ("grpo", "dr_grpo", "dapo", "gspo"):
        config, total = GRPOConfig(loss=name), int(mask.sum())
        whole, _ = grpo_loss(logprobs, old, None, advantage, mask, config, Size(4, total))
        parts = [
            grpo_loss(logprobs[i], old[i], None, advantage[i], mask[i], config, Size(4, total))[0]
            for i in ([0], [1, 2, 3])
        ]
        torch.testing.assert_close(whole, sum(parts))


ENGINE = [[-1.5, -1.9, 7.0]]  # trainer minus engine: 0.5 and -0.1; the third token is padding


def weighed(cap, kl=0.0):
    logprobs = torch.tensor([[-1.0, -2.0, -3.0]], requires_grad=True)
    mask, reference = torch.tensor([[True, True, False]]), torch.tensor([[-1.3, -2.0, 0.0]])
    config = GRPOConfig(importance_cap=cap, kl=kl)
    loss, stats = grpo_loss(
        logprobs, None, reference, torch.tensor([2.0]), mask, config, Size(1, 2), engine_logprobs=torch.tensor(ENGINE)
    )
    loss.backward()
    return loss.item(), logprobs.grad[0].tolist(), stats


def test_importance_weights_are_truncated_and_multiply_each_token():
    loss, gradient, stats = weighed(1.5)  # e^0.5 = 1.649 is truncated, e^-0.1 = 0.905 is not
    assert loss == pytest.approx(-(2 * 1.5 + 2 * math.exp(-0.1)) / 2)
    assert gradient == pytest.approx([-1.5, -math.exp(-0.1), 0.0])  # -A w / length
    assert (stats.gap, stats.gap_max, stats.capped) == (pytest.approx(0.6), pytest.approx(0.5), 1)


def test_without_a_cap_the_gap_is_measured_and_changes_nothing():
    loss, gradient, stats = weighed(None)
    assert loss == -2
    assert gradient == [-1, -1, 0]
    assert (stats.gap, stats.gap_max, stats.capped) == (pytest.approx(0.6), pytest.approx(0.5), 0)
    total = LossStats(gap=1.0, gap_max=0.7)
    total.add(stats)
    assert (total.gap, total.gap_max) == (pytest.approx(1.6), pytest.approx(0.7))


def test_the_kl_term_is_not_weighed():
    k3 = math.exp(-0.3) + 0.3 - 1  # of the first token; the second has the reference's log-probability
    assert weighed(1.5, kl=0.1)[0] - weighed(1.5)[0] == pytest.approx(0.1 * k3 / 2, rel=1e-4)


def test_bad_values_are_refused():
    with pytest.raises(ValueError, match="clip_low"):
        GRPOConfig(clip_low=0.0)
    with pytest.raises(ValueError, match="importance_cap must be above 0"):
        GRPOConfig(importance_cap=0.0)
