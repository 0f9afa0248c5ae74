"""The rollout data module: streams one role's batch at a time, sampled from its adapter at that time."""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import DataLoader

from cahl_pl.benchmarks.base import Benchmark
from cahl_pl.datasets.base import TaskSource, changes, fingerprints
from cahl_pl.datasets.own_tasks import checked
from cahl_pl.datasets.requests import Requests
from cahl_pl.engines.base import Engine
from cahl_pl.engines.local import TransformersEngine
from cahl_pl.environments.base import Environment
from cahl_pl.errors import ConfigError
from cahl_pl.policy.policy import Policy
from cahl_pl.prompts import PromptBuilder, PromptConfig
from cahl_pl.rewards.base import BaseExecutorReward, BasePlannerReward, BaseReward, BaseTurnReward
from cahl_pl.rewards.executor import ExecutorReward
from cahl_pl.rewards.planner import PlannerReward
from cahl_pl.rewards.turn import TurnReward
from cahl_pl.rollout.ahead import RoundAhead, RoundStart, Sampled, SamplingThread, check_lag, freeze
from cahl_pl.rollout.batches import gold_batches, sampled_batches
from cahl_pl.rollout.calls import builder_for
from cahl_pl.rollout.config import InferenceConfig, RolloutConfig
from cahl_pl.rollout.episode import Round, Watch
from cahl_pl.rollout.evaluation import evaluate, make_player, notice_of_too_long
from cahl_pl.rollout.loaders import EpochOfBatches, Share
from cahl_pl.rollout.stream import BatchStream
from cahl_pl.rollout.training_round import RoundTasks, play_round, player_of, start_round
from cahl_pl.rollout.two_level import Rollout
from cahl_pl.sampling import Shuffled, TaskSampler
from cahl_pl.schedules import Alternate, ExecutorOnly, Schedule, roles_of
from cahl_pl.types import ROLES, Role, RolloutBatch, Task, Trajectory


