"""A training budget in sampled tokens, so that systems can be compared at equal cost."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from cahl_pl.datamodule import RolloutDataModule
from cahl_pl.distributed import sum_over_processes
from cahl_pl.types import RolloutBatch


class TokenBudget(Callback):
    """Ends training with the round in which the rounds so far have sampled `max_tokens` tokens, over all processes.

    That round is finished: every role whose turn it is takes its steps. Tokens of evaluations do not count, and
    warm-start rounds sample none. Lightning honours the stop only after `trainer.min_steps` and `min_epochs`, and stops
    at `trainer.max_steps` or `max_epochs` if they come first. A learning rate that falls with the run falls with the tokens
    that are spent. Once a round, with its first batch,
    `rollout/tokens_total` is logged, the count so far; the x-axis is `trainer.global_step`.

    Args:
        max_tokens: tokens to sample.

    Raises:
        ValueError: the budget is below 1.
    """

    def __init__(self, max_tokens: int) -> None:
        if max_tokens < 1:
            raise ValueError(f"TokenBudget.max_tokens is {max_tokens}: give 1 or more tokens")
        self.max_tokens = max_tokens
        self.tokens = 0  # sampled by the rounds so far, over all processes

    @property
    def spent(self) -> float:
        """The share of the budget that is spent, at most 1."""
        return min(1.0, self.tokens / self.max_tokens)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take no step when a resumed run had ended already."""
        self._stop_if_spent(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Count the round that `batch` is the first of; stop after the last one of the round that spends the budget."""
        if batch.trajectories is not None:  # the round's other batches carry the same metrics
            self.tokens += int(sum_over_processes([batch.metrics.get("rollout/tokens", 0.0)])[0])
            for logger in trainer.loggers:
                logger.log_metrics({"rollout/tokens_total": float(self.tokens)}, step=trainer.global_step)
        self._stop_if_spent(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return the tokens sampled so far."""
        return {"tokens": self.tokens}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.tokens = state_dict["tokens"]

    def _stop_if_spent(self, trainer: Trainer) -> None:
        data: RolloutDataModule = trainer.datamodule  # type: ignore[attr-defined]
        if self.tokens >= self.max_tokens and not data.stream.pending and not trainer.should_stop:
            rank_zero_info(f"TokenBudget: {self.tokens:,} of {self.max_tokens:,} tokens are sampled: training ends.")
            trainer.should_stop = True
