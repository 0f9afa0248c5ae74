"""CAHL as a LightningModule: it owns the policy and takes one role's optimiser step per training step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.strategies import ParallelStrategy

from cahl_pl.benchmarks.evaluation import Evaluation
from cahl_pl.benchmarks.settings import run_settings
from cahl_pl.datamodule import RolloutDataModule
from cahl_pl.distributed import AdapterDDPStrategy, broadcast, differing_processes
from cahl_pl.engines.self_check import check_computation
from cahl_pl.errors import ConfigError, NonFiniteError, PolicyError, StaleBatchError
from cahl_pl.grpo.advantages import Scoring, has_signal, scores
from cahl_pl.grpo.config import GRPOConfig, RoleGRPOConfig
from cahl_pl.optimizers import (
    DECAYING,
    OptimizerConfig,
    check_state,
    hold_to,
    make_optimizer,
    scheduled_rate,
)
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.policy.policy import Policy
from cahl_pl.policy.precision import check_attention, check_precision
from cahl_pl.policy.reference import keep_reference
from cahl_pl.rewards.base import BaseReward, weights_of
from cahl_pl.rollout.config import RolloutConfig
from cahl_pl.runs.folder import run_folder
from cahl_pl.runs.records import record
from cahl_pl.runs.trackers import fit_names
from cahl_pl.types import ROLES, Group, Role, RolloutBatch, Task
from cahl_pl.updates import Updates

if TYPE_CHECKING:
    from cahl_pl.callbacks import TokenBudget


class CAHLModule(LightningModule):
    """Training of both roles of CAHL by GRPO.

    Each training step gets one role's batch from the data module, makes that role's adapter active, takes one optimiser
    step of it, and leaves the other adapter's bytes as they are.

    Args:
        policy: base model and adapters.
        grpo: advantages and loss of both roles.
        planner: the planner's optimiser.
        executor: the executor's optimiser.
        planner_grpo: the planner's own values for keys of `grpo`.
        executor_grpo: the executor's own values.
        max_tokens_per_micro_batch: tokens of one forward and backward pass, padding included, shared tokens counted
            once. The gradient does not depend on it, only memory and speed do: a prompt whose samples do not fit in
            together is computed again.
        max_skipped_steps: stop when this many steps of a role in a row had a loss or gradients that were not finite. Such
            a step changes no weights and is counted.

    Raises:
        ValueError: max_skipped_steps is below 1, or a role's own values do not go with the rest.
    """

    def __init__(
        self,
        policy: PolicyConfig = PolicyConfig(),  # noqa: B008 - jsonargparse reads nested defaults from here
        grpo: GRPOConfig = GRPOConfig(),  # noqa: B008
        planner: OptimizerConfig = OptimizerConfig(),  # noqa: B008
        executor: OptimizerConfig = OptimizerConfig(),  # noqa: B008
        planner_grpo: RoleGRPOConfig = RoleGRPOConfig(),  # noqa: B008
        executor_grpo: RoleGRPOConfig = RoleGRPOConfig(),  # noqa: B008
        max_tokens_per_micro_batch: int = 16384,
        max_skipped_steps: int = 5,
    ) -> None:
        super().__init__()
        if max_skipped_steps < 1:
            raise ValueError(f"model.max_skipped_steps is {max_skipped_steps}: give 1 or more")
        self.automatic_optimization = False
        self.policy = Policy(policy)
        self.grpo: dict[Role, GRPOConfig] = {
            "planner": planner_grpo.over(grpo, "planner"),
            "executor": executor_grpo.over(grpo, "executor"),
        }
        self.optimizer_config: dict[Role, OptimizerConfig] = {"planner": planner, "executor": executor}
        self.max_tokens_per_micro_batch = max_tokens_per_micro_batch
        self.max_skipped_steps = max_skipped_steps
        self.updates = Updates(self.policy, self.grpo, max_tokens_per_micro_batch)
        self._checkpoint_step = 0  # of the checkpoint that was loaded last
        self._num_steps: dict[Role, int] = {}
        self._evaluation: Evaluation | None = None

    # --- set-up ------------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Check that the processes can train one of two adapters at a time, and run the passes that a sharded base requires.

        Raises:
            ConfigError: the strategy cannot; or each process would run a sharded base as often as its own tasks need.
        """
        fit_names(self.trainer)
        if self.policy.config.shard_base and self.trainer.world_size > 1:
            self._data.rollout.engine.check_sharded_base()
            if stage == "fit" and self._data.rollout.planner_reward.reads_probabilities and not self._data.single_level:
                raise ConfigError(
                    "model.policy.shard_base is true, but data.planner_reward asks the executor in each process how likely the "
                    "calls of its own tasks are: leave out w_prob, or shard_base"
                )
        strategy = self.trainer.strategy
        if stage == "fit" and isinstance(strategy, ParallelStrategy) and not isinstance(strategy, AdapterDDPStrategy):
            raise ConfigError(
                f"trainer.strategy comes to {type(strategy).__name__}, which wants gradients of both adapters in every step: "
                "use --trainer.strategy adapter_ddp, or one device with --trainer.devices 1 --trainer.strategy auto"
            )

    def configure_model(self) -> None:
        """Load base and adapters on the right device, before optimisers and strategy see them.

        Raises:
            ConfigError: `trainer.precision` is not 32-true, the configuration allows sequences that the base cannot take, or
                an attention that cannot train here.
            PolicyError: the base does not compute here what it computes in plain passes.
        """
        if self._trainer is None:
            self.policy.load("cpu")
            return
        check_precision(self.trainer)
        if self.trainer.training:
            check_attention(self.trainer.strategy.root_device, self.policy.config)
        data = getattr(self.trainer, "datamodule", None)
        examine = data.check_prompts if isinstance(data, RolloutDataModule) else None
        self.policy.load(self.trainer.strategy.root_device, self._longest(), examine)
        if self.policy.config.check_base:
            check_computation(self.policy)
        for role in ROLES:
            broadcast(self.policy.parameters_of(role))
            if self.policy.config.adapters is not None and self.grpo[role].kl > 0:
                keep_reference(self.policy, role)

    def _longest(self) -> int:
        """Return the tokens of the longest sequence that the configuration allows; 0 without data."""
        rollout = getattr(getattr(self.trainer, "datamodule", None), "rollout", None)
        if rollout is None:
            return 0
        config: RolloutConfig = rollout.config
        return config.longest

    def configure_callbacks(self) -> list[Callback]:
        """Add the callback that stops a run which learns nothing, unless the trainer already has one.

        It is inserted here: returned callbacks would come last, after evaluations that take long.
        """
        from cahl_pl.callbacks import StartSummary, StopIfNothingLearned  # here: callbacks import this module

        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        if not any(isinstance(callback, StopIfNothingLearned) for callback in callbacks):
            summaries = [i for i, callback in enumerate(callbacks) if isinstance(callback, StartSummary)]
            callbacks.insert(summaries[0] + 1 if summaries else 0, StopIfNothingLearned())
        return []

    def configure_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[Any]]:
        """Return one AdamW and one schedule per role, over the adapter's parameters found by name.

        Raises:
            ConfigError: a schedule ends with the run, but nothing determines where that is.
        """
        planned = self._data.planned_steps()
        taken = Counter(role for i, role in planned or () if i >= self._data.warm_start_rounds)
        optimizers: list[torch.optim.Optimizer] = []
        schedulers: list[Any] = []
        for role in ROLES:
            config = self.optimizer_config[role]
            self._num_steps[role] = max(1, taken[role])
            if planned is None and config.lr_schedule in DECAYING and role in self._data.roles_of_epoch():
                if not self._budgets:
                    raise ConfigError(
                        f"model.{role}.lr_schedule is {config.lr_schedule}, which ends with the run, but trainer.max_steps and "
                        f"trainer.max_epochs are both -1: give one of them, or --model.{role}.lr_schedule constant"
                    )
                self._num_steps[role] = 10**9  # the budget alone determines where the run ends
            named = {name: p for name, p in self.policy.lm.named_parameters() if f".{role}." in name}
            # counted from the first round on, so that a resumed run finds the same number
            optimizer, scheduler = make_optimizer(named, config, self._num_steps[role])
            optimizers.append(optimizer)
            schedulers.append(scheduler)
        return optimizers, schedulers

    @property
    def _data(self) -> RolloutDataModule:
        data: RolloutDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        return data

    @property
    def _budgets(self) -> list[TokenBudget]:
        from cahl_pl.callbacks import TokenBudget  # here: callbacks import this module

        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        return [callback for callback in callbacks if isinstance(callback, TokenBudget)]

    def on_train_start(self) -> None:
        """Check that all processes train one policy, and apply the configured optimiser settings over those restored.

        Raises:
            PolicyError: adapters differ between processes; every step would add up gradients of different policies.
        """
        for role in ROLES:
            if apart := differing_processes(self.policy.parameters_of(role)):
                raise PolicyError(
                    f"the {role}'s adapter in process {', '.join(map(str, apart))} is not that of process 0: every process "
                    "must read the same --ckpt_path and configuration; look for a checkpoint that differs between machines"
                )
        optimizers, schedulers = self.optimizers(), self.lr_schedulers()
        for index, role in enumerate(ROLES):
            hold_to(optimizers[index], schedulers[index], self.optimizer_config[role])  # type: ignore[index]
        self._data.rollout.engine.start_training(self.policy)

    def on_train_end(self) -> None:
        """Abandon a round that is still being sampled: the run has ended before it."""
        self._data.stream.abandon(wait_s=30.0)

    # --- training ----------------------------------------------------------------------------------------------------

    def training_step(self, batch: RolloutBatch, batch_idx: int) -> None:
        """Take one optimiser step of the batch's role.

        Raises:
            StaleBatchError: the batch was sampled by an older policy of its role.
        """
        role = batch.role
        if self.policy.version[role] != batch.version + batch.lag + batch.update:
            raise StaleBatchError(
                f"a {role} batch sampled by version {batch.version} (lag {batch.lag}, update {batch.update} on it) met version "
                f"{self.policy.version[role]} of the {role}: the data loader must not fetch ahead of the optimiser"
            )
        index, config = ROLES.index(role), self.optimizer_config[role]
        scheduler: Any = self.lr_schedulers()[index]  # type: ignore[index]
        spent = max((budget.spent for budget in self._budgets), default=0.0)
        rate = scheduled_rate(scheduler, config, self._num_steps[role], spent)
        optimizer = self.optimizers()[index]  # type: ignore[index]
        scoring = self.scoring(role)
        with self._data.stream.update():
            metrics = self.updates.take(batch, optimizer, scheduler, config, rate, scoring, self.manual_backward)
            if self._data.lag:
                metrics[f"{role}/lag"] = float(self.policy.version[role] - batch.version)
            self.policy.version[role] += 1
        metrics[f"{role}/version"] = float(self.policy.version[role])
        self._log_step(role, metrics)
        if metrics.get(f"{role}/skipped"):
            self._tell_skipped(role, batch)

    def on_train_epoch_end(self) -> None:
        """Check that the epoch was not left in the middle, which Lightning does silently.

        Raises:
            ConfigError: it was, and the next one would be too.
        """
        if self._data.stream.is_waiting:
            raise ConfigError(
                "a callback has raised StopIteration (as next() does at an end), by which Lightning skips the rest of an epoch "
                "without a word: a batch would never be trained on; catch it"
            )

    def _log_step(self, role: Role, metrics: dict[str, float]) -> None:
        """Write a step's values; the x-axis is `trainer.global_step`, optimiser steps of both roles.

        This bypasses Lightning, which would write a role's last values once more with the other role's next step: curves
        would have points where nothing was measured, and a resumed run fewer of them.
        """
        self.log_dict(metrics, logger=False, batch_size=1)  # for callbacks
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if self.policy.version[role] % every == 0 and self.trainer.is_global_zero:
            for logger in self.trainer.loggers:
                logger.log_metrics({**metrics, "epoch": float(self.trainer.current_epoch)}, self.trainer.global_step)

    def _tell_skipped(self, role: Role, batch: RolloutBatch) -> None:
        """Warn of a step that was not finite.

        Raises:
            NonFiniteError: there were too many in a row; the last one's batch has been saved.
        """
        print(f"warning: the {role}'s gradients are not finite: step {self.trainer.global_step} is skipped", flush=True)
        if self.updates.skipped[role] >= self.max_skipped_steps:
            path = run_folder(self.trainer) / f"{role}-batch-{self.trainer.global_rank}.pt"
            torch.save(batch.state(), path)
            raise NonFiniteError(
                f"{self.updates.skipped[role]} steps of the {role} in a row had gradients that are not finite; the last batch "
                f"is in {path}: lower model.{role}.lr or max_grad_norm, and go on from an earlier checkpoint"
            )

    def scoring(self, role: Role, reward: BaseReward | None = None) -> Scoring:
        """Return the scoring that decides the advantages of the role's groups; by `reward` instead of the one trained on."""
        data = self._data
        if reward is None:
            reward = data.reward_of(role)
        sampling = data.rollout.config.planner if role == "planner" else data.rollout.config.executor
        weights = {} if self.grpo[role].aggregate_rewards == "sum_then_normalize" else weights_of(reward)
        return Scoring(self.grpo[role], weights, sampling.max_new_tokens)

    def comparisons_with_signal(self, role: Role, groups: list[Group], reward: BaseReward | None = None) -> set[int]:
        """Return the comparisons among these groups that the role could learn from; `reward` as in `scoring`."""
        found = scores(groups, self.scoring(role, reward))
        return {comparison_id for comparison_id, score in found.items() if has_signal(score)}

    # --- evaluation ----------------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Reset the counts."""
        benchmark = self._data.validation_benchmark
        if benchmark is None:
            self._evaluation = Evaluation(self._data, ["val"], device=self.device)
        else:
            self._evaluation = Evaluation(self._data, (), {"val": benchmark}, None, self._benchmark_settings("val"))

    def validation_step(self, batch: list[Any], batch_idx: int) -> None:
        """Play greedy episodes of validation tasks, or of the tasks at a benchmark's indices."""
        self._running_evaluation.step(batch)

    def on_validation_epoch_end(self) -> None:
        """Log `val/...`."""
        self._log_evaluation()

    def on_test_epoch_start(self) -> None:
        """Reset the counts, one set of metrics per test set; benchmarks resume from their records."""
        data = self._data
        folder = (data.results or run_folder(self.trainer)) if data.benchmarks else None
        settings = self._benchmark_settings(*data.benchmarks) if data.benchmarks else None
        self._evaluation = Evaluation(data, data.test_tasks, data.benchmarks, folder, settings, self.device)

    def test_step(self, batch: list[Any], batch_idx: int, dataloader_idx: int = 0) -> dict[str, list[bool]]:
        """Play greedy episodes of one test set's tasks, or of the tasks at a benchmark's indices."""
        return {"solved": self._running_evaluation.step(batch, dataloader_idx)}

    def on_test_epoch_end(self) -> None:
        """Log `<test set>/...`."""
        self._log_evaluation()

    def predict_step(self, batch: list[Task], batch_idx: int, dataloader_idx: int = 0) -> list[dict[str, Any]]:
        """Return greedy episodes as records, to be written."""
        return [record(trajectory) for trajectory in self._data.evaluate(batch)]

    @property
    def _running_evaluation(self) -> Evaluation:
        assert self._evaluation is not None  # Lightning calls its steps after the start of its epoch
        return self._evaluation

    def _benchmark_settings(self, *names: str) -> dict[str, Any]:
        """Return the settings that benchmarks' records belong to: checkpoint, model, prompts and limits.

        Raises:
            ConfigError: there are several processes.
        """
        if self.trainer.world_size > 1:
            raise ConfigError(
                f"the benchmark {names[0]} runs in one process, so that its records stand in one file: use "
                "--trainer.devices 1 --trainer.strategy auto"
            )
        return run_settings(self.policy.config, self._data, self.trainer.ckpt_path)

    def _log_evaluation(self) -> None:
        # Lightning counts from 0 again where a checkpoint is only tested
        tested = self.trainer.state.fn != "fit" and self.trainer.ckpt_path is not None
        step = float(self._checkpoint_step if tested else self.trainer.global_step)
        for values in self._running_evaluation.results():
            self.log_dict(values | {"step": step}, batch_size=1)

    # --- state -----------------------------------------------------------------------------------------------------------

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Return the adapters alone: the frozen base is never written to a checkpoint."""
        return self.policy.adapter_state()

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load what `state_dict` returned."""
        self.policy.load_adapter_state(dict(state_dict))
        return torch.nn.Module().load_state_dict({})  # torch's way to say that all keys matched

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the policy's versions, its configuration, and the roles in the warm start."""
        checkpoint["policy_version"] = dict(self.policy.version)
        checkpoint["policy_config"] = asdict(self.policy.config)
        checkpoint["warm"] = [role for role in ROLES if role in self.updates.warm]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the policy's versions.

        Raises:
            PolicyError: its adapters would act differently in the policy as it is configured now.
            ConfigError: its optimisers group their parameters differently.
        """
        self._checkpoint_step = taken = int(checkpoint["global_step"])
        most: int = self.trainer.max_steps
        if self.trainer.state.fn == "fit" and 0 < most <= taken and self.trainer.is_global_zero:
            print(
                f"there is nothing left to train: the checkpoint is of step {taken}, and trainer.max_steps is {most}; raise it "
                "to go on",
                flush=True,
            )
        self.policy.check_config(checkpoint["policy_config"])
        for role, state in zip(ROLES, checkpoint.get("optimizer_states", ()), strict=False):
            check_state(role, self.optimizer_config[role], state)
        self.policy.version.update(checkpoint["policy_version"])
        self.updates.warm = set(
            checkpoint.get("warm", ())
        )  # an old checkpoint resumes with the bare base as its reference
