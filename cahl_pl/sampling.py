"""Sampling of the tasks of training rounds. For the sampling of tokens, see `cahl_pl.engines.base.Sampling`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cahl_pl.errors import ConfigError


class TaskSampler(ABC):
    """Sampler of the tasks of each training round.

    With several processes, each draws the whole round and takes its share of it, so all must have the same state:
    `update` must get the same rewards, those of all processes, on each of them.
    """

    @abstractmethod
    def draw(self, num_tasks: int, seed: int, epoch: int, round_index: int, tasks_per_round: int) -> list[int]:
        """Return the indices of the round's tasks, all different; the same for the same arguments and the same state.

        Args:
            num_tasks: how many tasks there are.
            seed: the run's seed.
            epoch: the epoch, from 0.
            round_index: the round of the epoch, from 0.
            tasks_per_round: how many to draw; fewer are returned if there are not enough.
        """

    def refill(
        self, num_tasks: int, seed: int, epoch: int, round_index: int, attempt: int, taken: Collection[int], count: int
    ) -> list[int]:
        """Return further tasks of a round, for dynamic sampling, all different: here random ones that it has not had.

        Args:
            num_tasks: how many tasks there are.
            seed: the run's seed.
            epoch: the epoch, from 0.
            round_index: the round of the epoch, from 0.
            attempt: refills of this round before this one.
            taken: tasks of the round so far.
            count: how many to draw; fewer are returned if there are not enough.
        """
        order = torch.randperm(num_tasks, generator=_generator(seed, epoch, round_index, attempt + 1)).tolist()
        return [task for task in order if task not in taken][:count]

    def update(self, rewards: Mapping[int, Sequence[float]]) -> None:  # noqa: B027 - there may be nothing to note
        """Note the rewards of the round's samples, by task index. A sampler that does not need them ignores them."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint, tensors only."""
        return {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:  # noqa: B027
        """Restore `state_dict`."""


class Shuffled(TaskSampler):
    """One pass over all tasks an epoch, in random order; the last round of an epoch may be smaller.

    The order depends on seed and epoch alone, so there is no state.
    """

    def draw(self, num_tasks: int, seed: int, epoch: int, round_index: int, tasks_per_round: int) -> list[int]:
        """Return the round's slice of the epoch's order."""
        order = torch.randperm(num_tasks, generator=torch.Generator().manual_seed(seed * 100_003 + epoch))
        indices: list[int] = order[round_index * tasks_per_round : (round_index + 1) * tasks_per_round].tolist()
        return indices


class RewardSampler(TaskSampler):
    """Sampler of tasks by the mean and the variance of their past rewards, after ToolSample (arXiv 2509.14718).

    The idea is that paper's, the formula is ours. GRPO learns nothing from a task whose samples all earn the same, and
    a task that is mastered has nothing left to teach. A task that has been seen is drawn with the weight

        w = (spread + floor) * (1 - level + floor)

    where `level` is its mean reward and `spread` the standard deviation within its group of samples, each on a scale
    from 0 to 1: of the range of rewards, and of half that range, the most that a standard deviation can be. With
    `floor` 0.1 a mastered task weighs 0.01, an impossible one 0.11, one that half of the samples solve 0.66. A task
    that has not been seen weighs `explore` times the best one that has, so that all are tried. No weight is ever 0.

    Both mean and variance are exponential moving averages over the rounds that drew the task, starting with the first
    of them. The variance is that of the samples of a round (of one sample: 0), not of the drift between rounds, which
    is no signal for GRPO. Rewards that are not finite are left out.

    A round is drawn without replacement, so that an epoch is as long as with `Shuffled` but no pass over all tasks.

    Args:
        floor: what is added to both factors; the larger, the more even the draw.
        decay: decay of the moving averages: the share of the past in them after an update.
        explore: weight of a task that has not been seen, relative to the best that has.
        minimum: the lowest reward possible.
        maximum: the highest reward possible. A reward outside widens the range for good, so that rewards of another
            scale, such as ToolRL's from -3 to 4, need not be declared; a range given too wide makes the draw more even.

    Raises:
        ConfigError: a value is out of its bounds.
    """

    def __init__(
        self,
        floor: float = 0.1,
        decay: float = 0.5,
        explore: float = 1.0,
        minimum: float = 0.0,
        maximum: float = 1.0,
    ) -> None:
        positive = all(0 < value < math.inf for value in (floor, explore, maximum - minimum))
        if not (positive and 0 <= decay < 1):
            raise ConfigError(
                "RewardSampler needs floor and explore above 0, decay from 0 to below 1, and minimum below maximum, "
                f"not {floor}, {explore}, {decay}, {minimum} and {maximum}"
            )
        self.floor, self.decay, self.explore = floor, decay, explore
        # float64: state that is averaged over a run, and 8 bytes a task are nothing
        self._range = torch.tensor([minimum, maximum], dtype=torch.float64)
        self._seen = torch.zeros(0, dtype=torch.bool)
        self._mean = torch.zeros(0, dtype=torch.float64)
        self._variance = torch.zeros(0, dtype=torch.float64)

    def weights(self, num_tasks: int) -> Tensor:
        """Return the weight of each task in the draw, shape [num_tasks], float64, all positive and finite."""
        self._grow(num_tasks)
        seen, mean, variance = self._seen[:num_tasks], self._mean[:num_tasks], self._variance[:num_tasks]
        low, high = self._range
        level = ((mean - low) / (high - low)).clamp(0, 1)
        spread = (variance.sqrt() / ((high - low) / 2)).clamp(0, 1)
        weights = (spread + self.floor) * (1 - level + self.floor)
        best = weights[seen].max() if seen.any() else torch.tensor(1.0, dtype=torch.float64)
        return torch.where(seen, weights, self.explore * best)

    def draw(self, num_tasks: int, seed: int, epoch: int, round_index: int, tasks_per_round: int) -> list[int]:
        """Return tasks drawn by weight, without replacement."""
        generator = _generator(seed, epoch, round_index)
        count = min(tasks_per_round, num_tasks)
        indices: list[int] = torch.multinomial(self.weights(num_tasks), count, generator=generator).tolist()
        return indices

    def refill(
        self, num_tasks: int, seed: int, epoch: int, round_index: int, attempt: int, taken: Collection[int], count: int
    ) -> list[int]:
        """Return tasks drawn by weight among those that the round has not had."""
        weights = self.weights(num_tasks).clone()
        weights[list(taken)] = 0.0
        count = min(count, num_tasks - len(taken))
        if count < 1:
            return []
        generator = _generator(seed, epoch, round_index, attempt + 1)
        indices: list[int] = torch.multinomial(weights, count, generator=generator).tolist()
        return indices

    def update(self, rewards: Mapping[int, Sequence[float]]) -> None:
        """Move the averages of these tasks. The order of the tasks does not matter."""
        finite = {task: [r for r in values if math.isfinite(r)] for task, values in rewards.items()}
        groups = {task: torch.tensor(values, dtype=torch.float64) for task, values in finite.items() if values}
        if not groups:
            return
        self._grow(max(groups) + 1)
        tasks = torch.tensor(list(groups))
        mean = torch.stack([group.mean() for group in groups.values()])
        variance = torch.stack([group.var(correction=0) for group in groups.values()])
        past = torch.where(self._seen[tasks], self.decay, 0.0).double()  # the first round counts alone
        self._mean[tasks] = past * self._mean[tasks] + (1 - past) * mean
        self._variance[tasks] = past * self._variance[tasks] + (1 - past) * variance
        self._seen[tasks] = True
        everything = torch.cat([self._range, *groups.values()])
        self._range = torch.stack([everything.min(), everything.max()])

    def state_dict(self) -> dict[str, Any]:
        """Return the range of the rewards [2], and of each task whether it was seen, mean and variance, [number of tasks]."""
        return {name: getattr(self, f"_{name}").clone() for name in _STATE}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore `state_dict`.

        Raises:
            ConfigError: it is another sampler's.
        """
        if state_dict.keys() != set(_STATE):
            raise ConfigError(
                "the checkpoint holds no state of RewardSampler: it was written with another sampler of tasks; resume "
                "with that one, or start a new run"
            )
        for name in _STATE:
            setattr(self, f"_{name}", state_dict[name].clone())

    def _grow(self, num_tasks: int) -> None:
        missing = num_tasks - len(self._seen)
        if missing > 0:
            self._seen, self._mean, self._variance = (
                torch.cat([tensor, tensor.new_zeros(missing)]) for tensor in (self._seen, self._mean, self._variance)
            )


def _generator(seed: int, epoch: int, round_index: int, refill: int = 0) -> torch.Generator:
    """Return the random generator of a round's draw."""
    # odd factors: torch keeps the low 32 bits of a seed, in which no two positions of a run meet
    position = (seed * 100_003 + epoch) * 1_000_003 + round_index
    return torch.Generator().manual_seed((position + refill * 1_500_450_271) % 2**63)


_STATE = ("range", "seen", "mean", "variance")
