"""Gold plans and calls as token sequences, which the supervised warm start imitates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch

from cahl_pl.environments.recorded import RecordedEnvironment
from cahl_pl.parsing import format_answer, format_plan
from cahl_pl.prompts import PromptBuilder
from cahl_pl.python_tools.results import json_text
from cahl_pl.rollout.calls import call_ids
from cahl_pl.rollout.left_over import has_failed, left_over
from cahl_pl.schema import call_key
from cahl_pl.schema.references import references_in
from cahl_pl.types import Action, GoldCall, Group, Role, Step, SubTask, Task, ToolCall

_INSTRUCTION_WORDS = 12
_DEFAULT_ANSWER = "No tool is needed here."
_LAST_ANSWER = "Done."  # of an executor without a planner, once all calls have been made


class Example(NamedTuple):
    """Prompt and its gold completion, as token ids."""

    prompt: list[int]
    completion: list[int]


def gold_plan(task: Task, in_words: bool = False) -> tuple[SubTask, ...]:
    """Return a plan made from the gold calls: one sub-task per call, described by the first words of the tool's description.

    With `in_words` the sub-tasks map no parameters, which are unknown to a planner that reads only the tools' names: each
    states its request in the gold call's own words (`GoldCall.instruction`) or, if there are none, lists the values after the
    description. A task without gold calls yields one sub-task without a tool. Unforeseeable calls are not planned.
    """
    calls = task.foreseeable.gold
    if not calls:
        return (SubTask("Answer the user", None),)
    if in_words:
        return tuple(SubTask(gold.instruction or _in_words(task, gold), gold.name) for gold in calls)
    return tuple(SubTask(_instruction(task, gold.name), gold.name, gold.planned.arguments) for gold in calls)


def gold_parts(task: Task) -> list[Task]:
    """Return the task as its first plan sees it and, where not all is foreseen, as a further plan does.

    The further plan follows the first gold call that fails or, if none is known to fail, all foreseeable ones.
    """
    if task.foreseen is None or task.foreseen >= len(task.gold):
        return [task]
    session, steps = RecordedEnvironment().start(task), list[Step]()
    for subtask, gold in zip(gold_plan(task), task.foreseeable.gold, strict=True):
        steps.append(Step(subtask, "", Action(call=gold.call), session.call(gold.call)))
        if has_failed(steps[-1]):
            break
    return [task.foreseeable, left_over(task, steps)]


def planner_example(builder: PromptBuilder, task: Task) -> Example:
    """Return the planner's first prompt and the gold plan."""
    return Example(builder.planner(task), builder.completion(format_plan(gold_plan(task, builder.plans_in_words))))


def planner_examples(builder: PromptBuilder, task: Task) -> list[Example]:
    """Return the planner's prompt and gold plan, and those of a further plan where not all is foreseen."""
    return [planner_example(builder, part) for part in gold_parts(task)]


def executor_examples(builder: PromptBuilder, task: Task) -> list[Example]:
    """Return the executor's prompt at each step of the gold trajectory, and the gold call.

    Each prompt extends the last one; those of a further plan, where not all is foreseen, start over.
    """
    return [example for part in gold_parts(task) for example in _executor_examples(builder, part)]


def _executor_examples(builder: PromptBuilder, task: Task) -> list[Example]:
    examples: list[Example] = []
    prompt: list[int] = []
    session = RecordedEnvironment().start(task)
    for index, subtask in enumerate(gold_plan(task, builder.plans_in_words), start=1):
        if examples:
            feedback = session.call(task.gold[index - 2].call).text
            prompt = [
                *prompt,
                *examples[-1].completion,
                *builder.next_step(True, feedback, task, subtask, index, examples[-1].completion[-1]),
            ]
        else:
            prompt = builder.executor(task, subtask)
        if task.gold:
            completion = call_ids(builder, [task.gold[index - 1].call], task.tools)
        else:
            completion = builder.completion(format_answer(task.answer or _DEFAULT_ANSWER))
        examples.append(Example(prompt, completion))
    return examples


