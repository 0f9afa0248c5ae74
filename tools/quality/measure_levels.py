r"""Measure how far the two levels of ToolWorld 2 depend on each other, with the executors to be used in learning.

    python -m tools.quality.measure_levels --out runs/levels.json -c configs/toolworld2.yaml \
      --adapters a=runs/toolworld2-a b=runs/toolworld2-b

`--adapters` are folders written by `export`. Three results are reported for each:

- how many tasks with several ways its executor solves (greedily, under gold plans) if the plan always has the fewest
  sub-tasks, always the most, and if it takes for each task the way that this executor can carry out (the oracle);
- how many it solves with the ways that the oracle of each other executor takes;
- for plans that its planner samples, the correlation within groups of a plan's worth (R_h,exe and, if the configuration
  uses it, R_h,prob; mean of many sampled executions) with its likeness to gold: if that is near 1, R_h,param says all that
  executing could tell.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cahl_pl  # noqa: F401 - before torch: it decides how torch's threads wait

# isort: split
import torch
from torch import Tensor

from cahl_pl.cli import CAHLCLI, main
from cahl_pl.commands.fit_runs import at_least_one
from cahl_pl.commands.pipes import reader_may_leave
from cahl_pl.engines import Completion
from cahl_pl.errors import ConfigError, UserError
from cahl_pl.metrics import is_success
from cahl_pl.parsing import format_plan, parse_plan
from cahl_pl.policy.saved_adapters import check_adapters, read_adapters
from cahl_pl.rewards.alignment import align
from cahl_pl.rewards.planner import execution_reward, holds, probability_reward
from cahl_pl.rewards.similarity import similarity_matrix
from cahl_pl.rewards.ways import way_of_plan
from cahl_pl.rollout.config import RolloutConfig
from cahl_pl.rollout.evaluation import greedy
from cahl_pl.rollout.gold import gold_plan
from cahl_pl.rollout.two_level import Rollout
from cahl_pl.runs.files import write_json
from cahl_pl.startup.library_warnings import quiet_libraries
from cahl_pl.types import GoldCall, Plan, SubTask, Task, ToolCall, Trajectory
from tools.quality.measure_credit import GivenPlans, centred


def likeness(plan: Plan, task: Task) -> float:
    """Return a plan's likeness to the gold calls of the way that it takes, in [0, 1].

    Each sub-task is read as the call that it spells out: its parameters or, in words, the gold values in its instruction.
    Their similarities with the aligned gold calls are summed and divided by the larger number of the two.
    """
    gold = way_of_plan(task, plan).gold
    named = [subtask for subtask in plan.subtasks if subtask.tool is not None]
    if not gold or not named:
        return float(plan.error is None and not gold and not named)
    similarities = [
        [similarity_matrix([_spelt_out(subtask, call)], [call.planned], task.tools)[0, 0] for call in gold]
        for subtask in named
    ]
    return float(sum(similarities[i][j] for i, j in align(similarities)) / max(len(named), len(gold)))


def _spelt_out(subtask: SubTask, gold: GoldCall) -> ToolCall:
    wanted = gold.planned.arguments
    held = {name: value for name, value in wanted.items() if holds(subtask.instruction, value)}
    return ToolCall(str(subtask.tool), subtask.parameters or held)


def correlation(worth: Tensor, other: Tensor) -> float:
    """Return the correlation of two quantities within groups, each [groups, samples]; 0 if one of them is constant."""
    return torch.nan_to_num(torch.cosine_similarity(centred(worth).flatten(), centred(other).flatten(), dim=0)).item()


class Levels:
    """Player of given plans with the executor of one pair of adapters after another.

    Args:
        cli: CLI of the configuration.
    """

    def __init__(self, cli: CAHLCLI) -> None:
        self.cli, self.policy = cli, cli.model.policy
        self.policy.load()
        cli.trainer.strategy.connect(cli.model)
        cli.datamodule.trainer = cli.trainer
        self.builder = cli.datamodule.builder
        self.training = cli.datamodule.rollout
        self.rewards: dict[str, Callable[[Trajectory], float]] = {"exe": execution_reward}
        if self.training.planner_reward.reads_probabilities:
            self.rewards["prob"] = probability_reward

    def use(self, folder: Path) -> None:
        """Replace the adapters in use with those of a folder.

        Raises:
            ConfigError: they are missing, damaged, or do not fit the configuration.
        """
        self.policy.config = replace(self.policy.config, adapters=str(folder))
        check_adapters(self.policy.config)
        read_adapters(self.policy)
        self.policy.prefixes.forget()

    def solved(self, tasks: Sequence[Task]) -> list[bool]:
        """Return whether each task is solved under the plan of its gold calls, in greedy episodes."""
        found: list[bool] = []
        size = self.cli.datamodule.eval_batch_size
        for start in range(0, len(tasks), size):
            part = tasks[start : start + size]
            plans = [[self._written(task)] for task in part]
            found += map(is_success, self._play(self.training, greedy(self.training.config), part, plans, 0))
        return found

    def sampled(self, tasks: Sequence[Task], plans: int, executions: int) -> tuple[dict[str, Tensor], Tensor]:
        """Return the worth by reward, and the likeness, of plans of this pair's planner, each [tasks, plans]."""
        config = replace(self.training.config, planner_group_size=plans, branching="trajectory")
        config = replace(config, executor_group_size=executions)
        generator = torch.Generator().manual_seed(0)
        prompts = [self.builder.planner(task) for task in tasks]
        written = self.training.engine.generate(self.policy, "planner", prompts, plans, config.planner, generator)
        worth: dict[str, list[float]] = {name: [] for name in self.rewards}
        for start in range(0, len(tasks), 4):
            part = slice(start, start + 4)
            episodes = self._play(self.training, config, tasks[part], written[part], 1 + start)
            for name, reward in self.rewards.items():
                paid = torch.tensor([reward(episode) for episode in episodes])
                worth[name] += paid.view(-1, executions).mean(1).tolist()
        alike = [
            likeness(parse_plan(self.builder.decode(one.ids.tolist())), task)
            for task, group in zip(tasks, written, strict=True)
            for one in group
        ]
        return {name: torch.tensor(of).view(-1, plans) for name, of in worth.items()}, torch.tensor(alike).view(-1, plans)

    def _written(self, task: Task) -> Completion:
        ids = torch.tensor(self.builder.completion(format_plan(gold_plan(task, self.builder.plans_in_words))))
        return Completion(ids, torch.zeros(len(ids)), True)

    def _play(
        self, of: Rollout, config: RolloutConfig, tasks: Sequence[Task], plans: Sequence[list[Completion]], seed: int
    ) -> list[Trajectory]:
        player = GivenPlans(of.engine, of.environment, of.planner_reward, of.executor_reward, config)
        player.plans = plans
        return player.run(self.policy, self.builder, tasks, torch.Generator().manual_seed(seed)).trajectories


