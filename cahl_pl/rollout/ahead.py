"""A round that is sampled while the trainer updates on the one before it."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from torch import Tensor

from cahl_pl.engines.base import Engine
from cahl_pl.errors import ConfigError
from cahl_pl.grpo.config import GRPOConfig
from cahl_pl.policy.policy import Policy
from cahl_pl.policy.saved_adapters import adapter_weights, swapped
from cahl_pl.types import ROLES, Role, RolloutBatch

Sampled: TypeAlias = tuple[list[RolloutBatch], dict[int, list[float]]]
"""Batches of a round, and the rewards of its samples in this process, by task index."""


@dataclass(frozen=True)
class RoundStart:
    """State that a round is sampled from.

    Attributes:
        versions: policy versions by role.
        lags: optimiser steps, by role, taken before the first one on the round's batch.
        adapters: adapter weights, which a resumed run needs to sample the round again.
    """

    versions: dict[Role, int]
    lags: dict[Role, int]
    adapters: dict[str, Tensor]

    @classmethod
    def now(cls, policy: Policy, steps: Sequence[Role]) -> RoundStart:
        """Return the policy's current state, before these steps."""
        return cls(dict(policy.version), {role: steps.count(role) for role in ROLES}, adapter_weights(policy))

    def state(self) -> dict[str, Any]:
        """Return plain containers and tensors for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> RoundStart:
        """Return the start that `state` describes."""
        return cls(**state)


class RoundAhead:
    """A round that is being sampled in a thread.

    Args:
        start: state that it is sampled from.
        result: future of the round.
        abandoned: set when the round is no longer needed.
    """

    def __init__(self, start: RoundStart, result: Future[Sampled], abandoned: threading.Event) -> None:
        self.start = start
        self._result = result
        self._abandoned = abandoned

    def settle(self, timeout_s: float | None = None) -> None:
        """Wait until sampling has ended, whether or not it failed."""
        wait([self._result], timeout_s)

    def take(self) -> Sampled:
        """Wait for the round and return it, raising any error of the sampling. The wait, in seconds, is logged."""
        began = time.perf_counter()
        batches, earned = self._result.result()
        for batch in batches:
            batch.metrics["time/wait_s"] = time.perf_counter() - began
        return batches, earned

    def abandon(self) -> None:
        """Tell the sampling to stop as soon as it can."""
        self._abandoned.set()


class SamplingThread:
    """Thread that samples rounds. It lives as long as the program, which exits without waiting for it.

    All rounds share one thread, since the worker processes of a sandbox end with the thread that started them.
    """

    def __init__(self) -> None:
        self._orders: queue.SimpleQueue[tuple[Future[Sampled], Callable[[], Sampled]]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def begin(self, work: Callable[[], Sampled]) -> Future[Sampled]:
        """Queue a round for sampling, after those queued before."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="sampling", daemon=True)
            self._thread.start()
        result: Future[Sampled] = Future()
        self._orders.put((result, work))
        return result

    def _work(self) -> None:
        while True:
            result, work = self._orders.get()
            try:
                result.set_result(work())
            except BaseException as error:  # raised again where the round is taken
                result.set_exception(error)


def freeze(engine: Engine, policy: Policy, start: RoundStart, abandoned: threading.Event) -> Engine:
    """Return an engine that samples with the adapters of a round's start, however the policy's change later.

    Args:
        engine: an engine whose `check_lag` has passed.
        policy: the base; its adapters may have moved since the start.
        start: start of the round.
        abandoned: set when the samples are no longer needed.
    """
    with swapped(policy, start.adapters):
        return engine.freeze(policy, abandoned)


def check_lag(
    grpo: Mapping[Role, GRPOConfig], roles: Iterable[Role], world_size: int, refills: int, reads_probabilities: bool
) -> None:
    """Check that a run can train on rounds sampled by an older policy.

    Args:
        grpo: settings of each role.
        roles: the roles that are trained.
        world_size: number of processes.
        refills: `data.refills_per_round`.
        reads_probabilities: whether a reward does (`BasePlannerReward`).

    Raises:
        ConfigError: a role's gradients would not be corrected, processes would have to agree in the middle of a round, or a
            reward would be computed with the weights that the updates change.
    """
    for role in roles:
        if grpo[role].correction[0] == "none":
            raise ConfigError(
                f"data.lag is above 0, so that the {role} learns from samples of an older {role}, and nothing corrects for it: "
                "add --model.grpo.importance token_truncate (or token_mask, sequence_truncate, sequence_mask)"
            )
    if reads_probabilities:
        raise ConfigError(
            "data.lag is above 0, but data.planner_reward asks this process's executor how likely its calls are, whose weights "
            "the updates change meanwhile: leave out w_prob, or data.lag"
        )
    if world_size > 1 and refills:
        raise ConfigError(
            f"data.lag is above 0 and data.refills_per_round is {refills}, for which the {world_size} processes would have to "
            "agree in the middle of a round: leave out one of the two, or use one process"
        )
