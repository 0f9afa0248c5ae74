"""Print the prompts of the planner and the executor for a task, with the exact tokens they read; no weights are loaded.

    python -m cahl_pl show-prompt -c configs/quickstart.yaml --row 3
    python -m cahl_pl show-prompt -c configs/quickstart.yaml --request "Is it raining in Gage?" --tools my_tools.py

First comes the common start of both prompts, then the rest of each: the planner's up to its plan, the executor's up to its
first output. The executor's sub-task is the first one of the gold plan. Special tokens are shown in «»; text of the
data that looks like one is not, since it is read as plain characters.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from cahl_pl.commands import verb_parser
from cahl_pl.commands.configured import build, policy_of, prompts_of, read_config
from cahl_pl.datasets import Requests, TaskSource
from cahl_pl.datasets.own_tasks import checked
from cahl_pl.errors import ConfigError, DataError
from cahl_pl.policy.loading import load_tokenizer
from cahl_pl.prompts import PromptBuilder
from cahl_pl.rollout.calls import builder_for
from cahl_pl.rollout.gold import gold_plan
from cahl_pl.startup.library_warnings import quiet_libraries
from cahl_pl.types import Message, Task


def visible(tokenizer: Any, ids: Sequence[int]) -> str:
    """Return the text of some ids, each special token in «»."""
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    parts: list[str] = []
    plain: list[int] = []
    for i in [*ids, None]:
        if i is not None and i not in special:
            plain.append(i)
            continue
        parts.append(tokenizer.decode(plain, skip_special_tokens=False) if plain else "")
        plain = []
        if i is not None:
            parts.append(f"«{tokenizer.decode([i], skip_special_tokens=False)}»")
    return "".join(parts)


def show(builder: PromptBuilder, task: Task, limit: int | None = None, gold_is_known: bool = True) -> str:
    """Return both roles' prompts of a task as text, their common part first.

    Args:
        builder: prompt builder for the policy's tokenizer.
        task: task whose first sub-task the executor gets.
        limit: `data.rollout.max_prompt_tokens`, above which a prompt is flagged.
        gold_is_known: whether a task without gold calls needs none, which is not known of a request.
    """
    subtasks = gold_plan(task, builder.plans_in_words)
    planner, executor = builder.planner(task), builder.executor(task, subtasks[0])
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(planner, executor, strict=False)))
    if task.gold:
        which = f"sub-task 1 of {len(subtasks)} of the gold plan"
    elif gold_is_known and not (task.outcome is not None and task.outcome.needs_tools):
        which = "no call is right here: a sub-task without a tool"
    else:
        which = "no gold plan is known: a sub-task without a tool"
    parts = [_section("both roles", planner[:shared], builder)]
    for name, ids in (("planner", planner), (f"executor, {which}", executor)):
        parts.append(_section(f"{name}, goes on", ids[shared:], builder, len(ids), limit))
    return "\n".join(parts)


def show_single(builder: PromptBuilder, task: Task, limit: int | None = None) -> str:
    """Return the prompt of an executor without a planner as text."""
    ids = builder.single(task)
    return _section("executor without a planner", ids, builder, len(ids), limit)


def _section(name: str, ids: Sequence[int], builder: PromptBuilder, every: int = 0, limit: int | None = None) -> str:
    counts = f"{len(ids)} tokens" + (f", {every} in all" if every > len(ids) else "")
    if limit is not None and every > limit:
        counts += f", more than data.rollout.max_prompt_tokens, {limit}"
    return f"=== {name}: {counts} ===\n{visible(builder.tokenizer, ids)}\n"


def main(arguments: list[str]) -> None:
    """Read the configuration, print the prompts.

    Raises:
        ConfigError: the configuration has no such row.
    """
    parser = verb_parser("show-prompt", __doc__, takes_configuration=True)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--row", type=int, default=0, help="row of data.train, from 0; negative: from its end")
    which.add_argument("--request", metavar="TEXT", help="a request instead, with the tools of row 0 or of --tools")
    parser.add_argument(
        "--tools", metavar="FILE", help="with --request: a Python file of functions, or a .json file of tools"
    )
    args, rest = parser.parse_known_args(arguments)
    if args.tools is not None and args.request is None:
        raise ConfigError("--tools goes with --request: a row brings its own tools")
    quiet_libraries()
    config = read_config(rest)
    if args.tools is not None:
        task, where = Requests(args.request, args.tools)[0], f"the request, with the tools of {args.tools}"
    else:
        tasks = checked(build(TaskSource, config.data.train))  # type: ignore[type-abstract]
        if not -len(tasks) <= args.row < len(tasks):
            raise ConfigError(f"--row {args.row}: data.train has the rows 0 to {len(tasks) - 1}")
        row = args.row % len(tasks)
        task, where = tasks[row], f"row {row} (from 0) of data.train"
        if args.request is not None:
            if not args.request.strip():
                raise DataError("the request is empty; write what is to be done")
            task = Task("request", (Message("user", args.request),), task.tools)
            where = f"the request, with the tools of {where}"
    policy = policy_of(config)
    builder = builder_for(load_tokenizer(policy), prompts_of(config))
    limit = config.data.rollout.max_prompt_tokens
    print(f"{where}, task {task.id!r}, tokenizer of {policy.model}; «» marks a special token\n")
    if config.data.single_level:
        print(show_single(builder, task, limit), end="")
    else:
        print(show(builder, task, limit, gold_is_known=args.request is None), end="")
