"""Count invalid outputs, sampled with grammars or without: plans, and calls by the cause of their failure.

    python -m tools.quality.measure_invalid --outputs 10000 -c configs/quickstart.yaml
    python -m tools.quality.measure_invalid --outputs 500 --free -c configs/quickstart.yaml --model.policy.model FOLDER

Plays episodes of the training tasks, or of a test set, one task after another, until `--outputs` outputs are sampled:
plans, and all outputs of their steps, at the temperatures and limits of `data.rollout`. Every output is read and checked as in
training. One that the length limit cuts off is counted separately: a grammar constrains the text, but does not ensure that it
ends. An output with several calls counts by its first problem. `masks` is the share of time that grammars take.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cahl_pl  # noqa: F401 - before torch: it decides how torch's threads wait

# isort: split
import torch

from cahl_pl.commands.pipes import reader_may_leave
from cahl_pl.datamodule import RolloutDataModule
from cahl_pl.errors import ConfigError, UserError
from cahl_pl.grammars import Grammars
from cahl_pl.parsing import parse_action, parse_plan, parse_turn
from cahl_pl.plurals import counted
from cahl_pl.policy.constraint import Matchers, Within
from cahl_pl.prompts import PromptBuilder
from cahl_pl.rollout.single_level import SingleLevelRollout
from cahl_pl.rollout.two_level import Rollout
from cahl_pl.schema import find_problems
from cahl_pl.startup.library_warnings import quiet_libraries
from cahl_pl.types import Group, Role, Task
from tools.quality.measure_constrained import Clock, base
from tools.quality.measure_replanning import load

CAUSES = ("parse", "unknown_tool", "missing", "undeclared", "type")
COLUMNS = ("outputs", "cut off", "calls", "answers", *CAUSES)


def count(groups: dict[Role, list[Group]], task: Task, builder: PromptBuilder, single: bool) -> dict[str, Counter[str]]:
    """Return counts of the outputs of a task's episodes: role -> column -> number.

    Args:
        groups: groups of the episodes.
        task: task whose tools are offered.
        builder: builder of the prompts.
        single: whether there is no planner, so that an output may contain several calls.
    """
    found: dict[str, Counter[str]] = {}
    for role, of_role in groups.items():
        for group in of_role:
            for ids, cut in zip(group.completion_ids, group.truncated.tolist(), strict=True):
                text = builder.decode(ids.tolist())
                counts = found.setdefault(role, Counter())
                counts.update(["outputs", "cut off"] if cut else ["outputs", *kinds(role, text, task, single)])
    return found


def kinds(role: str, text: str, task: Task, single: bool) -> list[str]:
    """Return the columns in which a complete output counts."""
    if role == "planner":
        return ["parse"] if parse_plan(text).error is not None else []
    if single:
        turn = parse_turn(text)
        calls, answer = list(turn.calls), turn.answer
    else:
        action = parse_action(text)
        calls, answer = [action.call] if action.call is not None else [], action.answer
    if not calls:
        return ["answers"] if answer is not None else ["parse"]
    problems = [problem.cause for call in calls for problem in find_problems(call, task.tools)]
    return ["calls", *problems[:1]]


def play(data: RolloutDataModule, tasks: Any, outputs: int, seed: int, free: bool) -> dict[str, Counter[str]]:
    """Return the counts by role; print progress, and the time that masks take.

    Raises:
        ConfigError: all tasks are too long.
    """
    policy, builder, shared = data.policy, data.builder, data.rollout
    data.evaluating = False
    player: Rollout | SingleLevelRollout = shared
    if data.single_level:
        player = SingleLevelRollout(shared.engine, shared.environment, data.turn_reward, shared.config)
    player.grammars = None if free else Grammars(shared.config.max_steps)
    generator, total, clock = torch.Generator().manual_seed(seed), dict[str, Counter[str]](), Clock()
    began, told, tokens, empty = time.perf_counter(), 0.0, 0, 0
    with clock.on((Within, "hold"), (Within, "take"), (Matchers, "of")):
        for task in _again_and_again(tasks):
            policy.prefixes.forget()
            groups = player.run(policy, builder, [task], generator).groups
            for role, counts in count(groups, task, builder, data.single_level).items():
                total.setdefault(role, Counter()).update(counts)
            sampled = sum(len(ids) for of_role in groups.values() for group in of_role for ids in group.completion_ids)
            tokens, empty, seconds = tokens + sampled, 0 if sampled else empty + 1, time.perf_counter() - began
            made = sum(counts["outputs"] for counts in total.values())
            if empty == len(tasks):
                raise ConfigError("all tasks are longer than data.rollout.max_prompt_tokens: raise it")
            if made >= outputs or seconds > told + 60:
                told = seconds
                print(
                    f"{counted(made, 'output')}, {counted(tokens, 'token')}, {seconds:.0f} s, masks "
                    f"{100 * clock.seconds / seconds:.1f} %, {1e6 * clock.seconds / max(tokens, 1):.0f} us a token",
                    flush=True,
                )
                print(table(total), flush=True)
            if made >= outputs:
                return total
    raise AssertionError


def _again_and_again(tasks: Any) -> Iterator[Task]:
    while True:
        yield from (tasks[i] for i in range(len(tasks)))


def table(total: dict[str, Counter[str]]) -> str:
    """Return the counts as a table."""
    lines = [f"| role | {' | '.join(COLUMNS)} |", f"| --- |{' ---: |' * len(COLUMNS)}"]
    for role, counts in total.items():
        lines.append(f"| {role} | {' | '.join(str(counts[name]) for name in COLUMNS)} |")
    return "\n".join(lines)


@reader_may_leave()
def run(arguments: list[str]) -> None:
    """Parse, build, sample, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outputs", type=int, default=1000, help="how many, at least")
    parser.add_argument("--ckpt_path", type=Path, help="checkpoint of a run; without it the base is measured")
    parser.add_argument("--test", help="name of a set of tasks in data.test; without it the training tasks")
    parser.add_argument("--seed", type=int, default=0, help="of the sampling")
    parser.add_argument("--free", action="store_true", help="without grammars")
    args, config = parser.parse_known_args(arguments)
    quiet_libraries()
    try:
        data = load(config, args.ckpt_path) if args.ckpt_path else base(config)
        tasks = data.train_tasks if args.test is None else data.test_tasks.get(args.test)
        if tasks is None:
            raise ConfigError(
                f"data.test has no set of tasks {args.test!r}; it has {', '.join(data.test_tasks) or 'none'}"
            )
        play(data, tasks, args.outputs, args.seed, args.free)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    run(sys.argv[1:])
