"""GRPO's configuration: one for both roles, and values that are a role's own."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Literal, TypeAlias

from cahl_pl.types import Role

Loss: TypeAlias = Literal["grpo", "dr_grpo", "dapo", "gspo"]
Scale: TypeAlias = Literal["group", "batch", "none"]
Importance: TypeAlias = Literal["none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]

_CLIP = {"gspo": (3e-4, 4e-4)}  # arXiv 2507.18071, section 5.1: a sequence's ratio moves far less than a token's
_USUAL_CLIP = (0.2, 0.2)
_USUAL_CAP = 3.0  # TRL's vllm_importance_sampling_clip_max


@dataclass
class GRPOConfig:
    """Advantages and loss of both roles; a role's own values are in `model.planner_grpo` or `model.executor_grpo`.

    Attributes:
        loss: `grpo` (mean over a completion's tokens, then over completions; arXiv 2402.03300), `dr_grpo` (sum of
            tokens over a constant length; 2503.20783), `dapo` (mean over all tokens of the batch; 2503.14476) or
            `gspo` (one ratio per sequence; 2507.18071).
        clip_low: a ratio below 1 - clip_low gains nothing more. Null: 0.2, and 3e-4 for `gspo`, as in its paper.
        clip_high: a ratio above 1 + clip_high gains nothing more; above clip_low it is "clip-higher" (DAPO: 0.28). Null: 0.2,
            and 4e-4 for `gspo`.
        dual_clip: the largest ratio that counts if the advantage is negative (arXiv 1912.09729; verl's `clip_ratio_c`,
            3.0 there; TRL's `delta`). `.inf`: not bounded.
        kl: weight of the KL divergence to the reference: the base (adapters disabled) or, after a warm start, the adapters as
            they were at its end. 0 skips the reference pass.
        kl_estimator: estimator of log pi / pi_ref by d = log pi_ref - log pi: `k1` = -d, `k2` = d^2 / 2, `k3` = e^d - d - 1.
        kl_bias_correction: the gradient is that of KL(pi || pi_ref) itself: `k1` and `k3` are multiplied by the importance
            ratio (arXiv 2512.02556; TRL's `use_bias_correction_kl`), `k2`, whose own gradient is the right one where the
            samples come from pi, by the ratio's value. False: the estimate's own gradient, which for `k3` is that of
            KL(pi_ref || pi).
        entropy: weight of the mean entropy of a token, which is added to the objective: above 0 keeps outputs diverse.
        scale_rewards: divide a group's centred rewards by the standard deviation of the `group`, of the whole `batch` (all
            processes), or not at all (`none`).
        epsilon: value added to that standard deviation.
        aggregate_rewards: `sum_then_normalize`: advantages come from the total reward. `normalize_then_sum` (GDPO, arXiv
            2601.05242): each component of the reward is normalised within its group, their weighted sum over the batch;
            `scale_rewards` is then ignored. Weights are those of the reward (`w_...`), or 1 if it has none.
        pool_equal_plans: plans of a request that tell the executor the same share the mean of their rewards: their rewards
            differ only by chance, which division by the group's deviation would amplify to the level of a real signal. This
            does not apply to the executor.
        truncation: treatment of a completion that has hit `max_new_tokens`. `punish`: it is scored as it is. `mask`: its
            reward counts in its group, but it is not trained on (TRL's `mask_truncated_completions`). `soft`: DAPO's penalty
            for long completions is added to the reward: 0 up to max_new_tokens - overlong_cache tokens, and from there
            linearly to -overlong_penalty at max_new_tokens.
        overlong_cache: tokens over which that penalty rises. Null: a fifth of max_new_tokens, as in DAPO.
        overlong_penalty: the largest penalty; DAPO's is 1 for rewards from -1 to 1.
        max_completion_length: the constant length of `dr_grpo`, in tokens.
        importance: if another program samples (`ServerEngine`), the policy gradient is multiplied by w = pi / pi_engine, of
            each token or of the whole sequence (the product over its tokens); above `importance_cap` it is cut to the cap
            (`truncate`) or to 0 (`mask`). TRL's default is `sequence_mask`. Null: `token_truncate` if `importance_cap` is
            given, else `none`.
        importance_cap: the largest such weight. Null: 3.0, TRL's.

    Raises:
        ValueError: a number is out of its range, or two values exclude one another.
    """

    loss: Loss = "grpo"
    clip_low: float | None = None
    clip_high: float | None = None
    dual_clip: float = math.inf
    kl: float = 0.0
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    kl_bias_correction: bool = True
    entropy: float = 0.0
    scale_rewards: Scale = "group"
    epsilon: float = 1e-4
    aggregate_rewards: Literal["sum_then_normalize", "normalize_then_sum"] = "sum_then_normalize"
    pool_equal_plans: bool = True
    truncation: Literal["punish", "mask", "soft"] = "punish"
    overlong_cache: int | None = None
    overlong_penalty: float = 1.0
    max_completion_length: int = 256
    importance: Importance | None = None
    importance_cap: float | None = None

    def __post_init__(self) -> None:
        # each `holds` is False for NaN
        for name, holds, wanted in (
            ("clip_low", self.clip_low is None or 0 < self.clip_low <= 1, "above 0 and at most 1"),
            ("clip_high", self.clip_high is None or 0 < self.clip_high < math.inf, "above 0 and finite"),
            ("dual_clip", self.dual_clip > 1, "above 1, or .inf for no bound"),
            ("kl", 0 <= self.kl < math.inf, "0 or more and finite"),
            ("entropy", 0 <= self.entropy < math.inf, "0 or more and finite"),
            ("epsilon", 0 <= self.epsilon < math.inf, "0 or more and finite"),
            ("overlong_cache", self.overlong_cache is None or self.overlong_cache >= 1, "1 or more"),
            ("overlong_penalty", 0 <= self.overlong_penalty < math.inf, "0 or more and finite"),
            ("max_completion_length", self.max_completion_length >= 1, "1 or more"),
            (
                "importance_cap",
                self.importance_cap is None or 0 < self.importance_cap < math.inf,
                "above 0 and finite, or null",
            ),
        ):
            if not holds:
                raise ValueError(f"grpo.{name} is {getattr(self, name)}: give a value {wanted}")
        if self.kl_estimator == "k1" and not self.kl_bias_correction:
            raise ValueError(
                "grpo.kl_estimator is k1 without kl_bias_correction, and the gradient of that is 0 on average: turn the "
                "correction on, or take k2 or k3"
            )

    @property
    def clip(self) -> tuple[float, float]:
        """The distances that a ratio may fall below 1 and rise above it."""
        low, high = _CLIP.get(self.loss, _USUAL_CLIP)
        return low if self.clip_low is None else self.clip_low, high if self.clip_high is None else self.clip_high

    @property
    def correction(self) -> tuple[Importance, float]:
        """The kind of the importance correction and its cap."""
        kind = self.importance or ("none" if self.importance_cap is None else "token_truncate")
        return kind, _USUAL_CAP if self.importance_cap is None else self.importance_cap

    @property
    def regularised(self) -> bool:
        """Return whether groups of equal rewards are trained on too: their KL divergence and entropy count like all others'."""
        return self.kl > 0 or self.entropy > 0


@dataclass
class RoleGRPOConfig:
    """Settings of one role that override `model.grpo`: the same keys, each null (as there) unless it is given.

    Raises:
        ValueError: see `GRPOConfig`.
    """

    loss: Loss | None = None
    clip_low: float | None = None
    clip_high: float | None = None
    dual_clip: float | None = None
    kl: float | None = None
    kl_estimator: Literal["k1", "k2", "k3"] | None = None
    kl_bias_correction: bool | None = None
    entropy: float | None = None
    scale_rewards: Scale | None = None
    epsilon: float | None = None
    aggregate_rewards: Literal["sum_then_normalize", "normalize_then_sum"] | None = None
    pool_equal_plans: bool | None = None
    truncation: Literal["punish", "mask", "soft"] | None = None
    overlong_cache: int | None = None
    overlong_penalty: float | None = None
    max_completion_length: int | None = None
    importance: Importance | None = None
    importance_cap: float | None = None

    def over(self, common: GRPOConfig, role: Role) -> GRPOConfig:
        """Return the role's configuration: the values given here, and the rest from `common`.

        Raises:
            ValueError: a value is refused, see `GRPOConfig`; or the executor is to pool plans.
        """
        if role == "executor" and self.pool_equal_plans:
            raise ValueError(
                "model.executor_grpo.pool_equal_plans is true, but the executor writes no plans: leave it out"
            )
        own = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        try:
            return replace(common, **own)
        except ValueError as error:
            raise ValueError(f"model.{role}_grpo over model.grpo: {error}") from None
