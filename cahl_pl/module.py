"""CAHL as a LightningModule: it owns the policy and takes one role's optimiser step per training step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor
from transformers import get_scheduler

from cahl_pl.benchmarks.base import Benchmark
from cahl_pl.benchmarks.runs import BenchmarkRun
from cahl_pl.datamodule import RolloutDataModule, rewards_by_peers
from cahl_pl.errors import ConfigError
from cahl_pl.grpo import GRPOConfig, LossStats, advantages, grpo_loss, has_signal, supervised_loss
from cahl_pl.logprobs import micro_batches, score
from cahl_pl.metrics import ToolUse
from cahl_pl.optimizers import DECAYING, OptimizerConfig
from cahl_pl.policy import Policy, PolicyConfig
from cahl_pl.records import record, run_folder
from cahl_pl.strategy import AdapterDDPStrategy, sum_gradients, sum_over_processes
from cahl_pl.types import ROLES, Group, Role, RolloutBatch, Task


class StaleBatchError(RuntimeError):
    """A batch was sampled by an older policy than the one that would be trained on it."""


class NonFiniteError(RuntimeError):
    """Loss or gradients were not finite in too many steps of a role in a row."""


class CAHLModule(LightningModule):
    """Trains both roles of CAHL by GRPO.

    Each training step gets one role's batch from the data module, makes that role's adapter active, takes one optimiser
    step of it, and leaves the other adapter's bytes as they are.

    Args:
        policy: base model and adapters.
        grpo: the loss.
        planner: the planner's optimiser.
        executor: the executor's optimiser.
        max_tokens_per_micro_batch: tokens of one forward and backward pass, padding included, shared tokens counted
            once. The gradient does not depend on it, only memory and speed do: samples of a prompt that do not fit in
            together have it computed again.
        max_skipped_steps: stop when so many steps of a role in a row had a loss or gradients that were not finite. Such a
            step moves nothing and is counted.

    Raises:
        ValueError: max_skipped_steps is below 1.
    """

    def __init__(
        self,
        policy: PolicyConfig = PolicyConfig(),  # noqa: B008 - jsonargparse reads nested defaults from here
        grpo: GRPOConfig = GRPOConfig(),  # noqa: B008
        planner: OptimizerConfig = OptimizerConfig(),  # noqa: B008
        executor: OptimizerConfig = OptimizerConfig(),  # noqa: B008
        max_tokens_per_micro_batch: int = 16384,
        max_skipped_steps: int = 5,
    ) -> None:
        super().__init__()
        if max_skipped_steps < 1:
            raise ValueError(f"model.max_skipped_steps is {max_skipped_steps}: give 1 or more")
        self.automatic_optimization = False
        self.policy = Policy(policy)
        self.grpo = grpo
        self.optimizer_config: dict[Role, OptimizerConfig] = {"planner": planner, "executor": executor}
        self.max_tokens_per_micro_batch = max_tokens_per_micro_batch
        self.max_skipped_steps = max_skipped_steps
        self.skipped: dict[Role, int] = dict.fromkeys(ROLES, 0)  # steps in a row that were not finite
        self._without_gradient: dict[Role, int] = dict.fromkeys(ROLES, 0)
        self._checked: set[Role] = set()  # roles whose first gradients were looked at
        self._checkpoint_step = 0  # of the checkpoint that was loaded last
        self._evaluation: dict[str, ToolUse] = {}
        self._benchmarks: list[BenchmarkRun] = []

    # --- set-up ------------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Check that the processes can train one of two adapters at a time.

        Raises:
            ConfigError: the strategy cannot.
        """
        strategy = self.trainer.strategy
        if stage == "fit" and isinstance(strategy, ParallelStrategy) and not isinstance(strategy, AdapterDDPStrategy):
            raise ConfigError(
                f"trainer.strategy comes to {type(strategy).__name__}, which wants gradients of both adapters in every step: "
                "use --trainer.strategy adapter_ddp, or one device with --trainer.devices 1 --trainer.strategy auto"
            )

    def configure_model(self) -> None:
        """Load base and adapters on the right device, before optimisers and strategy see them."""
        self.policy.load(self.trainer.strategy.root_device if self._trainer is not None else "cpu")

    def configure_callbacks(self) -> list[Callback]:
        """Add the callback that stops a run which learns nothing, unless the trainer has one with settings of its own.

        Put in its place here: what is returned would come last, after evaluations that take long.
        """
        from cahl_pl.callbacks import StartSummary, StopIfNothingLearned  # here: callbacks import this module

        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        if not any(isinstance(callback, StopIfNothingLearned) for callback in callbacks):
            summaries = [i for i, callback in enumerate(callbacks) if isinstance(callback, StartSummary)]
            callbacks.insert(summaries[0] + 1 if summaries else 0, StopIfNothingLearned())
        return []

    def configure_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[Any]]:
        """One AdamW and one schedule per role, over the adapter's parameters found by name.

        Raises:
            ConfigError: a schedule that ends with the run, but nothing says where that is.
        """
        planned = self._data.planned_steps()
        taken = Counter(role for i, role in planned or () if i >= self._data.warm_start_rounds)
        optimizers: list[torch.optim.Optimizer] = []
        schedulers: list[Any] = []
        for role in ROLES:
            config = self.optimizer_config[role]
            if planned is None and config.lr_schedule in DECAYING and role in self._data.roles_of_epoch():
                raise ConfigError(
                    f"model.{role}.lr_schedule is {config.lr_schedule}, which ends with the run, but trainer.max_steps and "
                    f"trainer.max_epochs are both -1: give one of them, or --model.{role}.lr_schedule constant"
                )
            optimizer = torch.optim.AdamW(
                self.policy.parameters_of(role),
                lr=config.lr,
                betas=(config.betas[0], config.betas[1]),
                weight_decay=config.weight_decay,
            )
            optimizers.append(optimizer)
            # counted from the first round on, so that a resumed run finds the same number
            schedulers.append(get_scheduler(config.lr_schedule, optimizer, config.warmup_steps, max(1, taken[role])))
        return optimizers, schedulers

    @property
    def _data(self) -> RolloutDataModule:
        data: RolloutDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        return data

    def on_train_start(self) -> None:
        """What the configuration says now holds, also where a checkpoint has brought back older optimiser settings."""
        optimizers, schedulers = self.optimizers(), self.lr_schedulers()
        for index, role in enumerate(ROLES):
            config = self.optimizer_config[role]
            optimizer: Any = optimizers[index]  # type: ignore[index]
            scheduler: Any = schedulers[index]  # type: ignore[index]
            for group in optimizer.param_groups:
                group["betas"], group["weight_decay"] = tuple(config.betas), config.weight_decay
            scheduler.base_lrs = [config.lr] * len(optimizer.param_groups)
            factors = [factor(scheduler.last_epoch) for factor in scheduler.lr_lambdas]
            scheduler._last_lr = [config.lr * factor for factor in factors]

    # --- training ----------------------------------------------------------------------------------------------------

    def training_step(self, batch: RolloutBatch, batch_idx: int) -> None:
        """One optimiser step of the batch's role.

        Raises:
            StaleBatchError: the batch was sampled by an older policy of its role.
        """
        role = batch.role
        if self.policy.version[role] != batch.version + batch.update:
            raise StaleBatchError(
                f"a {role} batch sampled by version {batch.version} (update {batch.update} on it) met version "
                f"{self.policy.version[role]} of the {role}: the data loader must not fetch ahead of the optimiser"
            )
        index = ROLES.index(role)
        optimizer = self.optimizers()[index]  # type: ignore[index]
        scheduler = self.lr_schedulers()[index]  # type: ignore[index]
        config = self.optimizer_config[role]
        supervised = batch.objective == "supervised"
        for group in optimizer.param_groups:
            group["lr"] = config.warm_start_lr if supervised else scheduler.get_last_lr()[0]

        groups = batch.groups if supervised else self._with_advantages(batch.groups)
        self.policy.lm.zero_grad(set_to_none=True)
        metrics = dict(batch.metrics)
        lengths = [len(ids) for group in groups for ids in group.completion_ids]
        # over all processes: the loss is a mean over the whole batch, wherever its groups were sampled
        num_completions, num_tokens = sum_over_processes([len(lengths), sum(lengths)])
        if num_completions:
            parameters = self.policy.parameters_of(role)
            stats = self._backward(role, groups, batch, int(num_completions), int(num_tokens))
            sum_gradients(parameters)
            norm = torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
            # the norm is that of all processes' gradients: all of them skip, or none
            finite = bool(torch.isfinite(norm))
            if not finite:  # a step on it would destroy the adapter
                optimizer.zero_grad(set_to_none=True)
            metrics |= self._step_metrics(role, stats, norm, supervised)
            if batch.update == 0 and not supervised:  # later the policy itself has moved away from what was sampled
                metrics |= self._gap_metrics(role, stats)
            metrics[f"{role}/skipped"] = float(not finite)
            self._count_skipped(role, batch, finite)
        # Without gradients this moves nothing, not even the moments, but it counts: one optimiser step a training step.
        optimizer.step()
        if not supervised:
            scheduler.step()
        self.policy.version[role] += 1
        metrics[f"{role}/lr"] = optimizer.param_groups[0]["lr"]
        metrics[f"{role}/version"] = float(self.policy.version[role])
        self._log_step(role, metrics)

    def _log_step(self, role: Role, metrics: dict[str, float]) -> None:
        """Write a step's values; the x-axis is `trainer.global_step`, optimiser steps of both roles.

        Not through Lightning, which would write a role's last values once more with the other role's next step: a curve
        would have points that nothing was measured at, and a resumed run fewer of them.
        """
        self.log_dict(metrics, logger=False, batch_size=1)  # for callbacks
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if self.policy.version[role] % every == 0 and self.trainer.is_global_zero:
            for logger in self.trainer.loggers:
                logger.log_metrics({**metrics, "epoch": float(self.trainer.current_epoch)}, self.trainer.global_step)

    def _count_skipped(self, role: Role, batch: RolloutBatch, finite: bool) -> None:
        """Count a role's steps in a row that were not finite.

        Raises:
            NonFiniteError: there were too many; the last one's batch has been saved.
        """
        self.skipped[role] = 0 if finite else self.skipped[role] + 1
        if finite:
            return
        print(
            f"warning: the {role}'s gradients are not finite: step {self.trainer.global_step + 1} is skipped",
            flush=True,
        )
        if self.skipped[role] >= self.max_skipped_steps:
            path = run_folder(self.trainer) / f"{role}-batch-{self.trainer.global_rank}.pt"
            torch.save(batch.state(), path)
            raise NonFiniteError(
                f"{self.skipped[role]} steps of the {role} in a row had gradients that are not finite; the last batch is in "
                f"{path}: lower model.{role}.lr or max_grad_norm, and go on from an earlier checkpoint"
            )

    def _with_advantages(self, groups: list[Group]) -> list[Group]:
        """The groups that carry a signal, with their advantages; groups of equal rewards are left out."""
        joined = rewards_by_peers(groups)
        compared = dict(
            zip(joined, advantages(list(joined.values()), self.grpo.scale_rewards, self.grpo.epsilon), strict=True)
        )
        kept = []
        for group in groups:
            size = len(group.rewards)
            group.advantages, compared[group.peers] = compared[group.peers][:size], compared[group.peers][size:]
            if has_signal(joined[group.peers]):
                kept.append(group)
        return kept

    def _backward(
        self, role: Role, groups: list[Group], batch: RolloutBatch, num_completions: int, num_tokens: int
    ) -> LossStats:
        """Forward and backward of this process's groups in micro-batches; gradients end up in the role's adapter."""
        self.policy.activate(role)
        total = LossStats()
        with self.policy.training_mode():
            groups = [group.to(self.policy.device) for group in groups]
            for part in micro_batches(self.policy, groups, self.max_tokens_per_micro_batch):
                reference = None
                if batch.objective == "grpo" and self.grpo.kl > 0:
                    with torch.no_grad(), self.policy.without_adapters():
                        reference = score(self.policy, part, batch.temperature).logprobs
                scores = score(self.policy, part, batch.temperature)
                if batch.objective == "supervised":
                    loss, stats = supervised_loss(scores.logprobs, scores.mask, num_tokens)
                else:
                    loss, stats = grpo_loss(
                        scores.logprobs,
                        part.logprobs if batch.update > 0 else None,
                        reference,
                        part.advantages,
                        scores.mask,
                        self.grpo,
                        num_completions,
                        num_tokens,
                        part.logprobs if batch.update == 0 else None,
                    )
                stats.entropy = scores.entropy.sum().item()
                total.add(stats)
                self.manual_backward(loss)
        if groups:
            self._check_gradients(role)
        return total

    def _check_gradients(self, role: Role) -> None:
        """On the role's first step: its adapter, and nothing else, has received gradients.

        Raises:
            RuntimeError: gradients went missing or elsewhere; training would silently do nothing or too much.
        """
        if role in self._checked:
            return
        named = list(self.policy.lm.named_parameters())
        own = [(n, p) for n, p in named if f".{role}." in n]
        missing = [n for n, p in own if p.grad is None]
        if not missing and not any(p.grad.any() for n, p in own if "lora_B" in n):  # lora_A's is 0 while lora_B is
            # by itself no error: the advantages of equal completions cancel
            self._without_gradient[role] += 1
            if self._without_gradient[role] < 20:
                return
            missing = ["any lora_B"]
        stray = [n for n, p in named if f".{role}." not in n and p.grad is not None]
        if missing or stray:
            raise RuntimeError(
                f"the first {role} step gave no gradient to {missing[:2]} and a gradient to {stray[:2]}: the {role}'s "
                "adapter alone must receive gradients; this is an error of the program or of an installed version of peft"
            )
        self._checked.add(role)

    def _step_metrics(self, role: Role, stats: LossStats, norm: Tensor, supervised: bool) -> dict[str, float]:
        tokens = max(stats.tokens, 1.0)
        if supervised:
            return {f"{role}/warm_start/loss": stats.loss, f"{role}/grad_norm": norm.item()}
        metrics = {
            f"{role}/loss": stats.loss,
            f"{role}/entropy": stats.entropy / tokens,
            f"{role}/clip/low": stats.low / tokens,
            f"{role}/clip/high": stats.high / tokens,
            f"{role}/ratio": stats.ratio / tokens,
            f"{role}/grad_norm": norm.item(),
        }
        return metrics | ({f"{role}/kl": stats.kl / tokens} if self.grpo.kl > 0 else {})

    def _gap_metrics(self, role: Role, stats: LossStats) -> dict[str, float]:
        """How far the engine's log-probabilities are from those of the loss: rounding, or another model altogether."""
        tokens = max(stats.tokens, 1.0)
        metrics = {f"{role}/engine_gap/mean": stats.gap / tokens, f"{role}/engine_gap/max": stats.gap_max}
        capped = {f"{role}/engine_gap/capped": stats.capped / tokens}
        return metrics | (capped if self.grpo.importance_cap is not None else {})

    # --- evaluation ----------------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Start counting afresh."""
        benchmark = self._data.validation_benchmark
        self._evaluation = {"val": ToolUse()} if benchmark is None else {}
        self._benchmarks = [] if benchmark is None else [self._start_benchmark("val", benchmark, None)]

    def validation_step(self, batch: list[Any], batch_idx: int) -> None:
        """Greedy episodes of validation tasks, or of the tasks at a benchmark's indices."""
        if self._benchmarks:
            self._benchmarks[0].step(batch)
        else:
            self._evaluation["val"].update(self._data.evaluate(batch))

    def on_validation_epoch_end(self) -> None:
        """Log `val/...`."""
        self._log_evaluation()

    def on_test_epoch_start(self) -> None:
        """Start counting afresh, one set of metrics per test set; benchmarks go on from their records."""
        self._evaluation = {name: ToolUse() for name in self._data.test_tasks}
        folder = (self._data.results or run_folder(self.trainer)) if self._data.benchmarks else None
        self._benchmarks = [self._start_benchmark(n, b, folder) for n, b in self._data.benchmarks.items()]

    def test_step(self, batch: list[Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Greedy episodes of one test set's tasks, or of the tasks at a benchmark's indices."""
        if dataloader_idx < len(self._evaluation):
            list(self._evaluation.values())[dataloader_idx].update(self._data.evaluate(batch))
        else:
            self._benchmarks[dataloader_idx - len(self._evaluation)].step(batch)

    def on_test_epoch_end(self) -> None:
        """Log `<test set>/...`."""
        self._log_evaluation()

    def predict_step(self, batch: list[Task], batch_idx: int, dataloader_idx: int = 0) -> list[dict[str, Any]]:
        """Greedy episodes as records, to be written down."""
        return [record(trajectory) for trajectory in self._data.evaluate(batch)]

    def _start_benchmark(self, name: str, benchmark: Benchmark, folder: Path | None) -> BenchmarkRun:
        """A run of a benchmark with this model, its checkpoint, prompts and limits.

        Raises:
            ConfigError: there are several processes, or the folder holds records of other settings.
        """
        if self.trainer.world_size > 1:
            raise ConfigError(
                f"the benchmark {name} runs in one process, so that its records stand in one file: use --trainer.devices 1 "
                "--trainer.strategy auto"
            )
        rollout = self._data.rollout.config
        settings = {
            "checkpoint": self.trainer.ckpt_path,
            "policy": asdict(self.policy.config),
            "prompts": asdict(self._data.prompts),
            "max_steps": rollout.max_steps,
            "max_prompt_tokens": rollout.max_prompt_tokens,
            "max_new_tokens": {
                "planner": rollout.planner.max_new_tokens,
                "executor": rollout.executor.max_new_tokens,
            },
        }
        return BenchmarkRun(benchmark, name, folder, settings, self._data)

    def _log_evaluation(self) -> None:
        # Lightning counts from 0 again where a checkpoint is only tested
        tested = self.trainer.state.fn != "fit" and self.trainer.ckpt_path is not None
        step = float(self._checkpoint_step if tested else self.trainer.global_step)
        for run in self._benchmarks:
            scores = {f"{run.name}/{tag}": value for tag, value in run.finish().items()}
            self.log_dict(scores | {"step": step}, batch_size=1)
        for name, metric in self._evaluation.items():
            values = {f"{name}/{tag}": value for tag, value in metric.compute().items()}
            self.log_dict(values | {"step": step}, batch_size=1)

    # --- state -----------------------------------------------------------------------------------------------------------

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The adapters alone: the frozen base is never written to a checkpoint."""
        return self.policy.adapter_state()

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load what `state_dict` gave."""
        self.policy.load_adapter_state(dict(state_dict))
        return torch.nn.modules.module._IncompatibleKeys([], [])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the policy's versions and its configuration."""
        checkpoint["policy_version"] = dict(self.policy.version)
        checkpoint["policy_config"] = asdict(self.policy.config)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the policy's versions.

        Raises:
            PolicyError: its adapters mean something else in the policy as it is configured now.
        """
        self._checkpoint_step = int(checkpoint["global_step"])
        self.policy.check_config(checkpoint["policy_config"])
        self.policy.version.update(checkpoint["policy_version"])
