"""Measure what asking the planner again after a failed call achieves, and what it costs: the table of docs/predict.md.

    python -m tools.quality.measure_replanning --tasks 60 -c configs/quickstart.yaml --ckpt_path CHECKPOINT

Runs the first tasks of a test set greedily, once for each number of `--replans`. `success` is that of `test`: the executed
calls are the gold calls, so that a useless call fails the task. `fulfilled` judges by the tasks' outcomes, which must be in
the data: the whole request is fulfilled, and every call served it or failed without changing anything.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cahl_pl  # noqa: F401 - before torch: it decides how torch's threads wait

# isort: split
from cahl_pl.cli import main
from cahl_pl.commands.pipes import reader_may_leave
from cahl_pl.datamodule import RolloutDataModule
from cahl_pl.errors import ConfigError, UserError
from cahl_pl.metrics import ToolUse
from cahl_pl.rewards.outcome import is_fulfilled
from cahl_pl.runs.checkpoints import fault_of, read_checkpoint
from cahl_pl.startup.library_warnings import quiet_libraries

COLUMNS = ("replans", "success %", "fulfilled %", "calls per task", "invalid %", "tokens per task")


def load(config: list[str], checkpoint: Path) -> RolloutDataModule:
    """Return the data module of a configuration, attached to the policy of a checkpoint.

    Raises:
        ConfigError: the checkpoint is missing or damaged.
        PolicyError: it does not fit the configured model.
    """
    if fault := fault_of(checkpoint):
        raise ConfigError(
            f"--ckpt_path names {str(checkpoint)!r}, which cannot be read ({fault}): give a whole checkpoint"
        )
    cli = main(config, run=False)
    data: RolloutDataModule = cli.datamodule
    cli.trainer.strategy.connect(cli.model)
    data.trainer = cli.trainer
    content = read_checkpoint(checkpoint)
    cli.model.policy.load()
    cli.model.policy.check_config(content["policy_config"])
    cli.model.policy.load_adapter_state(content["state_dict"])
    return data


def measure(data: RolloutDataModule, test: str, count: int, replans: int) -> tuple[float, ...]:
    """Return the row for a number of replans: the values of `COLUMNS`."""
    data.inference.replans = replans
    chosen = [data.test_tasks[test][i] for i in range(count)]
    use, fulfilled, tokens = ToolUse(), 0, -data.evaluated_tokens
    for start in range(0, count, data.eval_batch_size):
        episodes = data.evaluate(chosen[start : start + data.eval_batch_size])
        use.update(episodes)
        fulfilled += sum(is_fulfilled(e.task, e.steps, data.rollout.environment) for e in episodes)
    tokens += data.evaluated_tokens
    values = {tag: value.item() for tag, value in use.compute().items()}
    shares = (100 * values["task/success"], 100 * fulfilled / count)
    return replans, *shares, values["tools/calls_per_task"], 100 * values["tools/invalid_rate"], tokens / count


@reader_may_leave()
def run(arguments: list[str]) -> None:
    """Parse, build, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt_path", type=Path, required=True, help="checkpoint of a run")
    parser.add_argument("--test", default="test", help="name of a set of tasks in data.test")
    parser.add_argument("--tasks", type=int, default=60, help="how many of its tasks")
    parser.add_argument("--replans", type=int, nargs="+", default=[0, 1, 2], help="values of data.inference.replans")
    args, config = parser.parse_known_args(arguments)
    quiet_libraries()
    try:
        data = load(config, args.ckpt_path)
        if args.test not in data.test_tasks:
            raise ConfigError(
                f"data.test has no set of tasks {args.test!r}; it has {', '.join(data.test_tasks) or 'none'}"
            )
        count = min(args.tasks, len(data.test_tasks[args.test]))
        print(f"| {' | '.join(COLUMNS)} |\n|{' ---: |' * len(COLUMNS)}", flush=True)
        for replans in args.replans:
            first, *values = measure(data, args.test, count, replans)
            print(f"| {first} | {' | '.join(f'{value:.1f}' for value in values)} |", flush=True)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    run(sys.argv[1:])
