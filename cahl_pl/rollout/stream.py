"""The batches of training, round after round, and the position in them that a checkpoint holds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from cahl_pl.distributed import gather_over_processes, reshard
from cahl_pl.errors import ConfigError
from cahl_pl.errors.own_code import own_code
from cahl_pl.rollout.ahead import RoundAhead, RoundStart, Sampled
from cahl_pl.sampling import TaskSampler
from cahl_pl.types import RolloutBatch

Begin: TypeAlias = Callable[[int, RoundStart | None], RoundAhead | RoundStart | None]
"""See `BatchStream.batches`."""


class BatchStream:
    """Stream of one role's batch at a time, which samples a round when it has none left.

    Args:
        seed: of the sampling.
        sampler: is told what a round's samples earned.

    Attributes:
        epoch: passes over the training tasks that are done.
        round: rounds of this epoch that are sampled.
        pending: batches of the current round that are still to be trained on.
        sampling: a round is being sampled: nothing that a checkpoint holds is changing.
        updating: a step is being taken: what a checkpoint holds is half changed.
        interruption: raised before the next round, where nothing is half done; None to go on.
        generator: the only source of randomness of the rounds. While a round is sampled ahead, its thread's.
        ahead: the round that is sampled while the one before is trained on; None where there is none.
    """

    def __init__(self, seed: int, sampler: TaskSampler) -> None:
        self.seed = seed
        self.sampler = sampler
        self.epoch = 0
        self.round = 0
        self.pending: list[RolloutBatch] = []
        self.sampling = False
        self.updating = False
        self.interruption: BaseException | None = None
        self.generator = torch.Generator().manual_seed(seed)
        self.ahead: RoundAhead | None = None
        self._ahead_before: RoundStart | None = None  # what a checkpoint says of such a round
        self._generator_before: Tensor | None = None  # state of the generator at the start of the round
        self._given: tuple[RolloutBatch, int, int] | None = None  # not trained on yet, with epoch and round before it

    def batches(
        self,
        rounds_per_epoch: int,
        sample_round: Callable[[], Sampled],
        begin: Begin = lambda index, start: None,
    ) -> Iterator[RolloutBatch]:
        """Yield the rest of the current epoch.

        Args:
            rounds_per_epoch: after how many rounds an epoch ends.
            sample_round: gives the batches of the next round, at least one, and what its samples earned, by task index.
            begin: begins to sample the round of that number, counted from the run's first, while the one before is trained on;
                from the present policy, or from what a checkpoint says. Its start alone where the run ends before it; None
                where it is to wait for the updates.
        """
        if self._ahead_before is not None:  # the run was stopped while it was sampled
            self._begin(begin, self.epoch * rounds_per_epoch + self.round, self._ahead_before)
        last = False
        while not last:
            if not self.pending:
                if self.interruption is not None:
                    raise self.interruption
                if self.ahead is None:
                    self._generator_before = self.generator.get_state()
                self.sampling = True
                batches, own = sample_round() if self.ahead is None else self.ahead.take()
                earned = {index: rewards for part in gather_over_processes(own) for index, rewards in part.items()}
                # all at once: a checkpoint holds the state from before the round, or from after it
                with own_code(self.sampler, "update"):
                    self.sampler.update(earned)
                self.sampling, self.pending, self.round, self.ahead = False, batches, self.round + 1, None
                self._begin(begin, self.epoch * rounds_per_epoch + self.round, None)
            batch = self.pending.pop(0)
            self._given = batch, self.epoch, self.round
            last = not self.pending and self.round == rounds_per_epoch
            if last:  # already now: Lightning knows the length and never asks for what comes after the last batch
                self.epoch, self.round = self.epoch + 1, 0
            yield batch

    @contextlib.contextmanager
    def update(self) -> Iterator[None]:
        """Take the step of the batch that was given last, within; what raises there leaves `updating` true."""
        self.updating = True
        yield
        self.updating, self._given = False, None

    @property
    def is_waiting(self) -> bool:
        """Whether a batch was given that no step has been taken on."""
        return self._given is not None

    def take_back(self) -> bool:
        """Have a batch that was given, and not trained on, wait again, as a checkpoint is to hold it; whether there is one."""
        if self._given is None:
            return False
        batch, self.epoch, self.round = self._given
        self.pending.insert(0, batch)
        self._given = None
        return True

    def _begin(self, begin: Begin, index: int, start: RoundStart | None) -> None:
        before = self.generator.get_state()
        begun = begin(index, start)
        self.ahead = begun if isinstance(begun, RoundAhead) else None
        self._ahead_before = begun if isinstance(begun, RoundStart) else None
        if self.ahead is not None:
            self._generator_before = before

    def settle(self) -> None:
        """Wait until no round is being sampled: who asks the engine next has it alone, and the environment."""
        if self.ahead is not None:
            self.ahead.settle()

    def abandon(self, wait_s: float) -> None:
        """Give up a round that is being sampled ahead, and wait so long for its thread to notice; 0: not now."""
        self.updating, self._given = False, None
        if self.ahead is not None:
            self.ahead.abandon()
            if wait_s:
                self.ahead.settle(wait_s)
                self.ahead = None

    def state_dict(self, shape: Mapping[str, Any]) -> dict[str, Any]:
        """Return the position: epoch, round, and of each process the rest of the current round and its generator.

        While a round is being sampled, that is where it began: a resumed run samples it again, the same. Of one that is sampled
        ahead it holds the adapters too, which are no longer those of the policy. All processes have to ask for it together.

        Args:
            shape: what the position is counted in, key of `data` -> value.
        """
        idle = not self.sampling and self.ahead is None
        own = {
            "pending": [batch.state() for batch in self.pending],
            "generator": self.generator.get_state() if idle else self._generator_before,
        }
        start = self._ahead_before if self.ahead is None else self.ahead.start
        return {
            "ahead": None if start is None else start.state(),
            "epoch": self.epoch,
            "round": self.round,
            "processes": gather_over_processes(own),
            "sampler": self.sampler.state_dict(),
            "shape": dict(shape),
        }

    def load_state_dict(
        self, state_dict: Mapping[str, Any], shape: Mapping[str, Any], rounds_per_epoch: int, rank: int, world_size: int
    ) -> None:
        """Go on where `state_dict` was taken.

        Args:
            state_dict: the position.
            shape: what positions are counted in now.
            rounds_per_epoch: of the training tasks.
            rank: of this process.
            world_size: number of processes; may be another one than before.

        Raises:
            ConfigError: the stream is cut in another way now, so that the position would mean something else; or the
                checkpoint is of an earlier version.
        """
        if "processes" not in state_dict:
            raise ConfigError("the checkpoint is of an earlier version of cahl_pl, which cannot go on: start a new run")
        for name, now in shape.items():
            then = state_dict["shape"][name]
            if then != now:
                raise ConfigError(
                    f"the checkpoint was written with data.{name} = {then}, now it is {now}, and its position in the data "
                    "would mean something else: resume with the old value, or start a new run"
                )
        self.epoch, self.round = state_dict["epoch"], state_dict["round"]
        processes = state_dict["processes"]
        pending = [[RolloutBatch.from_state(state) for state in one["pending"]] for one in processes]
        self.pending = reshard(pending, rank, world_size)
        if rank < len(processes):
            self.generator.set_state(processes[rank]["generator"])
        else:  # a process that was not there before: a stream of its own, that no other one has had
            self.generator.manual_seed(self.seed + 1_000_003 * (self.epoch * rounds_per_epoch + self.round) + rank)
        self.sampler.load_state_dict(state_dict["sampler"])
        ahead = state_dict.get("ahead")  # older versions do not have it
        self.ahead, self._ahead_before = None, None if ahead is None else RoundStart.from_state(ahead)
