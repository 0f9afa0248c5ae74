"""A training budget in tokens, so that systems can be compared at equal cost."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from cahl_pl.datamodule import RolloutDataModule
from cahl_pl.distributed import sum_over_processes
from cahl_pl.types import RolloutBatch


class TokenBudget(Callback):
    """Callback that ends training with the round in which the rounds so far have sampled, or imitated, `max_tokens` tokens.

    Tokens of all processes count, those of evaluations do not. That round is finished: every role scheduled in it takes its
    steps. The gold tokens that warm-start rounds imitate are counted separately: they end a run that imitates that long, and
    do not reduce the sampling budget. Lightning honours the stop only after `trainer.min_steps` and `min_epochs`, and stops
    at `trainer.max_steps` or `max_epochs` if they come first. A learning rate that falls over the run falls with the sampled
    tokens. Once a round, with its first batch, `rollout/tokens_total` is logged, the count so far, and with every batch of
    the warm start `warm_start/tokens_total`; the x-axis is `trainer.global_step`.

    Args:
        max_tokens: tokens to sample, or to imitate.

    Raises:
        ValueError: the budget is below 1.
    """

    def __init__(self, max_tokens: int) -> None:
        if max_tokens < 1:
            raise ValueError(f"TokenBudget.max_tokens is {max_tokens}: give 1 or more tokens")
        self.max_tokens = max_tokens
        self.tokens = 0  # sampled by the rounds so far, over all processes
        self.imitated = 0  # gold tokens of the warm start so far, over all processes

    @property
    def spent(self) -> float:
        """The share of the sampling budget that is used, at most 1."""
        return min(1.0, self.tokens / self.max_tokens)

    @property
    def reached(self) -> int:
        """The tokens that end the run once they are `max_tokens`: sampled, or imitated."""
        return max(self.tokens, self.imitated)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take no step if a resumed run had already ended."""
        self._stop_if_spent(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Count the round that `batch` is the first of; stop after the last one of the round that spends the budget."""
        if batch.trajectories is not None:  # the round's other batches carry the same metrics
            self.tokens += int(sum_over_processes([batch.metrics.get("rollout/tokens", 0.0)])[0])
            self._log(trainer, {"rollout/tokens_total": float(self.tokens)})
        elif batch.objective == "supervised":
            gold = sum(len(ids) for group in batch.groups for ids in group.completion_ids)
            self.imitated += int(sum_over_processes([float(gold)])[0])
            self._log(trainer, {"warm_start/tokens_total": float(self.imitated)})
        self._stop_if_spent(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return the tokens sampled and imitated so far."""
        return {"tokens": self.tokens, "imitated": self.imitated}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the counts."""
        self.tokens = state_dict["tokens"]
        self.imitated = state_dict.get("imitated", 0)  # absent from older checkpoints

    def _log(self, trainer: Trainer, values: dict[str, float]) -> None:
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)

    def _stop_if_spent(self, trainer: Trainer) -> None:
        data: RolloutDataModule = trainer.datamodule  # type: ignore[attr-defined]
        if self.reached >= self.max_tokens and not data.stream.pending and not trainer.should_stop:
            how = "sampled" if self.tokens >= self.max_tokens else "imitated"
            rank_zero_info(f"TokenBudget: {self.reached:,} of {self.max_tokens:,} tokens are {how}: training ends.")
            trainer.should_stop = True