def ways_of(task: Task) -> list[Task]:
    """Return the task with each of its ways as the only one, fewest calls first."""
    return [replace(task, gold=way, alternatives=()) for way in sorted(task.ways, key=len)]


def measure(
    levels: Levels, folders: dict[str, Path], tasks: Sequence[Task], plans: int, executions: int
) -> dict[str, Any]:
    """Return the results of each pair of adapters, by its name."""
    several = [ways_of(task) for task in tasks if task.alternatives]
    able: dict[str, list[list[bool]]] = {}
    found: dict[str, dict[str, object]] = {}
    for name, folder in folders.items():
        levels.use(folder)
        flat = iter(levels.solved([way for ways in several for way in ways]))
        able[name] = [[next(flat) for _ in ways] for ways in several]
        worth, alike = levels.sampled(tasks[:48], plans, executions)
        correlations = {reward: correlation(values, alike) for reward, values in worth.items()}
        values = {reward: values.tolist() for reward, values in worth.items()}
        found[name] = {"correlation": correlations, "worth": values, "likeness": alike.tolist()}
        for reward, value in correlations.items():
            print(f"{name}: R_h,{reward} with likeness to gold within groups: {value:.3f}", flush=True)
    for name, mine in able.items():
        success = {
            "fewest": [can[0] for can in mine],
            "most": [can[-1] for can in mine],
            **{
                f"oracle of {other}": [can[_best(theirs)] for can, theirs in zip(mine, able[other], strict=True)]
                for other in able
            },
        }
        found[name]["success"] = {way: sum(values) / len(values) for way, values in success.items()}
    return {"tasks": len(tasks), "tasks_with_several_ways": len(several), "executors": found}


def _best(can: Sequence[bool]) -> int:
    """Return the way of fewest calls that an executor can carry out; the first if there is none."""
    return can.index(True) if True in can else 0


def table(found: dict[str, Any]) -> str:
    """Return success in percent as Markdown, one row per executor."""
    executors = found["executors"]
    columns = list(next(iter(executors.values()))["success"])
    rewards = list(next(iter(executors.values()))["correlation"])
    head = ["executor", *columns, *(f"correlation of R_h,{reward}" for reward in rewards)]
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    for name, one in executors.items():
        cells = [f"{100 * one['success'][column]:.1f}" for column in columns]
        cells += [f"{one['correlation'][reward]:.3f}" for reward in rewards]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


@reader_may_leave()
def run() -> None:
    """Parse, measure, write, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file that is written")
    parser.add_argument("--adapters", nargs="+", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--test-set", default="test", help="name in data.test")
    parser.add_argument("--tasks", type=at_least_one, default=150, help="of the test set, at most")
    parser.add_argument("--plans", type=at_least_one, default=4, help="sampled of each of the first 48 tasks")
    parser.add_argument("--executions", type=at_least_one, default=16, help="of a plan, sampled")
    args, config = parser.parse_known_args()
    quiet_libraries()
    if odd := [text for text in args.adapters if "=" not in text]:
        raise ConfigError(f"--adapters {odd[0]!r} has no name: write NAME=FOLDER")
    levels = Levels(main(config, run=False))
    tests = levels.cli.datamodule.test_tasks
    if args.test_set not in tests:
        raise ConfigError(f"--test-set {args.test_set!r} is not in data.test, which has {', '.join(tests)}")
    world = tests[args.test_set]
    tasks = [world[i] for i in range(min(args.tasks, len(world)))]
    folders = {name: Path(folder) for name, _, folder in (text.partition("=") for text in args.adapters)}
    found = measure(levels, folders, tasks, args.plans, args.executions)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.out, found)
    print(table(found))


if __name__ == "__main__":
    try:
        run()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
