"""Whether tasks go with a run: prompts, steps, and the environment that is to answer their calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from cahl_pl.environments.base import Environment
from cahl_pl.environments.executable import ExecutableEnvironment
from cahl_pl.errors import ConfigError
from cahl_pl.plurals import counted
from cahl_pl.schema import check_tool
from cahl_pl.types import Task

EXAMPLES: Final = 3
MANY: Final = 10**9


@dataclass(slots=True)
class Fault:
    """One thing that tasks have in common.

    Attributes:
        what: what is wrong, as it follows "12 tasks"; its verb comes first.
        advice: what to do.
        number: how many tasks have it.
        examples: the first of them, each with what is wrong there.
    """

    what: str
    advice: str
    number: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, example: str) -> None:
        """Count a task."""
        self.number += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(example)

    def lines(self, total: int) -> list[str]:
        """Return what to print."""
        verb, _, what = self.what.partition(" ")
        if self.number == 1:
            verb = {"have": "has", "are": "is"}.get(verb, f"{verb}s")
        rest = self.number - len(self.examples)
        more = [f"    and {rest:,} more, alike"] if rest else []
        return [
            f"{self.number:,} of {counted(total, 'task')} {verb} {what}: {self.advice}",
            *(f"  {example}" for example in self.examples),
            *more,
        ]


def check_tasks(
    tasks: Iterable[Task],
    length: Callable[[Task], int],
    max_prompt_tokens: int,
    max_steps: int,
    environment: Environment | None,
    run_gold: bool,
) -> tuple[int, list[Fault]]:
    """Look at each task.

    Args:
        tasks: the tasks.
        length: of a task's prompt, in tokens.
        max_prompt_tokens: longer prompts are not run.
        max_steps: calls that an episode may make.
        environment: answers calls; None where it is not to be asked.
        run_gold: whether to carry out the gold calls.

    Returns:
        The number of tasks, and the faults that some of them have.
    """
    too_long = Fault(f"have prompts of more than {max_prompt_tokens:,} tokens", "")
    too_many = Fault(f"have more gold calls than data.rollout.max_steps = {max_steps}", "")
    missing = Fault(
        "name tools that the environment lacks", "offer those that it has, or give data.environment the others"
    )
    refused = Fault("are refused by the environment", "correct the row's state, or the environment")
    failing = Fault("have gold calls that fail when they are carried out", "correct the calls, the state or the tools")
    longest, calls, total = 0, 0, 0
    for task in tasks:
        total += 1
        tokens = length(task)
        shortest = min(map(len, task.ways))
        longest, calls = max(longest, tokens), max(calls, shortest)
        if tokens > max_prompt_tokens:
            too_long.add(f"{task.id}: {tokens:,} tokens, {tokens - max_prompt_tokens:,} too many")
        if shortest > max_steps:
            too_many.add(f"{task.id}: {counted(shortest, 'gold call')}")
        if environment is not None:
            _ask(task, environment, run_gold, missing, refused, failing)
    too_long.advice = f"raise data.rollout.max_prompt_tokens, to {longest:,} for all of them, or shorten the tools"
    too_many.advice = f"raise it, to {calls} for all of them"
    return total, [fault for fault in (too_long, too_many, missing, refused, failing) if fault.number]


def check_sample(
    tasks: Sequence[Task],
    length: Callable[[Task], int],
    max_prompt_tokens: int,
    environment: Environment,
) -> str | None:
    """Look at some tasks before training, which takes a moment.

    Args:
        tasks: some of the training tasks, evenly spaced.
        length: of a task's prompt, in tokens.
        max_prompt_tokens: longer prompts are not run.
        environment: answers calls; only one that runs Python functions is asked.

    Returns:
        What to say of prompts that are too long; None where there is none.

    Raises:
        SchemaError: a tool's parameters are no JSON Schema.
        ConfigError: the environment lacks a tool, or refuses a task: the run would die when it is drawn.
    """
    for task in tasks:
        for tool in task.tools:
            check_tool(tool, f"task {task.id!r}")
    asked = environment if isinstance(environment, ExecutableEnvironment) else None
    total, faults = check_tasks(tasks, length, max_prompt_tokens, MANY, asked, run_gold=False)
    for fault in faults:
        if not fault.what.startswith("have prompts"):
            raise ConfigError(f"training tasks {fault.what}, such as {fault.examples[0]}; {fault.advice}")
    told = [fault for fault in faults if fault.number < total]
    return None if not told else "\n".join(told[0].lines(total))


def _ask(task: Task, environment: Environment, run_gold: bool, missing: Fault, refused: Fault, failing: Fault) -> None:
    unknown = _lacking(task, environment)
    if unknown:
        missing.add(f"{task.id}: {', '.join(unknown[:5])}")
        return
    for way in task.ways:
        try:
            session = environment.start(task)
        except ConfigError as error:
            refused.add(f"{task.id}: {error}")
            return
        if not run_gold:
            return
        for number, gold in enumerate(way, start=1):
            answer = session.call(gold.call)
            expected = isinstance(gold.result, dict) and "error" in gold.result
            if answer.error is not None and not expected:
                failing.add(f"{task.id}: gold call {number}, {gold.name}: {answer.text[:200]}")
                return


def _lacking(task: Task, environment: Environment) -> list[str]:
    """Return the offered tools that an environment of Python functions has no function for."""
    if not isinstance(environment, ExecutableEnvironment):
        return []
    try:
        functions = environment.toolkit(dict(task.state) if task.state is not None else None)
    except Exception:  # told when a session is started
        return []
    return [tool.name for tool in task.tools if tool.name not in functions]


def spread(number: int, most: int) -> range:
    """At most so many indices, evenly spaced."""
    return range(0, number, max(1, -(-number // most)))
