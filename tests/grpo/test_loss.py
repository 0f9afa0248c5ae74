"""Losses and their gradients against values computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from cahl_pl.grpo.config import GRPOConfig
from cahl_pl.grpo.loss import LossStats, Size, grpo_loss


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
        # sequence ratios: e^mean(.1 .2 .3) = e^.2 = 1.2214, clipped at 1.0004; e^.4
        ("gspo", (-1.0004 + math.exp(0.4)) / 2),
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


KL_BY_HAND = {  # d = -1.5 - -1.0 = -0.5; value, then the gradient by log pi, on policy, as estimated and corrected
    "k1": (0.5, None, 0.5 + 1),  # -d; its own gradient, 1, is refused; times the ratio: -d + 1
    "k2": (0.125, 0.5, 0.5),  # d^2 / 2; -d, and the ratio's value is 1
    # e^d - d - 1 = 0.10653; 1 - e^d = 0.39347; times the ratio: their sum, -d
    "k3": (math.exp(-0.5) - 0.5, 1 - math.exp(-0.5), 0.5),
}


@pytest.mark.parametrize("corrected", [True, False])
@pytest.mark.parametrize("estimator", KL_BY_HAND)
def test_kl_estimates_and_their_gradients_by_hand(estimator, corrected):
    value, own, unbiased = KL_BY_HAND[estimator]
    options = {"kl": 0.1, "kl_estimator": estimator, "kl_bias_correction": corrected}
    if own is None and not corrected:
        with pytest.raises(ValueError, match="k1 without kl_bias_correction"):
            GRPOConfig(**options)
        return
    logprobs = torch.tensor([[-1.0]], requires_grad=True)
    loss, stats = grpo_loss(
        logprobs,
        None,
        torch.tensor([[-1.5]]),
        torch.zeros(1),
        torch.tensor([[True]]),
        GRPOConfig(**options),
        Size(1, 1),
    )
    loss.backward()
    assert stats.kl == pytest.approx(value)
    assert loss.item() == pytest.approx(0.1 * value)
    assert logprobs.grad.item() == pytest.approx(0.1 * (unbiased if corrected else own))


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_the_corrected_gradient_is_that_of_the_divergence_itself(estimator):
    """Over all three tokens of a distribution, each as often as it is sampled: exact, nothing is drawn."""
    logits = torch.tensor([0.3, -0.4, 0.9], dtype=torch.float64, requires_grad=True)
    reference = torch.log_softmax(torch.tensor([0.1, 0.5, -0.6], dtype=torch.float64), 0)
    logprobs = torch.log_softmax(logits, 0)
    (exact,) = torch.autograd.grad((logprobs.exp() * (logprobs - reference)).sum(), logits)
    old = torch.log_softmax(torch.tensor([0.0, 0.2, 0.4], dtype=torch.float64), 0)  # the policy that sampled
    for sampler in (None, old):
        logprobs = torch.log_softmax(logits, 0)
        weights = (logprobs if sampler is None else sampler).exp().detach()
        total = 0
        for token in range(3):
            loss, _ = grpo_loss(
                logprobs[token].view(1, 1),
                None if sampler is None else sampler[token].view(1, 1),
                reference[token].view(1, 1),
                torch.zeros(1, dtype=torch.float64),
                torch.tensor([[True]]),
                GRPOConfig(kl=1.0, kl_estimator=estimator),
                Size(1, 1),
            )
            total = total + weights[token] * loss
        (gradient,) = torch.autograd.grad(total, logits)
        torch.testing.assert_close(gradient, exact)


def test_kl_and_entropy_are_means_over_all_groups_and_the_policy_gradient_over_those_with_a_signal():
    mask = torch.tensor([[True, True], [True, False]])
    logprobs = torch.tensor([[-1.0, -1.0], [-2.0, 5.0]], requires_grad=True)
    loss, _ = grpo_loss(
        logprobs,
        None,
        torch.tensor(
            [[-1.0, -1.0], [-2.5, 0.0]]
        ),  # k3 is 0 in the first, e^-.5 - .5 in the second, which has no signal
        torch.tensor([2.0, 0.0]),
        mask,
        GRPOConfig(kl=0.1, entropy=0.01, loss="grpo"),
        Size(1, 2),
        entropy=torch.tensor([[0.5, 0.7], [0.3, 9.0]]),
        regularised=Size(2, 3),
    )
    k3 = math.exp(-0.5) - 0.5
    assert loss.item() == pytest.approx(-2.0 + 0.1 * k3 / 2 - 0.01 * (0.5 + 0.7 + 0.3) / 3)


def test_dual_clip_bounds_the_loss_of_a_negative_advantage():
    # ratio e^2 = 7.39 with A = -1: loss 7.39 without a bound, 3 with it; a positive advantage is clipped at 1.2 anyway
    for bound, expected in ((math.inf, math.exp(2)), (3.0, 3.0)):
        assert loss_of(GRPOConfig(dual_clip=bound), [[2.0]], [[0.0]], [-1.0], [[True]])[0] == pytest.approx(expected)
        assert loss_of(GRPOConfig(dual_clip=bound), [[2.0]], [[0.0]], [1.0], [[True]])[0] == pytest.approx(-1.2)


def test_on_policy_gradient_is_the_policy_gradient():
    logprobs = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    loss, _ = grpo_loss(
        logprobs, None, None, torch.tensor([2.0]), torch.tensor([[True, True]]), GRPOConfig(), Size(1, 2)
    )
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


def weighed(cap, kl=0.0, importance=None):
    logprobs = torch.tensor([[-1.0, -2.0, -3.0]], requires_grad=True)
    mask, reference = torch.tensor([[True, True, False]]), torch.tensor([[-1.3, -2.0, 0.0]])
    config = GRPOConfig(importance_cap=cap, kl=kl, importance=importance)
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


@pytest.mark.parametrize(
    ("importance", "cap", "first", "second", "capped"),
    [
        ("token_mask", 1.5, 0.0, math.exp(-0.1), 1),
        # the whole sequence: e^(0.5 - 0.1) = 1.4918
        ("sequence_truncate", 1.5, math.exp(0.4), math.exp(0.4), 0),
        ("sequence_truncate", 1.2, 1.2, 1.2, 2),
        ("sequence_mask", 1.2, 0.0, 0.0, 2),
        ("sequence_mask", None, math.exp(0.4), math.exp(0.4), 0),  # the usual cap, 3.0
        ("none", 1.2, 1.0, 1.0, 0),
    ],
)
def test_importance_weights_by_hand(importance, cap, first, second, capped):
    loss, gradient, stats = weighed(cap, importance=importance)
    assert loss == pytest.approx(-(first + second))
    assert gradient == pytest.approx([-first, -second, 0.0])
    assert stats.capped == capped


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
