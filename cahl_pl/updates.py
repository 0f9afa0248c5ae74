"""One optimiser step of one role: from a batch of groups to a moved adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cahl_pl.distributed import most_over_processes, sum_gradients
from cahl_pl.grpo.advantages import Scoring, fill_advantages
from cahl_pl.grpo.config import GRPOConfig
from cahl_pl.grpo.loss import LossStats, grpo_loss, supervised_loss
from cahl_pl.grpo.selection import Selection, everything, select
from cahl_pl.optimizers import OptimizerConfig, forget_moments, set_rate
from cahl_pl.policy.first_gradients import FirstGradientCheck
from cahl_pl.policy.logprobs import MicroBatch, micro_batches, score
from cahl_pl.policy.policy import Policy
from cahl_pl.policy.reference import as_reference, keep_reference
from cahl_pl.policy.sharding import idle_group
from cahl_pl.types import ROLES, Group, Role, RolloutBatch


class Updates:
    """Optimiser steps of both roles; the other role's adapter keeps its bytes.

    Args:
        policy: base model and adapters.
        grpo: advantages and loss of each role.
        max_tokens: tokens of a micro-batch at most.

    Attributes:
        skipped: each role's latest steps in a row whose gradients were not finite.
        warm: roles whose last step was one of the warm start.
    """

    def __init__(self, policy: Policy, grpo: Mapping[Role, GRPOConfig], max_tokens: int) -> None:
        self.policy = policy
        self.grpo = grpo
        self.max_tokens = max_tokens
        self.skipped: dict[Role, int] = dict.fromkeys(ROLES, 0)
        self.warm: set[Role] = set()
        self._first_gradients = FirstGradientCheck()

    def take(
        self,
        batch: RolloutBatch,
        optimizer: Any,
        scheduler: Any,
        config: OptimizerConfig,
        rate: float,
        scoring: Scoring,
        backward: Callable[[Tensor], None],
    ) -> dict[str, float]:
        """Take one step of the batch's role, and return its metrics.

        Args:
            batch: batch sampled by the current policy, or by that of the round's first update.
            optimizer: the role's optimiser as Lightning wraps it, which counts its steps.
            scheduler: scheduler of the role's learning rate, which counts the steps after the warm start.
            config: configuration of the role's optimiser.
            rate: learning rate of the step, except in the warm start.
            scoring: what decides the role's advantages.
            backward: Lightning's backward function, which knows the precision.

        Returns:
            Metrics by tag. `ROLE/skipped` is 1 if gradients were not finite: then no weight has changed.
        """
        role, metrics = batch.role, dict(batch.metrics)
        supervised = batch.objective == "supervised"
        if supervised:
            self.warm.add(role)
        elif role in self.warm:  # its KL divergence is taken to the adapter as it is now
            self.warm.remove(role)
            forget_moments(optimizer.optimizer)
            if self.grpo[role].kl > 0:
                keep_reference(self.policy, role)

        if supervised:
            selected = everything(batch.groups)
        else:
            selected = select(batch.groups, fill_advantages(batch.groups, scoring), self.grpo[role])
        self.policy.lm.zero_grad(set_to_none=True)
        if selected.regularised.tokens:
            stats = self.accumulate(selected, batch, backward)
            parameters = self.policy.parameters_of(role)
            sum_gradients(parameters)
            norm = torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
            # the norm is that of all processes' gradients: all of them skip, or none
            finite = bool(torch.isfinite(norm))
            if not finite:  # a step on it would destroy the adapter
                optimizer.zero_grad(set_to_none=True)
            self.skipped[role] = 0 if finite else self.skipped[role] + 1
            measured = {"warm_start/loss": stats.loss} if supervised else stats.metrics(self.grpo[role])
            if batch.update == 0 and not supervised:  # later the policy itself has moved away from the one that sampled
                measured |= stats.gap_metrics(self.grpo[role])
            measured |= {"grad_norm": norm.item(), "skipped": float(not finite)}
            metrics |= {f"{role}/{tag}": value for tag, value in measured.items()}
        set_rate(optimizer, config, config.warm_start_lr if supervised else rate)
        # Without gradients this moves nothing, not even the moments, but it counts: one optimiser step a training step.
        optimizer.step()
        metrics[f"{role}/lr"] = optimizer.param_groups[0]["lr"]
        if not supervised:
            scheduler.step()  # sets the rate of a step that may never come
        return metrics

    def accumulate(self, selected: Selection, batch: RolloutBatch, backward: Callable[[Tensor], None]) -> LossStats:
        """Add the gradients of this process's groups to the role's adapter, in micro-batches, and return their statistics.

        Args:
            selected: the groups, and the samples and tokens of all processes that their loss is a mean over.
            batch: the batch with the role, the objective and the temperature.
            backward: function called with each micro-batch's loss.
        """
        role, total = batch.role, LossStats()
        config = self.grpo[role]
        self.policy.activate(role)
        supervised = batch.objective == "supervised"
        diverse = config.entropy > 0 and not supervised
        groups, device = selected.groups, self.policy.device
        with self.policy.training_mode():
            for part in self._micro_batches(groups):
                advantages = part.advantages.to(device, non_blocking=True)
                sampled = None if supervised else part.logprobs.to(device, non_blocking=True)
                reference = None
                if config.kl > 0 and not supervised:
                    with torch.no_grad(), as_reference(self.policy, role):
                        reference = score(self.policy, part, batch.temperature).logprobs
                scored = score(self.policy, part, batch.temperature, diverse)
                if supervised:
                    loss, stats = supervised_loss(scored.logprobs, scored.mask, selected.size.tokens)
                else:
                    loss, stats = grpo_loss(
                        scored.logprobs,
                        sampled if batch.update > 0 else None,
                        reference,
                        advantages,
                        scored.mask,
                        config,
                        selected.size,
                        sampled if batch.update == 0 else None,
                        scored.entropy if diverse else None,
                        selected.regularised,
                    )
                stats.entropy = (scored.entropy * scored.mask).sum().item()
                total.add(stats)
                backward(loss)
        if groups:
            self._first_gradients.check(self.policy.lm, role)
        return total

    def _micro_batches(self, groups: Sequence[Group]) -> Iterator[MicroBatch]:
        """Yield the groups' micro-batches; with a sharded base, as many in each process, the last of them without a loss."""
        parts = list(micro_batches(self.policy, groups, self.max_tokens))
        missing = most_over_processes(len(parts)) - len(parts) if self.policy.shards > 1 else 0
        yield from parts
        for _ in range(missing):
            yield from micro_batches(self.policy, [idle_group()], self.max_tokens)
