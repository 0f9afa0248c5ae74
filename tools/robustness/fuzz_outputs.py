"""Send hostile model output through parsing, schema check and all rewards: nothing may raise or leave its range.

    python -m tools.robustness.fuzz_outputs --outputs 1000000 --seed 0

Outputs are made from gold plans and calls of ToolWorld by mutation (cut, doubled, shuffled, nested tags, broken JSON, huge
numbers, lone surrogates, duplicate keys, deep nesting, long runs) or from scratch (random characters, random tags). Each is
read as a plan, as an executor's output and as that of an executor without a planner, and scored by every reward; outcome
rewards, which run tools, score one in ten. A readable plan is executed as its sub-tasks say. Prints the number of outputs,
the extremes of every reward, and the longest processor time per kilobyte, of outputs of 1 kB and more (the fastest of
three if one is slow, since a busy machine adds to it too). Exits with 1 at the first output that raises or is scored
out of range, and writes it to --failure.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from cahl_pl.commands.pipes import reader_may_leave
from cahl_pl.environments import ExecutableEnvironment
from cahl_pl.parsing import format_answer, format_call, format_plan, format_turn, parse_action, parse_plan, parse_turn
from cahl_pl.rewards import (
    ExecutorReward,
    OutcomeExecutorReward,
    OutcomePlannerReward,
    PlannerReward,
    ToolN1Reward,
    ToolRLReward,
    TurnReward,
    assign_gold,
)
from cahl_pl.rewards.base import BaseReward
from cahl_pl.rollout.gold import gold_plan, next_calls
from cahl_pl.schema import coerce_call, find_problems
from cahl_pl.toolworld import ToolWorld, toolkit
from cahl_pl.types import Action, Plan, Step, SubTask, Task, ToolCall, Trajectory

TAGS = [f"<{slash}{tag}>" for tag in ("think", "plan", "tool_call", "answer") for slash in ("", "/")]
PIECES = [
    *TAGS,
    *(
        '{"name": ',
        '"parameters": {',
        '"arguments": {',
        '"tool": null',
        '"task": "x"',
        "}",
        "]",
        "[",
        '"',
        ",",
        ":",
        "\\",
    ),
    *(
        "NaN",
        "-Infinity",
        "1e999",
        "9" * 400,
        "-0",
        "1.0",
        "true",
        "null",
        "\ud800",
        "\\ud800",
        "\u0000",
        "\u2028",
        "$1",
        "$99",
    ),
    *("<|im_end|>", "<|im_start|>assistant", "\n", "\n\n", "\t", "e\u0301", "\U0001f600"),
]
TASKS = 64


def mutate(text: str, others: Sequence[str], rng: random.Random) -> str:
    """Return the text after a few random changes, small ones more often."""
    for _ in range(rng.choice((0, 1, 1, 1, 1, 2, 2, 3, 4))):
        i, j = sorted((rng.randint(0, len(text)), rng.randint(0, len(text))))
        change = rng.choice((*range(12), 12, 12, 12, 12))
        if change == 0:
            text = text[:i] + text[j:]
        elif change == 1:
            text = text[:j] + text[i:j] + text[j:]
        elif change == 2:
            text = text[:i] + rng.choice(PIECES) + text[i:]
        elif change == 3:
            text = text[:i] + rng.choice(PIECES) + text[j:]
        elif change == 4:
            text = rng.choice(TAGS) + text + rng.choice(TAGS)
        elif change == 5:
            text = text.replace(rng.choice('":{}[],'), rng.choice(PIECES), rng.randint(1, 3))
        elif change == 6:
            text = text[:i] + rng.choice(others) + text[i:]
        elif change == 7:
            depth = rng.choice((10, 70, 2000))
            text = text[:i] + rng.choice(("[", '{"a":')) * depth + text[i:]
        elif change == 8:
            text = text[:i] + rng.choice(PIECES) * rng.choice((2, 50, 3000)) + text[i:]
        elif change == 9:
            text = text[:i] + "".join(chr(rng.randrange(0x11000)) for _ in range(rng.randint(1, 20))) + text[i:]
        elif change == 10:
            text = "".join(rng.choice(PIECES) for _ in range(rng.randint(0, 40)))
        elif change == 12:  # another character: most keep the output readable, and change a value or a name
            text = text[:i] + rng.choice("0123456789abcXYZ-. ") + text[i + 1 :]
        else:
            lines = text.split("\n")
            rng.shuffle(lines)
            text = "\n".join(lines * rng.choice((1, 1, 2)))
    return text


class Scorer:
    """Scorer that reads an output in all three ways and applies every reward."""

    def __init__(self) -> None:
        environment = ExecutableEnvironment(toolkit)
        self.planner = {"planner": PlannerReward(), "outcome planner": OutcomePlannerReward()}
        self.executor = {"executor": ExecutorReward(), "outcome executor": OutcomeExecutorReward()}
        self.turn = {"turn": TurnReward(), "toolrl": ToolRLReward(), "tool_n1": ToolN1Reward(thinking=False)}
        for reward in (*self.planner.values(), *self.executor.values(), *self.turn.values()):
            reward.environment = environment
        self.low = dict.fromkeys((*self.planner, *self.executor, *self.turn), math.inf)
        self.high = dict.fromkeys(self.low, -math.inf)
        self.read: Counter[str] = Counter()

    def __call__(self, text: str, task: Task, with_outcome: bool) -> None:
        """Score an output; outcome rewards run tools, so only on request.

        Raises:
            ValueError: a reward is out of its range.
        """
        plan, action, turn = parse_plan(text), parse_action(text), parse_turn(text)
        self.read["plans"] += plan.error is None
        self.read["calls"] += action.call is not None
        self.read["turns with calls"] += bool(turn.calls)
        for call in (*turn.calls, *([action.call] if action.call else [])):
            find_problems(call, task.tools)
            coerce_call(call, task.tools)
        subtask = SubTask("do", task.tools[0].name if task.tools else None)
        step = Step(subtask, text, action)
        targets = assign_gold(plan, task)
        own_plan = Plan((subtask,))
        episode = Trajectory(task, "", own_plan, (step,))
        for name, planner_reward in self.planner.items():
            if with_outcome or not name.startswith("outcome"):
                executed = tuple(Step(s, text, _as_planned(s) or action) for s in plan.subtasks[:6])
                trajectory = Trajectory(task, text, plan, executed)
                self._note(name, planner_reward, planner_reward.components(plan, [trajectory]))
        for name, executor_reward in self.executor.items():
            if with_outcome or not name.startswith("outcome"):
                for target in (*targets[:1], *assign_gold(own_plan, task)):
                    self._note(name, executor_reward, executor_reward.components(step, target, episode, 0))
        next_gold = next_calls(task, turn.calls[:1] if with_outcome else ())
        for name, turn_reward in self.turn.items():
            self._note(name, turn_reward, turn_reward.components(turn, next_gold, task))

    def _note(self, name: str, reward: BaseReward, components: dict[str, float | None]) -> None:
        total = reward.total(components)
        least, most = (-3.0, 4.0) if name == "toolrl" else (0.0, 1.0)
        if not least <= total <= most + 1e-9:
            raise ValueError(f"{name} is {total}, out of [{least}, {most}]: {components}")
        self.low[name], self.high[name] = min(self.low[name], total), max(self.high[name], total)


def fuzz(outputs: int, seed: int, report: Callable[[str], None] = print) -> tuple[Scorer, float]:
    """Score `outputs` hostile outputs.

    Returns:
        The scorer with its counts and extremes, and the longest processor time in milliseconds per kilobyte.

    Raises:
        FuzzError: one of them raised or was scored out of range.
    """
    rng = random.Random(seed)
    world = ToolWorld(size=TASKS)
    tasks = [world[i] for i in range(TASKS)]
    seeds = [text for task in tasks for text in gold_texts(task)]
    scorer, slowest = Scorer(), 0.0
    for number in range(outputs):
        task = rng.choice(tasks)
        text = mutate(rng.choice(gold_texts(task) if rng.random() < 0.7 else seeds), seeds, rng)
        start = time.process_time()
        try:
            scorer(text, task, with_outcome=number % 10 == 0)
            if len(text) >= 1000:
                took = time.process_time() - start
                kilobytes = len(text.encode("utf-8", "replace")) / 1000
                for _ in range(2 * (1000 * took / kilobytes > slowest)):
                    start = time.process_time()
                    scorer(text, task, with_outcome=number % 10 == 0)
                    took = min(took, time.process_time() - start)
                slowest = max(slowest, 1000 * took / kilobytes)
        except Exception as error:
            raise FuzzError(number, text, error) from error
        if (number + 1) % 100_000 == 0:
            report(f"{number + 1:,} outputs, longest {slowest:.1f} ms per kB")
    return scorer, slowest


class FuzzError(RuntimeError):
    """An output that raised or was scored out of range.

    Attributes:
        text: the output.
    """

    def __init__(self, number: int, text: str, error: Exception) -> None:
        super().__init__(f"output {number}: {type(error).__name__}: {str(error)[:300]}")
        self.text = text


def _as_planned(subtask: SubTask) -> Action | None:
    return None if subtask.tool is None else Action(call=ToolCall(subtask.tool, subtask.parameters), well_formed=True)


def gold_texts(task: Task) -> list[str]:
    """Return the texts that a perfect model would write for a task: plan, each call, turns without a planner, answer."""
    calls = [gold.call for gold in task.gold] or [ToolCall("none", {})]
    return [
        format_plan(gold_plan(task)),
        *map(format_call, calls),
        format_turn(calls),
        format_answer(task.answer or "Done."),
        f"<think>so</think>\n{format_turn(calls)}",
    ]


@reader_may_leave()
def main(arguments: Sequence[str] | None = None) -> None:
    """Fuzz, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--failure", type=Path, default=Path("fuzz-failure.txt"), help="where a failing output is written"
    )
    options = parser.parse_args(arguments)
    start = time.monotonic()
    try:
        scorer, slowest = fuzz(options.outputs, options.seed, lambda line: print(line, flush=True))
    except FuzzError as error:
        options.failure.write_text(json.dumps(error.text), encoding="utf-8")
        sys.exit(f"error: {error}; the output is in {options.failure}, as a JSON string")
    seconds = time.monotonic() - start
    print(
        f"{options.outputs:,} outputs, seed {options.seed}, {seconds:.0f} s; longest processor time per kB: {slowest:.1f} ms"
    )
    print("read: " + ", ".join(f"{name} {count:,}" for name, count in scorer.read.items()))
    for name, low in scorer.low.items():
        print(f"{name}: {low:.3f} to {scorer.high[name]:.3f}")


if __name__ == "__main__":
    main()
