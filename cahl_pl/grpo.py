"""Group-relative policy optimisation: advantages and losses as pure functions of tensors.

Shapes: N completions in all, C tokens in the longest; `mask` is True on completion tokens.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cahl_pl.types import Group


@dataclass
class GRPOConfig:
    """The loss.

    Attributes:
        loss: `grpo` (mean over a completion's tokens, then over completions; arXiv 2402.03300), `dr_grpo` (sum of
            tokens over a constant length; 2503.20783), `dapo` (mean over all tokens of the batch; 2503.14476) or
            `gspo` (one ratio per sequence; 2507.18071).
        clip_low: a ratio below 1 - clip_low gains nothing more.
        clip_high: a ratio above 1 + clip_high gains nothing more; above clip_low it is "clip-higher" (DAPO: 0.28).
        kl: weight of the KL divergence to the base (adapters disabled); 0 skips the reference pass.
        scale_rewards: divide a group's centred rewards by the standard deviation of the `group`, of the whole `batch`,
            or not at all (`none`).
        epsilon: added to that standard deviation.
        max_completion_length: the constant length of `dr_grpo`, in tokens.
        importance_cap: where another program samples (`ServerEngine`), a token's part in the policy gradient is multiplied by
            min(pi / pi_engine, importance_cap): truncated importance sampling, as in TRL and verl (2.0 is usual). Null: not.

    Raises:
        ValueError: a number is out of its range.
    """

    loss: Literal["grpo", "dr_grpo", "dapo", "gspo"] = "grpo"
    clip_low: float = 0.2
    clip_high: float = 0.2
    kl: float = 0.0
    scale_rewards: Literal["group", "batch", "none"] = "group"
    epsilon: float = 1e-4
    max_completion_length: int = 256
    importance_cap: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.clip_low <= 1 or self.clip_high <= 0 or self.kl < 0 or self.epsilon < 0:
            raise ValueError(
                "grpo needs 0 < clip_low <= 1, clip_high > 0, kl >= 0 and epsilon >= 0, "
                f"not {self.clip_low}, {self.clip_high}, {self.kl} and {self.epsilon}"
            )
        if self.importance_cap is not None and self.importance_cap <= 0:
            raise ValueError(
                f"grpo.importance_cap must be above 0, or null for no correction, not {self.importance_cap}"
            )


def has_signal(rewards: Tensor) -> bool:
    """Whether a group's rewards [G] differ at all. Exact: a tiny spread is a signal, float noise in a std is not."""
    return bool(rewards.max() > rewards.min())


def advantages(
    rewards: Sequence[Tensor], scale: Literal["group", "batch", "none"] = "group", epsilon: float = 1e-4
) -> list[Tensor]:
    """A_i = (r_i - mean) / (std + epsilon), within each group of one role.

    Args:
        rewards: one tensor [G] per group; sizes may differ.
        scale: whose standard deviation divides (unbiased, n - 1): the group's, the batch's, or none.
        epsilon: see `GRPOConfig`.

    Returns:
        One tensor [G] per group; zeros for a group of one and for a group of equal rewards.
    """
    batch_std = _std(torch.cat(list(rewards))) if rewards and scale == "batch" else None
    result = []
    for group in rewards:
        if not has_signal(group):
            result.append(torch.zeros_like(group))
            continue
        centred = group - group.mean()
        std = _std(group) if scale == "group" else batch_std
        result.append(centred if std is None else centred / (std + epsilon))
    return result


def _std(values: Tensor) -> Tensor:
    return values.std() if len(values) > 1 else torch.zeros(())


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
        gap: sum over tokens of |log pi - log pi_engine|, nats; 0 where they are not compared.
        gap_max: the largest of them, over all micro-batches.
        capped: tokens whose importance weight was truncated.
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