def single_examples(builder: PromptBuilder, task: Task) -> list[Example]:
    """Return the prompt of an executor without a planner at each turn of the gold trajectory, and the gold calls or answer."""
    examples: list[Example] = []
    prompt = builder.single(task)
    session = RecordedEnvironment().start(task)
    for turn in gold_turns(task):
        examples.append(Example(prompt, call_ids(builder, [gold.call for gold in turn], task.tools)))
        answers = [session.call(gold.call).text for gold in turn]
        prompt = [*prompt, *examples[-1].completion, *builder.next_turn(True, answers, examples[-1].completion[-1])]
    answer = _LAST_ANSWER if task.gold else task.answer or _DEFAULT_ANSWER
    return [*examples, Example(prompt, builder.completion(format_answer(answer)))]


def supervised_groups(builder: PromptBuilder, task: Task, role: Role, single_level: bool = False) -> list[Group]:
    """Return one role's gold examples of a task as groups of one, for the trainer; `single_level`: without a planner.

    A task that specifies only its outcome yields none.
    """
    if not task.gold and task.outcome is not None and task.outcome.needs_tools:
        return []
    if single_level:
        examples = single_examples(builder, task)
    else:
        examples = planner_examples(builder, task) if role == "planner" else executor_examples(builder, task)
    return [
        Group(
            prompt_ids=torch.tensor(example.prompt),
            completion_ids=[torch.tensor(example.completion)],
            rewards=torch.ones(1),
            components={},
            advantages=torch.ones(1),
            truncated=torch.zeros(1, dtype=torch.bool),
            comparison_id=0,
        )
        for example in examples
    ]


def _instruction(task: Task, name: str) -> str:
    tool = task.tool(name)
    words = (tool.description if tool else "").split(". ")[0].split()
    return " ".join(words[:_INSTRUCTION_WORDS]).rstrip(".") or f"Use {name}"


def _in_words(task: Task, gold: GoldCall) -> str:
    values = gold.planned.arguments.values()
    listed = ", ".join(value if isinstance(value, str) else json_text(value) for value in values)
    return f"{_instruction(task, gold.name)}: {listed}" if listed else _instruction(task, gold.name)


def next_calls(task: Task, made: Sequence[ToolCall]) -> tuple[GoldCall, ...]:
    """Return the gold calls that a correct output makes now: those not yet made that wait for no other's result.

    Ordered gold calls without references come one at a time, since their dependencies are unknown. Unforeseeable calls
    wait for all foreseeable ones.

    Args:
        task: the task.
        made: the calls made so far, in order; equal ones count once each.

    Returns:
        Gold calls in order; empty when all have been made, so that an answer in text is right.
    """
    done = Counter(call_key(call, task.tools) for call in made)
    left = []
    for number, gold in enumerate(task.gold, start=1):
        key = call_key(gold.call, task.tools)
        if done[key]:
            done[key] -= 1
        else:
            left.append((number, gold))
    if task.foreseen is not None:
        left = [one for one in left if one[0] <= task.foreseen] or left
    if task.ordered and not any(gold.references for gold in task.gold):
        return tuple(gold for _, gold in left[:1])
    waiting = {number for number, _ in left}
    return tuple(gold for _, gold in left if not waiting & {one.call for one in references_in(gold.references)})


def is_on_track(task: Task, made: Sequence[ToolCall]) -> bool:
    """Return whether the calls made so far are gold calls, each once: otherwise the episode can no longer succeed.

    True for a task without gold calls that is judged by its outcome, where this cannot be determined.
    """
    if not task.gold and task.outcome is not None and task.outcome.needs_tools:
        return True
    done = Counter(call_key(call, task.tools) for call in made)
    return done <= Counter(call_key(gold.call, task.tools) for gold in task.gold)


def gold_turns(task: Task) -> list[tuple[GoldCall, ...]]:
    """Return the gold calls by turn: those of a turn are made together, after those of earlier turns have been answered."""
    turns: list[tuple[GoldCall, ...]] = []
    made: list[ToolCall] = []
    while turn := next_calls(task, made):
        turns.append(turn)
        made += [gold.call for gold in turn]
    return turns