class RolloutDataModule(LightningDataModule):
    """Data module that draws tasks, asks for rollouts and streams role batches.

    An epoch is one pass over the training tasks. It is cut into rounds of `tasks_per_round` tasks; the schedule says
    which roles step after each round. The loader has a length, so that Lightning never fetches ahead of the optimiser.

    Args:
        train: the training tasks.
        environment: the environment that answers the calls.
        validation: tasks, or a benchmark, for `validate` and for the validation runs during `fit`.
        test: named sets of tasks for `test` and for the before-and-after table, and named benchmarks for `test`.
        requests: the user's own requests, which `predict` runs instead of the sets of tasks in `test`; see `Requests`.
        results: folder of the records and reports of benchmarks, `<name>.jsonl` and `<name>.json`; None for the run's
            folder. A run that is restarted with the same folder continues where it stopped.
        prompts: the text around a task.
        engine: the engine that samples tokens.
        planner_reward: R_h.
        executor_reward: R_l.
        schedule: the roles that step after each round.
        rollout: group sizes, branching, sampling, limits.
        single_level: no planner: the executor's adapter reads the request and calls tools turn by turn, in training and
            evaluation. The planner then takes no steps, and `planner_reward` and `executor_reward` are not used.
        turn_reward: the reward for an output of such an executor; only with `single_level`.
        inference: how episodes are run at test time.
        sampler: the sampler that draws a round's tasks.
        tasks_per_round: requests per round, over all processes.
        updates_per_round: optimiser steps of a role on the same batch; above 1 the later ones are off-policy and
            clipped by their importance ratio.
        refills_per_round: dynamic sampling: while groups of a role that is trained carry no signal, further tasks are
            sampled in their place, at most this many times per round; 0 keeps such groups. The order of the tasks and the
            number of rounds per epoch do not change.
        warm_start_rounds: number of rounds, from the first, that imitate gold plans and calls instead of sampling.
        lag: 1: an engine that samples elsewhere (`ServerEngine`) samples each round during the updates on the round before,
            from the policy before these updates; it needs `model.grpo.importance`. 0: after them.
        eval_batch_size: tasks evaluated at once.
        seed: seed for the order of the tasks and for the sampling.

    Attributes:
        watch: function that gets the events of an episode of `evaluate` with one task, as they happen; None for none.

    Raises:
        ValueError: a size is below 1, `lag` neither 0 nor 1, or `turn_reward` given without `single_level`.
    """

    def __init__(
        self,
        train: TaskSource,
        environment: Environment,
        validation: TaskSource | Benchmark | None = None,
        test: dict[str, TaskSource | Benchmark] | None = None,
        requests: TaskSource | None = None,
        results: str | None = None,
        prompts: PromptConfig = PromptConfig(),  # noqa: B008 - jsonargparse reads nested defaults from here
        engine: Engine | None = None,
        planner_reward: BasePlannerReward | None = None,
        executor_reward: BaseExecutorReward | None = None,
        schedule: Schedule | None = None,
        rollout: RolloutConfig = RolloutConfig(),  # noqa: B008
        single_level: bool = False,
        turn_reward: BaseTurnReward | None = None,
        inference: InferenceConfig = InferenceConfig(),  # noqa: B008
        sampler: TaskSampler | None = None,
        tasks_per_round: int = 16,
        updates_per_round: int = 1,
        refills_per_round: int = 0,
        warm_start_rounds: int = 0,
        lag: int = 0,
        eval_batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if (
            min(tasks_per_round, updates_per_round, eval_batch_size) < 1
            or min(warm_start_rounds, refills_per_round) < 0
        ):
            raise ValueError(
                "data.tasks_per_round, updates_per_round and eval_batch_size must be at least 1, and "
                "warm_start_rounds and refills_per_round at least 0"
            )
        if lag not in (0, 1):
            raise ValueError(f"data.lag is {lag}: give 0, or 1 to sample a round while the one before is trained on")
        alone = single_level if inference.single_level is None else inference.single_level
        if alone and (inference.plans > 1 or inference.replans):
            raise ValueError(
                "data.inference has plans or replans, which episodes without a planner have not: leave them out"
            )
        if turn_reward is not None and not single_level:  # the other way round is an overlay over a usual configuration
            raise ValueError("data.single_level is false, so that nothing would use data.turn_reward: leave that out")
        self.train_tasks = checked(train)
        self.validation_tasks = checked(validation) if isinstance(validation, TaskSource) else None
        self.validation_benchmark = validation if isinstance(validation, Benchmark) else None
        self.test_tasks = {name: checked(one) for name, one in (test or {}).items() if isinstance(one, TaskSource)}
        self.benchmarks = {name: source for name, source in (test or {}).items() if isinstance(source, Benchmark)}
        self.requests = requests if requests is None else checked(requests)
        self.watch: Watch | None = None
        self.results = None if results is None else Path(results)
        self.prompts = prompts
        self.schedule = schedule or (ExecutorOnly() if single_level else Alternate())
        self.rollout = Rollout(
            engine or TransformersEngine(),
            environment,
            planner_reward or PlannerReward(),
            executor_reward or ExecutorReward(),
            copy.deepcopy(rollout),  # the default is one shared object
        )
        self.single_level = single_level
        self.turn_reward = turn_reward or TurnReward()
        self.inference = inference
        self.sampler = sampler or Shuffled()
        self.tasks_per_round = tasks_per_round
        self.updates_per_round = updates_per_round
        self.refills_per_round = refills_per_round
        self.warm_start_rounds = warm_start_rounds
        self.lag = lag
        self.eval_batch_size = eval_batch_size
        self.seed = seed
        self.stream = BatchStream(seed, self.sampler)
        self.evaluating = False
        self.evaluated_tokens = 0  # sampled by `evaluate` so far
        self._told_too_long = False
        self._builder: PromptBuilder | None = None
        self.round_tasks: RoundTasks | None = None  # this process's share of the round that was begun last
        self._sampling_thread = SamplingThread()
        self._started_round = -1
        self._rewards_ahead: dict[Role, BaseReward] = {}

    def setup(self, stage: str) -> None:
        """Check that there are tasks to run, and that every role to be trained has samples to compare.

        Raises:
            ConfigError: there are no tasks for `validate`, `test` or `predict`; a role to be trained has groups of one, which
                have no advantage; the engine cannot train; or the lag is impossible, see `check_lag`.
        """
        if stage == "validate" and self.validation_tasks is None and self.validation_benchmark is None:
            raise ConfigError("there is nothing to validate on: give data.validation tasks or a benchmark")
        if stage == "test" and not (self.test_tasks or self.benchmarks):
            raise ConfigError("there is nothing to test on: give data.test a named set of tasks or a benchmark")
        if stage == "predict" and self.requests is None and not self.test_tasks:
            raise ConfigError("there is nothing to predict: give data.requests, or data.test a named set of tasks")
        if stage != "fit":
            return
        self._started_round = -1
        self.stream.abandon(wait_s=30.0)  # of an earlier run
        self.rollout.engine.check_training()
        if self.lag:
            self.rollout.engine.check_lag()
            module: Any = self._attached.lightning_module
            reads = self.rollout.planner_reward.reads_probabilities and not self.single_level
            check_lag(module.grpo, self.roles_of_epoch(), self._attached.world_size, self.refills_per_round, reads)
            # the round trained on meanwhile keeps its own; without a planner both roles share one
            copies = {id(reward): copy.copy(reward) for reward in map(self.reward_of, ROLES)}
            self._rewards_ahead = {role: copies[id(self.reward_of(role))] for role in ROLES}
        self.inference.check_training(self.rollout.config)
        self.rollout.config.check_replans(self.single_level, map(self.reward_of, ROLES))
        self.stream.generator.manual_seed(self.seed + self._attached.global_rank)  # processes must not sample the same
        # a schedule's epochs may differ in length
        self._attached.reload_dataloaders_every_n_epochs = 1  # type: ignore[attr-defined]
        if self.single_level and "planner" in self.roles_of_epoch():
            raise ConfigError(
                "data.single_level trains the executor alone, but data.schedule gives the planner steps: use "
                "--data.schedule cahl_pl.schedules.ExecutorOnly"
            )
        if sampled := self._roles_that_sample():
            self.rollout.config.check_sampling()
            self.rollout.config.check_groups(sampled)
            if self.rollout.config.constrained:
                self.rollout.engine.check_constrained_training()

    def train_dataloader(self) -> DataLoader[RolloutBatch]:
        """Return the stream of role batches. The policy lives in this process, so there are no worker processes."""
        return DataLoader(EpochOfBatches(self.batches, lambda: len(self.roles_of_epoch())), batch_size=None)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Return batches of validation tasks, or of a benchmark's indices."""
        if self.validation_benchmark is not None:
            return self._loader(range(len(self.validation_benchmark)))
        return [] if self.validation_tasks is None else self._loader(self.validation_tasks)

    def test_dataloader(self) -> list[DataLoader[Any]]:
        """Return one loader per set of tasks, then one per benchmark, each in the order of `test`; benchmarks yield indices."""
        loaders = [self._loader(tasks) for tasks in self.test_tasks.values()]
        return loaders + [self._loader(range(len(benchmark))) for benchmark in self.benchmarks.values()]

    def predict_dataloader(self) -> list[DataLoader[Any]]:
        """Return the user's requests or, without any, the sets of tasks again; benchmarks write their own records."""
        sources = self.test_tasks.values() if self.requests is None else [self.requests]
        return [self._loader(tasks) for tasks in sources]

    def _loader(self, items: TaskSource | range) -> DataLoader[Any]:
        """Return a loader of this process's share."""
        share = Share(items, self.eval_batch_size, self._attached.global_rank, self._attached.world_size)
        return DataLoader(share, batch_size=None, collate_fn=list)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leave batches as they are: tasks would be taken apart, and groups are packed on the host."""
        return batch

    def on_exception(self, exception: BaseException) -> None:
        """Stop the thread that samples a round ahead; a checkpoint, if any, has already been written."""
        self.stream.abandon(wait_s=0.0)

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the stream and fingerprints of the files' rows; all processes have to call it together."""
        return self.stream.state_dict(self._shape()) | {"rows": fingerprints(self._sources)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume where `state_dict` was taken; do nothing except in training, which alone reads the stream.

        Raises:
            ConfigError: see `BatchStream.load_state_dict`.
        """
        if not any(getattr(self.trainer, stage, False) for stage in ("testing", "validating", "predicting")):
            rank, world_size = self._attached.global_rank, self._attached.world_size
            self.stream.load_state_dict(state_dict, self._shape(), self.rounds_per_epoch, rank, world_size)
            if rank == 0:
                for line in changes(self._sources, state_dict.get("rows", {})):
                    print(f"changed since the checkpoint: {line}", flush=True)

    @property
    def _sources(self) -> dict[str, TaskSource]:
        """The sources of tasks by their keys in the configuration."""
        tests = {f"data.test.{name}": tasks for name, tasks in self.test_tasks.items()}
        validation = {} if self.validation_tasks is None else {"data.validation": self.validation_tasks}
        return {"data.train": self.train_tasks} | validation | tests

    def _shape(self) -> dict[str, Any]:
        """Return the settings on which the position in the stream depends."""
        return {
            "train (number of tasks)": len(self.train_tasks),
            "tasks_per_round": self.tasks_per_round,
            "updates_per_round": self.updates_per_round,
            "warm_start_rounds": self.warm_start_rounds,
            "seed": self.seed,
            "sampler": type(self.sampler).__name__,
            "single_level": self.single_level,
        }

    @property
    def _attached(self) -> Trainer:
        assert self.trainer is not None  # Lightning sets it before it calls anything here
        return self.trainer

    @property
    def policy(self) -> Policy:
        """The policy of the module that is being trained."""
        policy: Policy = self._attached.lightning_module.policy  # type: ignore[assignment]
        return policy

    def check_prompts(self, tokenizer: Any) -> None:
        """Check that prompts can be made for a tokenizer, before weights are loaded; raises ConfigError as `PromptBuilder`."""
        PromptBuilder(tokenizer, self.prompts)

    @property
    def builder(self) -> PromptBuilder:
        """The builder of prompts for the policy's tokenizer."""
        if self._builder is None or self._builder.tokenizer is not self.policy.tokenizer:
            constrained = bool(self.inference.constrained or self.rollout.config.constrained)
            self._builder = builder_for(self.policy.tokenizer, self.prompts, constrained)
            self.policy.end_of_turn = self._builder.end_of_turn
            self.policy.thinks_in_tokens = self._builder.template.thinks_in_tokens
        return self._builder

    def _tell_invocations(self) -> None:
        """Tell the policy the words from which its adapters act, if they are activated LoRA.

        Raises:
            ConfigError: the executor is to work both with and without a planner, and its adapter is activated LoRA.
        """
        if self.policy.config.adapter == "alora":
            self.inference.check_invocation(self.single_level)
        self.policy.invocation = {role: self.builder.invocation(role, self.single_level) for role in ROLES}

    @property
    def rounds_per_epoch(self) -> int:
        """Rounds of one pass over the training tasks; the last one may be smaller."""
        return -(-len(self.train_tasks) // self.tasks_per_round)

    def roles_of_epoch(self) -> list[Role]:
        """Return the role whose batch each training step of the current epoch gets."""
        first = self.stream.epoch * self.rounds_per_epoch
        return [role for i in range(self.rounds_per_epoch) for role in self._roles_of_round(first + i)]

    def planned_steps(self) -> Iterator[tuple[int, Role]] | None:
        """Yield the round, from 0, and the role of every optimiser step from the run's first to its last.

        None if neither `trainer.max_steps` nor `trainer.max_epochs` determines the last one.
        """
        trainer, epochs = self._attached, self._attached.max_epochs or 0
        return self.schedule.planned_steps(
            self.updates_per_round,
            max_rounds=epochs * self.rounds_per_epoch if epochs > 0 else None,
            max_steps=trainer.max_steps if trainer.max_steps > 0 else None,
        )

    def _roles_that_sample(self) -> set[Role]:
        """Return the roles that take steps after the warm start, including in later epochs."""
        planned = self.planned_steps()
        if planned is None:
            return {
                role for i in range(self.rounds_per_epoch) for role in self._roles_of_round(self.warm_start_rounds + i)
            }
        return {role for i, role in planned if i >= self.warm_start_rounds}

    def _roles_of_round(self, index: int) -> tuple[Role, ...]:
        """Return the role of each step after a round, counted from the run's first."""
        return roles_of(self.schedule, index) * self.updates_per_round

    def batches(self) -> Iterator[RolloutBatch]:
        """Yield the remaining batches of the current epoch."""
        self._tell_invocations()
        if self.stream.pending:  # restored from a checkpoint that left some over
            self._start_round(self.stream.epoch * self.rounds_per_epoch + self.stream.round - 1)
        return self.stream.batches(self.rounds_per_epoch, self._sample_round, self._begin_round)

    def _sample_round(self) -> Sampled:
        """Sample the next round; return its batches, and the rewards of its samples here, by task index."""
        index = self.stream.epoch * self.rounds_per_epoch + self.stream.round
        self._start_round(index)
        steps, versions, limits = self._roles_of_round(index), dict(self.policy.version), self.rollout.config
        if index < self.warm_start_rounds:
            return gold_batches(steps, versions, self.builder, self._draw(index).tasks, self.single_level, limits), {}
        played, earned = self._play(index, self.rollout.engine, {role: self.reward_of(role) for role in ROLES})()
        if self.policy.config.adapter == "lora":  # both adapters are about to change; the bare base is not
            self.policy.prefixes.forget()
        return sampled_batches(steps, versions, played, limits), earned

    def _begin_round(self, index: int, start: RoundStart | None) -> RoundAhead | RoundStart | None:
        """Begin to sample a round while the previous one is trained on, see `BatchStream.batches`."""
        self._start_round(index - 1)
        if not self.lag or index <= self.warm_start_rounds:
            return None
        begun = start or RoundStart.now(self.policy, self._roles_of_round(index - 1))
        if index > self._last_round():
            return begun
        abandoned = threading.Event()
        frozen = freeze(self.rollout.engine, self.policy, begun, abandoned)
        steps, play = self._roles_of_round(index), self._play(index, frozen, self._rewards_ahead)

        def sample() -> Sampled:
            start_round(self._rewards_ahead, index)
            played, earned = play()
            return sampled_batches(steps, begun.versions, played, self.rollout.config, begun.lags), earned

        return RoundAhead(begun, self._sampling_thread.begin(sample), abandoned)

    def _last_round(self) -> float:
        """Return the index of the run's last round; infinity if it is not known."""
        steps = self.planned_steps()
        return math.inf if steps is None else max((index for index, _ in steps), default=-1)

    def reward_of(self, role: Role) -> BaseReward:
        """Return the reward that a role is trained on."""
        if self.single_level:
            return self.turn_reward
        return self.rollout.planner_reward if role == "planner" else self.rollout.executor_reward

    def _start_round(self, index: int) -> None:
        """Tell the rewards, once, which round is trained on."""
        if index < self.warm_start_rounds or index == self._started_round:
            return
        self._started_round = index
        start_round({role: self.reward_of(role) for role in ROLES}, index)

    def _draw(self, index: int) -> RoundTasks:
        """Return this process's tasks of a round."""
        epoch, number = divmod(index, self.rounds_per_epoch)
        rank, world_size = self._attached.global_rank, self._attached.world_size
        self.round_tasks = RoundTasks(
            self.train_tasks, self.sampler, self.tasks_per_round, self.seed, epoch, number, rank, world_size
        )
        return self.round_tasks

    def _play(
        self, index: int, engine: Engine, rewards: Mapping[Role, BaseReward]
    ) -> Callable[[], tuple[Round, dict[int, list[float]]]]:
        """Draw a round; return a function that samples its episodes with an engine, scored by these rewards."""
        module: Any = self._attached.lightning_module
        tasks, player = self._draw(index), player_of(self.rollout, engine, rewards, self.single_level)
        own = self.policy, self.builder, self.stream.generator, self._roles_of_round(index), self.refills_per_round
        return lambda: play_round(
            tasks, player, *own, lambda role, groups: module.comparisons_with_signal(role, groups, rewards[role])
        )

    def evaluate(self, tasks: Sequence[Task], environment: Environment | None = None) -> list[Trajectory]:
        """Return one greedy episode per task: the likeliest plan, and the likeliest output at each of its steps.

        A task whose prompt is too long gets an episode without a plan: leaving it out would flatter the result.

        Args:
            tasks: the tasks.
            environment: the environment that answers the calls; None for that of training, or that of the user's requests
                if `predict` runs them.
        """
        if environment is None and isinstance(self.requests, Requests) and self._attached.predicting:
            environment = self.requests.environment
        self._tell_invocations()
        self.evaluating = True  # stays True after an exception, until a run begins again
        self.stream.settle()
        player = make_player(self.rollout, self.inference, self.single_level, environment)
        episodes, played = evaluate(player, self.policy, self.builder, tasks, self.seed, self.watch)
        self.evaluating = False
        self.evaluated_tokens += int(played.metrics.get("rollout/tokens", 0))
        if not self._told_too_long and (too_long := int(played.metrics["rollout/tasks_too_long"])):
            self._told_too_long = True
            print(notice_of_too_long(too_long, len(tasks), self.rollout.config.max_prompt_tokens), flush=True)
        return episodes
