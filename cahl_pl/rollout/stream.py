"""Batches of training, round after round, and the position in them that a checkpoint stores."""

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
    """Stream of batches, one role's at a time, which samples a round when none is left.

    Args:
        seed: seed of the sampling.
        sampler: task sampler, told the rewards of a round's samples.

    Attributes:
        epoch: number of completed passes over the training tasks.
        round: number of rounds sampled in this epoch.
        pending: batches of the current round still to be trained on.
        sampling: whether a round is being sampled, during which a checkpoint's contents do not change.
        updating: whether a step is being taken, during which a checkpoint's contents are half changed.
        interruption: exception to raise before the next round, where nothing is half done; None to continue.
        generator: the only source of randomness of the rounds. While a round is sampled ahead, its thread's alone.
        ahead: the round sampled while the previous one is trained on, or None.
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
        self._ahead_before: RoundStart | None = None  # start of such a round in a checkpoint
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
            rounds_per_epoch: number of rounds in an epoch.
            sample_round: returns the batches of the next round, at least one, and its samples' rewards by task index.
            begin: starts sampling the round of that number, counted over the whole run, while the previous one is trained on,
                from the current policy or the start in a checkpoint. Returns only the start if the run ends before it, and
                None if the round must wait for the updates.
        """
        if self._ahead_before is not None:  # the run stopped while it was being sampled
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
                # all at once: a checkpoint holds the state before the round or after it
                with own_code(self.sampler, "update"):
                    self.sampler.update(earned)
                self.sampling, self.pending, self.round, self.ahead = False, batches, self.round + 1, None
                self._begin(begin, self.epoch * rounds_per_epoch + self.round, None)
            batch = self.pending.pop(0)
            self._given = batch, self.epoch, self.round
            last = not self.pending and self.round == rounds_per_epoch
            if last:  # already here: Lightning knows the length and never asks for an item after the last batch
                self.epoch, self.round = self.epoch + 1, 0
            yield batch

    @contextlib.contextmanager
    def update(self) -> Iterator[None]:
        """Wrap the step on the batch yielded last; an exception within leaves `updating` true."""
        self.updating = True
        yield
        self.updating, self._given = False, None

    @property
    def is_waiting(self) -> bool:
        """Return whether a batch was yielded on which no step has been taken."""
        return self._given is not None

    def take_back(self) -> bool:
        """Put back a batch that was yielded but not trained on, for a checkpoint; return whether there was one."""
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
        """Wait until no round is being sampled, so that the next caller has engine and environment to itself."""
        if self.ahead is not None:
            self.ahead.settle()

    def abandon(self, wait_s: float) -> None:
        """Give up a round that is being sampled ahead, and wait up to `wait_s` for its thread to notice; 0: do not wait."""
        self.updating, self._given = False, None
        if self.ahead is not None:
            self.ahead.abandon()
            if wait_s:
                self.ahead.settle(wait_s)
                self.ahead = None

    def state_dict(self, shape: Mapping[str, Any]) -> dict[str, Any]:
        """Return the position: epoch, round, and the rest of the current round and the generator of each process.

        While a round is being sampled, the position is its start, and a resumed run samples the same round again. For one
        sampled ahead it includes the adapters, which the policy no longer has. All processes must call this together.

        Args:
            shape: units of the position, key of `data` -> value.
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
        """Resume from the position in `state_dict`.

        Args:
            state_dict: the position.
            shape: current units of positions.
            rounds_per_epoch: number of rounds in an epoch.
            rank: rank of this process.
            world_size: number of processes, possibly different from before.

        Raises:
            ConfigError: the stream is now divided differently, so that the position would mean something else; or the
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
        else:  # a new process gets its own stream, which no other has used
            self.generator.manual_seed(self.seed + 1_000_003 * (self.epoch * rounds_per_epoch + self.round) + rank)
        self.sampler.load_state_dict(state_dict["sampler"])
        ahead = state_dict.get("ahead")  # older versions do not have it
        self.ahead, self._ahead_before = None, None if ahead is None else RoundStart.from_state(ahead)
