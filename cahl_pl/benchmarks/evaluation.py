"""Measurements of one evaluation: success and economy on sets of tasks, and the benchmarks' own scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from cahl_pl.benchmarks.base import Benchmark
from cahl_pl.benchmarks.runs import BenchmarkRun, Evaluator
from cahl_pl.metrics import ToolUse, is_success


class Evaluation:
    """Evaluation of several sets of tasks and benchmarks, counted batch by batch.

    Args:
        evaluator: maker of the episodes.
        sets: names of the sets of tasks.
        benchmarks: the benchmarks by name; their loaders come after those of the sets.
        folder: folder of the benchmarks' records and reports; None: not written.
        settings: settings of a benchmark's records, see `BenchmarkRun`.
        device: device of the sets' counts: several processes add them up there, and NCCL accepts nothing from the host.

    Raises:
        ConfigError: see `BenchmarkRun`.
        DataError: see `BenchmarkRun`.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        sets: Iterable[str] = (),
        benchmarks: Mapping[str, Benchmark] | None = None,
        folder: Path | None = None,
        settings: Mapping[str, Any] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.evaluator = evaluator
        self.metrics = {name: ToolUse().to(device) for name in sets}
        self.runs = [
            BenchmarkRun(benchmark, name, folder, settings or {}, evaluator)
            for name, benchmark in (benchmarks or {}).items()
        ]

    def step(self, batch: Sequence[Any], loader: int = 0) -> list[bool]:
        """Play greedy episodes of a batch, and count them; return for each of a set's tasks whether it is solved.

        Args:
            batch: tasks of a set, or indices of a benchmark's tasks.
            loader: index of its set or benchmark, the sets coming first.
        """
        if loader < len(self.metrics):
            episodes = self.evaluator.evaluate(batch)
            list(self.metrics.values())[loader].update(episodes)
            return [is_success(episode) for episode in episodes]
        self.runs[loader - len(self.metrics)].step(batch)
        return []

    def results(self) -> Iterator[dict[str, Any]]:
        """Yield the values of each benchmark, finishing its run, and of each set: `<name>/<tag>` -> value."""
        for run in self.runs:
            yield {f"{run.name}/{tag}": value for tag, value in run.finish().items()}
        for name, metric in self.metrics.items():
            yield {f"{name}/{tag}": value for tag, value in metric.compute().items()}
