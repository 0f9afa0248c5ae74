"""Tasks of recorded dialogues: one for each assistant turn that calls tools, or answers the user without a call."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Final

from cahl_pl.datasets.call_marks import unread_call
from cahl_pl.datasets.messages import SAYS_NOTHING, Said, fold, match_answers
from cahl_pl.datasets.null_arguments import refuse_nulls
from cahl_pl.datasets.task_parts import kind_of_gold
from cahl_pl.errors import DataError
from cahl_pl.schema.blanks import is_blank
from cahl_pl.schema.references import leaves, read_reference
from cahl_pl.types import NO_RESULT, GoldCall, Task, ToolCall, ToolSpec

_NOT_LEARNT: Final = "the row says that this turn is not to be learnt (weight 0), so that it is no task"


def dialogue_tasks(
    said: Sequence[Said], tools: tuple[ToolSpec, ...], name: str, field: str = "messages"
) -> Iterator[Task | DataError]:
    """Return the tasks of a dialogue.

    A turn that calls is the gold of a task whose dialogue is everything before it; the answers that follow are the results,
    and the calls are parallel. A turn that answers the user in text without a call is a task without gold. A turn that is not
    to be learnt, such as one of weight 0 in OpenAI's rows, is dialogue only.

    Args:
        said: the turns.
        tools: the tools offered in all of them.
        name: name of the row; the tasks' ids are `<name>-turn-<turn, from 1>`.
        field: name of the turns' field, for messages.

    Raises:
        DataError: no turn is the assistant's. A turn that cannot be read, or is not to be learnt, is yielded as a DataError.
    """
    found = False
    faults = [_unread(turn, tools) for turn in said]
    for place, turn in enumerate(said):
        if turn.role != "assistant" or not (
            turn.calls or (place and said[place - 1].role == "user") or faults[place]
        ):
            continue
        found = True
        try:
            if not turn.learnt:
                raise DataError(f"the field {field!r}, message {turn.number}: {_NOT_LEARNT}")
            yield _turn_task(said, place, faults, tools, f"{name}-turn-{place + 1}", field)
        except DataError as error:
            yield error
    if not found:
        raise DataError(f"the field {field!r} holds no turn of the assistant that calls a tool or answers the user")


def last_task(said: Sequence[Said], tools: tuple[ToolSpec, ...], name: str, field: str = "messages") -> Task:
    """Return the task of a dialogue's last turn that calls, or, if none does, of the last one that answers the user.

    Raises:
        DataError: no such turn is to be learnt, or it cannot be read.
    """
    calling = [place for place, turn in enumerate(said) if turn.calls]
    replies = [i for i, turn in enumerate(said) if i and turn.role == "assistant" and said[i - 1].role == "user"]
    if not (calling or replies):
        raise DataError(f"the field {field!r} holds no turn of the assistant that calls a tool or answers the user")
    for places in (calling, replies):
        learnt = [place for place in places if said[place].learnt]
        if learnt:
            faults = [_unread(turn, tools) for turn in said[: learnt[-1] + 1]]
            return _turn_task(said, learnt[-1], faults, tools, name, field)
    raise DataError(f"the field {field!r}, message {said[(calling or replies)[-1]].number}: {_NOT_LEARNT}")


def _turn_task(
    said: Sequence[Said],
    place: int,
    faults: Sequence[str | None],
    tools: tuple[ToolSpec, ...],
    name: str,
    field: str,
) -> Task:
    """Return the task of the turn at a place.

    Args:
        said: the turns.
        place: the turn's place.
        faults: the fault of each turn up to it.
        tools: the tools offered.
        name: the task's id.
        field: name of the turns' field, for messages.

    Raises:
        DataError: an earlier turn cannot be read, an answer after it has no call, or an assistant's text up to it contains
            a call that was not read.
    """
    turn = said[place]
    for one, fault in zip(said[: place + 1], faults, strict=False):
        if fault is not None:
            raise DataError(f"the field {field!r}, message {one.number}: {fault}")
    history = fold(said[:place], field)
    if not history or history[-1].role not in ("user", "tool"):
        raise DataError(
            f"the field {field!r}, message {turn.number}: calls must follow a user's message or a tool's answer"
        )
    if is_blank(turn.text) and not (turn.calls or turn.no_call):
        raise DataError(f"the field {field!r}, message {turn.number}: {SAYS_NOTHING}")
    end = place + 1
    while end < len(said) and said[end].role == "tool":
        end += 1
    answers = said[place + 1 : end]
    results = [one.result for one in match_answers(turn, answers, field)] if answers else [NO_RESULT] * len(turn.calls)
    for called in turn.calls:
        _check_values(called.call, tools, f"the field {field!r}, message {turn.number}")
    gold = tuple(GoldCall(c.call.name, c.call.arguments, r) for c, r in zip(turn.calls, results, strict=True))
    answer = None if gold else turn.text.strip() or None
    return Task(name, history, tools, gold, answer=answer, tags={"kind": kind_of_gold(gold)})


def _check_values(call: ToolCall, tools: Sequence[ToolSpec], place: str) -> None:
    """Refuse a reference with a path as an argument: a recorded call holds the value itself, and this text would be learnt.

    A null that means a missing argument is refused too.
    """
    try:
        refuse_nulls(call, tools)
    except DataError as error:
        raise DataError(f"{place}: {error}") from None
    for parameter, value in call.arguments.items():
        written = [text for text in leaves(value) if (found := read_reference(text)) is not None and found.path]
        if written:
            raise DataError(
                f"{place}: the argument {parameter!r} of {call.name} is {json.dumps(written[0])}, a reference, where a "
                "dialogue's calls hold the values themselves: write the value that was given"
            )


def _unread(turn: Said, tools: Sequence[ToolSpec]) -> str | None:
    """Return the fault of an assistant turn whose text contains a call that was not read."""
    if turn.role != "assistant" or turn.fault is not None:
        return turn.fault
    mark = unread_call(turn.text, tools, {one.call.name for one in turn.calls})
    if mark is None:
        return None
    return (
        f"the text holds a call in a notation that is not read ({mark}); "
        "write calls between <tool_call> and </tool_call>, or in OpenAI's 'tool_calls'"
    )
