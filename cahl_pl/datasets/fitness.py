"""Checks of tasks against a run: prompts, steps, and the environment that answers their calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from cahl_pl.datasets.stored_results import difference, lost_reference
from cahl_pl.environments.base import Environment, MissingToolsError, Session, answered, started
from cahl_pl.environments.executable import ExecutableEnvironment
from cahl_pl.errors import ConfigError
from cahl_pl.plurals import counted
from cahl_pl.schema import check_tool
from cahl_pl.types import Feedback, Task

EXAMPLES: Final = 3
MANY: Final = 10**9


@dataclass(slots=True)
class Fault:
    """Fault that several tasks may share.

    Attributes:
        what: the fault, worded to follow "12 tasks", verb first.
        advice: what to do.
        number: number of tasks that have it.
        examples: the first of them, each with its details.
        may_be_right: whether it may be intended.
    """

    what: str
    advice: str
    number: int = 0
    examples: list[str] = field(default_factory=list)
    may_be_right: bool = False

    def add(self, example: str) -> None:
        """Count a task."""
        self.number += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(example)

    def lines(self, total: int) -> list[str]:
        """Return the lines to print."""
        verb, _, what = self.what.partition(" ")
        if self.number == 1:
            verb = {"have": "has", "are": "is"}.get(verb, f"{verb}s")
            what = what.replace("their", "its")
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
    tools: str | None = None,
) -> tuple[int, list[Fault]]:
    """Check each task.

    Args:
        tasks: the tasks.
        length: function that returns the tokens of a task's prompt.
        max_prompt_tokens: longer prompts are not run.
        max_steps: maximum number of calls of an episode.
        environment: the environment that answers calls; None to leave it out.
        run_gold: whether to carry out the gold calls.
        tools: the Python file or module of the tasks' tools, for the advice; None if the tasks bring their own.

    Returns:
        The number of tasks, and the faults found.
    """
    too_long = Fault(f"have prompts of more than {max_prompt_tokens:,} tokens", "")
    too_many = Fault(f"have more gold calls than data.rollout.max_steps = {max_steps}", "")
    asked = None if environment is None else _Asked(environment, run_gold, tools)
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
        if asked is not None:
            asked.ask(task)
    too_long.advice = f"raise data.rollout.max_prompt_tokens, to {longest:,} for all of them, or shorten the tools"
    too_many.advice = f"raise it, to {calls} for all of them"
    found = [too_long, too_many, *(asked.faults() if asked is not None else ())]
    return total, [fault for fault in found if fault.number]


def check_sample(
    tasks: Sequence[Task],
    length: Callable[[Task], int],
    max_prompt_tokens: int,
    environment: Environment,
) -> str | None:
    """Check some tasks before training, which is quick.

    Args:
        tasks: some of the training tasks, evenly spaced.
        length: function that returns the tokens of a task's prompt.
        max_prompt_tokens: longer prompts are not run.
        environment: the environment that answers calls; only one that runs Python functions is checked.

    Returns:
        A message about prompts that are too long; None if there are none.

    Raises:
        SchemaError: a tool's parameters are not a JSON Schema.
        ConfigError: the environment lacks a tool, or refuses a task: the run would fail when it is drawn.
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


class _Asked:
    """Faults of tasks in an environment."""

    def __init__(self, environment: Environment, run_gold: bool, tools: str | None) -> None:
        self._environment, self._run_gold = environment, run_gold
        kind, option = type(environment).__name__, environment.tools_option
        which = f" ({kind} with {option}: {environment.tools_source})" if environment.tools_source else ""
        key = f"--data.environment.init_args.{option} {tools or 'my_tools.py'}" if option else "data.environment"
        self._missing = Fault(
            f"name tools that the environment lacks{which}", f"give it the tools of the rows, {key}, or offer its own"
        )
        other = "" if tools == environment.tools_source else f"; for tools of your own: {key}"
        self._refused = Fault(f"are refused by the environment{which}", f"correct their state, or these tools{other}")
        self._failing = Fault(
            "have gold calls that fail when they are carried out", "correct the calls, the state or the tools"
        )
        self._lost = Fault(
            "have references to values that the tools do not answer",
            "a plan that refers to them would give the call another value than the gold has; correct the results and "
            "values, or the tools",
        )
        self._other = Fault(
            "have results in their gold that the tools answer otherwise",
            "that is right where answers vary, such as the time of day; else correct `result`, or the tools",
            may_be_right=True,
        )

    def faults(self) -> tuple[Fault, ...]:
        """Return all faults, including those that no task has."""
        return self._missing, self._refused, self._failing, self._lost, self._other

    def ask(self, task: Task) -> None:
        """Start a session for each way of a task, and carry out its calls."""
        for way in range(len(task.ways)):
            try:
                session = started(self._environment, task)
            except MissingToolsError as error:
                self._missing.add(f"{task.id}: {', '.join(error.names[:5])}")
                return
            except ConfigError as error:
                self._refused.add(str(error) if repr(task.id) in str(error) else f"{task.id}: {error}")
                return
            if self._run_gold and not self._carry_out(task, way, session):
                return

    def _carry_out(self, task: Task, way: int, session: Session) -> bool:
        """Make the calls of a way; return whether all went well."""
        calls = task.ways[way]
        answers: list[Feedback] = []
        different: str | None = None
        for number, gold in enumerate(calls, start=1):
            place = f"{task.id}: gold call {number}, {gold.name}"
            if self._environment.runs_tools and (lost := lost_reference(gold, calls[: number - 1], answers)):
                self._lost.add(f"{place}: {lost}")
                return False
            answer = answered(session, gold.call, task)
            answers.append(answer)
            expected = isinstance(gold.result, dict) and "error" in gold.result
            if answer.error is not None and not expected:
                self._failing.add(f"{place}: {answer.text[:200]}")
                return False
            if self._environment.runs_tools and different is None and (found := difference(gold, answer)):
                different = f"{place}: {found}"
        if different is not None:
            self._other.add(different)
        return different is None


def spread(number: int, most: int) -> range:
    """Return at most `most` indices, evenly spaced."""
    return range(0, number, max(1, -(-number // most)))
