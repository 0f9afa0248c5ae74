"""Losses, as pure functions of tensors.

Shapes: N completions in all, C tokens in the longest; `mask` is True on completion tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from cahl_pl.grpo.config import GRPOConfig


class Size(NamedTuple):
    """Size that a loss is a mean over: completions and their tokens, of the whole batch, all processes."""

    completions: int
    tokens: int


@dataclass
class LossStats:
    """Sums over a micro-batch, to be added up over the batch. All are detached scalars.

    Attributes:
        loss: the micro-batch's share of the loss.
        kl: sum over tokens of the KL estimate.
        entropy: sum over tokens of the entropy, nats.
        low: tokens clipped from below (ratio < 1 - clip_low with a negative advantage).
        high: tokens clipped from above (ratio > 1 + clip_high with a positive advantage).
        ratio: sum over tokens of the importance ratio.
        gap: sum over tokens of |log pi - log pi_engine|, nats; 0 if they are not compared.
        gap_max: the largest of them, over all micro-batches.
        capped: tokens whose importance weight was above its cap.
        tokens: number of tokens.
    """

    loss: float = 0.0
    kl: float = 0.0
    entropy: float = 0.0
    low: float = 0.0
    high: float = 0.0
    ratio: float = 0.0
    gap: float = 0.0
    gap_max: float = 0.0
    capped: float = 0.0
    tokens: float = 0.0

    def add(self, other: LossStats) -> None:
        """Add another micro-batch's sums."""
        gap_max = max(self.gap_max, other.gap_max)
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.gap_max = gap_max

    def metrics(self, config: GRPOConfig) -> dict[str, float]:
        """Return the means over tokens of a whole batch: tag, without the role -> value."""
        tokens = max(self.tokens, 1.0)
        metrics = {
            "loss": self.loss,
            "entropy": self.entropy / tokens,
            "clip/low": self.low / tokens,
            "clip/high": self.high / tokens,
            "ratio": self.ratio / tokens,
        }
        return metrics | ({"kl": self.kl / tokens} if config.kl > 0 else {})

    def gap_metrics(self, config: GRPOConfig) -> dict[str, float]:
        """Return the distance of the engine's log-probabilities from the loss's: from rounding, or another model altogether."""
        tokens = max(self.tokens, 1.0)
        metrics = {"engine_gap/mean": self.gap / tokens, "engine_gap/max": self.gap_max}
        return metrics | ({"engine_gap/capped": self.capped / tokens} if config.correction[0] != "none" else {})


def grpo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor | None,
    reference_logprobs: Tensor | None,
    advantages: Tensor,
    mask: Tensor,
    config: GRPOConfig,
    size: Size,
    engine_logprobs: Tensor | None = None,
    entropy: Tensor | None = None,
    regularised: Size | None = None,
) -> tuple[Tensor, LossStats]:
    """Return a micro-batch's share of the batch's loss: the shares of all micro-batches add up to the loss of the batch.

    Per token: -w min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A) + kl k - entropy H, with rho = pi / pi_old, w the
    importance weight (`GRPOConfig.importance`) and k the estimate of the KL divergence (`GRPOConfig.kl_estimator`). The
    entropy is a mean over tokens for every loss, as in TRL.

    Args:
        logprobs: [n, C] under the policy being trained, with gradient.
        old_logprobs: [n, C] under the policy that sampled; None while on policy (rho is then 1 in value, and its
            gradient is that of log pi).
        reference_logprobs: [n, C] under the reference; needed when config.kl > 0.
        advantages: [n].
        mask: [n, C].
        config: configuration of the loss.
        size: completions whose advantages count, of the whole batch.
        engine_logprobs: [n, C] as the engine computed them while sampling, for comparison with `logprobs` and, with an
            importance correction, for its weights. Only while on policy: with old_logprobs, those are the engine's, and the
            ratio itself corrects.
        entropy: [n, C], with gradient; needed when config.entropy > 0.
        regularised: completions that KL divergence and entropy are means over; None: the same ones.

    Returns:
        The loss (scalar, with gradient) and the sums to log.

    Raises:
        ValueError: config.kl > 0 without reference_logprobs, or config.entropy > 0 without entropy.
    """
    regularised = regularised or size
    weight = mask.to(logprobs.dtype)
    ratio = _ratio(logprobs, old_logprobs, weight, config)
    advantage = advantages[:, None]
    low, high = config.clip
    gained = torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)
    if config.dual_clip < math.inf:
        gained = torch.where(advantage < 0, torch.maximum(gained, config.dual_clip * advantage), gained)
    gap = torch.zeros_like(weight)  # log pi - log pi_engine
    if engine_logprobs is not None:
        gap = (logprobs.detach() - engine_logprobs) * weight
    importance, capped = importance_weights(gap, config)
    per_token = -gained * importance
    loss = _mean(per_token, weight, config, size)
    kl = torch.zeros_like(logprobs)
    if config.kl > 0:
        if reference_logprobs is None:
            raise ValueError("a KL weight above 0 needs the reference log-probabilities")
        kl = _kl(logprobs, reference_logprobs, ratio, weight, config)
        loss = loss + config.kl * _mean(kl, weight, config, regularised)
    if config.entropy > 0:
        if entropy is None:
            raise ValueError("an entropy weight above 0 needs the entropy")
        loss = loss - config.entropy * (entropy * weight).sum() / regularised.tokens

    with torch.no_grad():
        sums = {
            "loss": loss,
            "kl": (kl * weight).sum(),
            "low": ((ratio < 1 - low) & (advantage < 0)).mul(weight).sum(),
            "high": ((ratio > 1 + high) & (advantage > 0)).mul(weight).sum(),
            "ratio": (ratio * weight).sum(),
            "gap": gap.abs().sum(),
            "gap_max": gap.abs().max(),
            "capped": capped.mul(weight).sum(),
            "tokens": weight.sum(),
        }
        # one copy to the host: each waits for the device
        stats = LossStats(**dict(zip(sums, torch.stack([*sums.values()]).tolist(), strict=True)))
    return loss, stats