def grpo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor | None,
    reference_logprobs: Tensor | None,
    advantages: Tensor,
    mask: Tensor,
    config: GRPOConfig,
    num_completions: int,
    num_tokens: int,
    engine_logprobs: Tensor | None = None,
) -> tuple[Tensor, LossStats]:
    """A micro-batch's share of the batch's loss: the shares of all micro-batches add up to the loss of the batch.

    Per token: -min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A) + kl * k3, with rho = pi / pi_old and
    k3 = exp(d) - d - 1, d = log pi_ref - log pi.

    Args:
        logprobs: [n, C] under the policy being trained, with gradient.
        old_logprobs: [n, C] under the policy that sampled; None while on policy (rho is then 1 in value, and its
            gradient is that of log pi).
        reference_logprobs: [n, C] under the base; needed when config.kl > 0.
        advantages: [n].
        mask: [n, C].
        config: which loss.
        num_completions: N, completions of the whole batch.
        num_tokens: completion tokens of the whole batch.
        engine_logprobs: [n, C] as the engine computed them while it sampled, to be compared with `logprobs` and, with
            config.importance_cap, to weigh by. Only while on policy: with old_logprobs these are the engine's, and the ratio
            itself corrects.

    Returns:
        The loss (scalar, with gradient) and the sums to log.

    Raises:
        ValueError: config.kl > 0 without reference_logprobs.
    """
    weight = mask.to(logprobs.dtype)
    log_ratio = (logprobs - (logprobs.detach() if old_logprobs is None else old_logprobs)) * weight
    if config.loss == "gspo":
        lengths = weight.sum(1, keepdim=True).clamp(min=1)
        log_ratio = log_ratio.sum(1, keepdim=True) / lengths  # [n, 1], broadcast over the tokens
    ratio = log_ratio.exp()
    advantage = advantages[:, None]
    clipped = ratio.clamp(1 - config.clip_low, 1 + config.clip_high)
    per_token = -torch.minimum(ratio * advantage, clipped * advantage)
    gap = torch.zeros_like(weight)  # log pi - log pi_engine
    if engine_logprobs is not None:
        gap = (logprobs.detach() - engine_logprobs) * weight
    if config.importance_cap is not None:
        per_token = per_token * gap.exp().clamp(max=config.importance_cap)
    k3 = torch.zeros_like(logprobs)
    if config.kl > 0:
        if reference_logprobs is None:
            raise ValueError("a KL weight above 0 needs the reference log-probabilities")
        delta = (reference_logprobs - logprobs) * weight
        k3 = delta.exp() - delta - 1
        per_token = per_token + config.kl * k3

    if config.loss in ("grpo", "gspo"):
        per_completion = (per_token * weight).sum(1) / weight.sum(1).clamp(min=1)
        loss = per_completion.sum() / num_completions
    elif config.loss == "dr_grpo":
        loss = (per_token * weight).sum() / (num_completions * config.max_completion_length)
    else:
        loss = (per_token * weight).sum() / num_tokens

    with torch.no_grad():
        stats = LossStats(
            loss=loss.item(),
            kl=(k3 * weight).sum().item(),
            low=((ratio < 1 - config.clip_low) & (advantage < 0)).mul(weight).sum().item(),
            high=((ratio > 1 + config.clip_high) & (advantage > 0)).mul(weight).sum().item(),
            ratio=(ratio * weight).sum().item(),
            gap=gap.abs().sum().item(),
            gap_max=gap.abs().max().item(),
            capped=0.0
            if config.importance_cap is None
            else (gap.exp() > config.importance_cap).mul(weight).sum().item(),
            tokens=weight.sum().item(),
        )
    return loss, stats


def supervised_loss(logprobs: Tensor, mask: Tensor, num_tokens: int) -> tuple[Tensor, LossStats]:
    """Mean negative log-likelihood over the gold tokens of the batch: the warm start.

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


def rewards_by_peers(groups: Sequence[Group]) -> dict[int, Tensor]:
    """Rewards of the groups that are compared with one another, joined: comparison -> [G]."""
    joined: defaultdict[int, list[Tensor]] = defaultdict(list)
    for group in groups:
        joined[group.peers].append(group.rewards)
    return {peers: torch.cat(rewards) for peers, rewards in joined.items()}
