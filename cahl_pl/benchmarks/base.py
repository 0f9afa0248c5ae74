"""Interface of a benchmark, and the parts that single-turn and multi-turn ones share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeAlias

from cahl_pl.environments.base import Environment
from cahl_pl.errors import ConfigError
from cahl_pl.metrics import count_uses
from cahl_pl.runs.records import record
from cahl_pl.types import Plan, Task, Trajectory

Record: TypeAlias = dict[str, Any]
"""Record of one task, as JSON values: `id`, `group`, `success`, `episodes`, `counts` and the scorer's own values."""


class Evaluate(Protocol):
    """Function that makes one greedy episode per task; the environment answers the calls (None: that of the data module)."""

    def __call__(self, tasks: Sequence[Task], environment: Environment | None = None) -> list[Trajectory]:
        """Return the episodes, in the order of the tasks."""


class Benchmark(ABC):
    """Test set with its own scoring rules.

    A single-turn benchmark returns tasks and checks their episodes; one that needs several turns overrides `run`.

    Attributes:
        name: the benchmark's name in reports.
        scheme: the scoring scheme's name in reports.
        ids: the id of each task, unique and stable between runs, on which resuming relies.
        environment: environment that answers the calls of the default `run`.
    """

    name: str
    scheme: str
    ids: Sequence[str]
    environment: Environment

    def __len__(self) -> int:
        return len(self.ids)

    @abstractmethod
    def group(self, index: int) -> str:
        """Return the part of the benchmark that a task belongs to: its category or level."""

    @abstractmethod
    def task(self, index: int) -> Task:
        """Return the task at `index`, in its initial form."""

    @abstractmethod
    def check(self, index: int, trajectory: Trajectory) -> Record:
        """Judge an episode: return `success` (bool) and further parts of the record, such as `gold_calls` (int)."""

    @abstractmethod
    def score(self, records: Sequence[Record]) -> dict[str, float]:
        """Return the scores, shares between 0 and 1 unless their name says otherwise, computed only from the records."""

    def run(self, indices: Sequence[int], evaluate: Evaluate) -> list[Record]:
        """Evaluate these tasks; return one record each, in their order."""
        episodes = evaluate([self.task(i) for i in indices], self.environment)
        return [
            make_record(self.ids[i], self.group(i), [episode], **self.check(i, episode))
            for i, episode in zip(indices, episodes, strict=True)
        ]

    def denominators(self, records: Sequence[Record]) -> dict[str, int]:
        """Return the number of tasks run of each group, and of all."""
        return {**Counter(r["group"] for r in records), "all": len(records)}

    def remarks(self, records: Sequence[Record]) -> list[str]:
        """Return remarks for a reader of the scores, one sentence each."""
        return []

    def options(self) -> dict[str, Any]:
        """Return every option that the scores depend on, as JSON values; never a secret."""
        return {}

    def close(self) -> None:  # noqa: B027 - most have nothing to release
        """Release the resources of a run; it may be run again afterwards."""


def make_record(
    name: str,
    group: str,
    episodes: Sequence[Trajectory],
    success: bool,
    gold_calls: int | None = None,
    **verdict: Any,
) -> Record:
    """Return the record of a task.

    Args:
        name: its id.
        group: its category or level.
        episodes: one, or one per turn or round.
        success: success by the benchmark's own rule.
        gold_calls: number of calls that it needs; None if unknown: surplus calls are not counted then.
        verdict: further values to record.
    """
    shown = [record(episode) for episode in episodes]
    for episode in shown:
        del episode["success"]  # agreement with gold calls, which is not this benchmark's rule
    counts = count_uses(_joined(episodes), success, gold_calls)
    if gold_calls is None:
        del counts["surplus"]
    return {"id": name, "group": group, "success": success, **verdict, "counts": counts, "episodes": shown}


def spread(groups: Sequence[str], max_tasks: int | None) -> list[int]:
    """Return the indices of at most `max_tasks` tasks, in order, taken in turn from each group, so that few cover all groups.

    Raises:
        ConfigError: `max_tasks` is below 1.
    """
    if max_tasks is not None and max_tasks < 1:
        raise ConfigError(f"a benchmark's max_tasks is {max_tasks}: give 1 or more, or null for all tasks")
    if max_tasks is None or max_tasks >= len(groups):
        return list(range(len(groups)))
    rank: Counter[str] = Counter()
    ranked = []
    for index, group in enumerate(groups):
        ranked.append((rank[group], index))
        rank[group] += 1
    return sorted(index for _, index in sorted(ranked)[:max_tasks])


def share(values: Iterable[float]) -> float:
    """Return the mean of at least one value."""
    listed = list(values)
    return sum(listed) / len(listed)


def by_group(records: Sequence[Record]) -> dict[str, float]:
    """Return the share of successes of each group, in the order of their first record."""
    groups = dict.fromkeys(r["group"] for r in records)
    return {group: share(r["success"] for r in records if r["group"] == group) for group in groups}


def _joined(episodes: Sequence[Trajectory]) -> Trajectory:
    """Return the episodes of a task as one, for counting: a call that repeats one of an earlier turn is redundant."""
    if len(episodes) == 1:
        return episodes[0]
    subtasks = tuple(subtask for e in episodes for subtask in e.plan.subtasks)
    error = None if subtasks else episodes[0].plan.error  # unreadable: all of its plans
    steps = tuple(step for e in episodes for step in e.steps)
    return replace(episodes[-1], plan=Plan(subtasks, error), steps=steps, cut=any(e.cut for e in episodes))