def importance_weights(gap: Tensor, config: GRPOConfig) -> tuple[Tensor, Tensor]:
    """Return the weights of the policy gradient, and whether a cap has changed them; see `GRPOConfig.importance`.

    Args:
        gap: [n, C], log pi - log pi_engine without gradient, 0 on padding.
        config: the kind of the correction and its cap.

    Returns:
        Weights and booleans, [n, C] or, of whole sequences, [n, 1].
    """
    kind, cap = config.correction
    if kind == "none":
        return torch.ones_like(gap[:, :1]), torch.zeros_like(gap[:, :1], dtype=torch.bool)
    weights = (gap.sum(1, keepdim=True) if kind.startswith("sequence") else gap).exp()
    capped = weights > cap
    return weights.masked_fill(capped, cap if kind.endswith("truncate") else 0.0), capped


def _ratio(logprobs: Tensor, old_logprobs: Tensor | None, weight: Tensor, config: GRPOConfig) -> Tensor:
    """Return the ratio pi / pi_old, [n, C]; for `gspo` one per sequence, [n, 1], broadcast over the tokens."""
    log_ratio = (logprobs - (logprobs.detach() if old_logprobs is None else old_logprobs)) * weight
    if config.loss == "gspo":
        log_ratio = log_ratio.sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1)
    return log_ratio.exp()


def _kl(logprobs: Tensor, reference: Tensor, ratio: Tensor, weight: Tensor, config: GRPOConfig) -> Tensor:
    """Return the estimate of each token's KL divergence, [n, C]; see `GRPOConfig.kl_estimator` and `kl_bias_correction`."""
    delta = (reference - logprobs) * weight
    if config.kl_estimator == "k1":
        kl = -delta
    elif config.kl_estimator == "k2":
        kl, ratio = delta.square() / 2, ratio.detach()
    else:
        kl = delta.exp() - delta - 1
    return kl * ratio if config.kl_bias_correction else kl


def _mean(per_token: Tensor, weight: Tensor, config: GRPOConfig, size: Size) -> Tensor:
    """Return a micro-batch's share of the kind of mean over the batch that the loss uses."""
    if config.loss in ("grpo", "gspo"):
        return ((per_token * weight).sum(1) / weight.sum(1).clamp(min=1)).sum() / max(size.completions, 1)
    if config.loss == "dr_grpo":
        return (per_token * weight).sum() / (max(size.completions, 1) * config.max_completion_length)
    return (per_token * weight).sum() / max(size.tokens, 1)


def supervised_loss(logprobs: Tensor, mask: Tensor, num_tokens: int) -> tuple[Tensor, LossStats]:
    """Return the mean negative log-likelihood over the gold tokens of the batch: the warm start.

    Args:
        logprobs: [n, C] with gradient.
        mask: [n, C].
        num_tokens: gold tokens of the whole batch.

    Returns:
        The micro-batch's share of the loss (scalar, with gradient) and the sums to log.
    """
    weight = mask.to(logprobs.dtype)
    loss = -(logprobs * weight).sum() / num_tokens
    return loss, LossStats(loss=loss.item(), tokens=weight.sum().item())
