"""Measure what grammars at inference (`data.inference.constrained`) achieve, and what they cost: the table of docs/agent.md.

    python -m tools.quality.measure_constrained --tasks 60 -c configs/quickstart.yaml --ckpt_path CHECKPOINT

Runs the first tasks of a test set greedily without grammars and with them, in turn, `--repeats` times; times are medians.
`unreadable` refers to plans. `mask` is the share of time spent on masks. Without a checkpoint it measures the base.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cahl_pl  # noqa: F401 - before torch: it decides how torch's threads wait

# isort: split
from cahl_pl.cli import main
from cahl_pl.commands.pipes import reader_may_leave
from cahl_pl.datamodule import RolloutDataModule
from cahl_pl.errors import ConfigError, UserError
from cahl_pl.metrics import ToolUse
from cahl_pl.policy.constraint import Matchers, Within
from cahl_pl.startup.library_warnings import quiet_libraries
from tools.quality.measure_replanning import load

COLUMNS = ("success %", "unreadable %", "invalid %", "tokens per task", "ms per task", "mask %")


class Clock:
    """Seconds spent in some functions."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def on(self, *functions: tuple[type, str]) -> Iterator[None]:
        """Count the time spent in these methods."""
        kept = [getattr(owner, name) for owner, name in functions]
        for (owner, name), function in zip(functions, kept, strict=True):
            setattr(owner, name, self._timed(function))
        try:
            yield
        finally:
            for (owner, name), function in zip(functions, kept, strict=True):
                setattr(owner, name, function)

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - began

        return timed


def measure(data: RolloutDataModule, test: str, count: int, constrained: bool) -> tuple[float, ...]:
    """Return the values of `COLUMNS`, with grammars or without."""
    data.inference.constrained = constrained
    chosen = [data.test_tasks[test][i] for i in range(count)]
    use, tokens, clock, began = ToolUse(), -data.evaluated_tokens, Clock(), time.perf_counter()
    with clock.on((Within, "hold"), (Within, "take"), (Matchers, "along"), (Matchers, "after")):
        for start in range(0, count, data.eval_batch_size):
            use.update(data.evaluate(chosen[start : start + data.eval_batch_size]))
    seconds = time.perf_counter() - began
    values = {tag: value.item() for tag, value in use.compute().items()}
    shares = [values[tag] for tag in ("task/success", "plan/parse_error_rate", "tools/invalid_rate")]
    return (
        *(100 * share for share in shares),
        (tokens + data.evaluated_tokens) / count,
        1000 * seconds / count,
        100 * clock.seconds / seconds,
    )


@reader_may_leave()
def run(arguments: list[str]) -> None:
    """Parse, build, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt_path", type=Path, help="checkpoint of a run")
    parser.add_argument("--test", default="test", help="name of a set of tasks in data.test")
    parser.add_argument("--tasks", type=int, default=60, help="how many of its tasks")
    parser.add_argument("--repeats", type=int, default=3, help="how often each is run")
    args, config = parser.parse_known_args(arguments)
    quiet_libraries()
    try:
        data = load(config, args.ckpt_path) if args.ckpt_path else base(config)
        if args.test not in data.test_tasks:
            raise ConfigError(
                f"data.test has no set of tasks {args.test!r}; it has {', '.join(data.test_tasks) or 'none'}"
            )
        count = min(args.tasks, len(data.test_tasks[args.test]))
        measured: dict[bool, list[tuple[float, ...]]] = {False: [], True: []}
        for _ in range(args.repeats):
            for constrained, rows in measured.items():
                rows.append(measure(data, args.test, count, constrained))
        print(f"| grammar | {' | '.join(COLUMNS)} |\n| --- |{' ---: |' * len(COLUMNS)}")
        for constrained, rows in measured.items():
            values = [statistics.median(column) for column in zip(*rows, strict=True)]
            print(
                f"| {'yes' if constrained else 'no'} | {' | '.join(f'{value:.1f}' for value in values)} |", flush=True
            )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def base(config: list[str]) -> RolloutDataModule:
    """Return the data module of a configuration, attached to a policy that has not been trained."""
    cli = main(config, run=False)
    data: RolloutDataModule = cli.datamodule
    cli.trainer.strategy.connect(cli.model)
    data.trainer = cli.trainer
    cli.model.policy.load()
    return data


if __name__ == "__main__":
    run(sys.argv[1:])
