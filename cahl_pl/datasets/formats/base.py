"""Row formats, and the dialogues read from rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from cahl_pl.datasets.declared_values import as_declared, read_value
from cahl_pl.datasets.dialogues import dialogue_tasks, last_task
from cahl_pl.datasets.messages import Said, refuse_lost_calls
from cahl_pl.datasets.notations import says_nothing, take_calls, without_thoughts
from cahl_pl.errors import DataError
from cahl_pl.types import Task, ToolSpec


@dataclass(frozen=True, slots=True)
class Format:
    """Format of rows.

    Attributes:
        is_one: whether a row, which is an object, has this form.
        tasks: `(row, name) -> tasks`, with ids made from the name; raises DataError naming the field at fault, as does `one`.
        one: `(row, name) -> task`, reading a row as one task; None if a row is several.
        dialogues: whether rows are dialogues, of which `one` takes only the last turn that makes a task.
    """

    is_one: Callable[[dict[str, Any]], bool]
    tasks: Callable[[dict[str, Any], str], Iterable[Task | DataError]]
    one: Callable[[dict[str, Any], str], Task] | None = None
    dialogues: bool = False


@dataclass(frozen=True, slots=True)
class Dialogue:
    """Dialogue of a row.

    Attributes:
        said: its turns.
        tools: the tools offered.
        field: name of the turns' field, for messages.
        rows: the raw turns of the row, by number; empty if they are not objects.
    """

    said: Sequence[Said]
    tools: tuple[ToolSpec, ...]
    field: str = "messages"
    rows: Sequence[Any] = ()


def usual(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with its dialogue in `messages`, even if it was JSON text, or in `conversations` with roles."""
    prompt, completion = row.get("prompt"), row.get("completion")
    if _is_said(prompt) and _is_said(completion) and "messages" not in row:  # as in TRL
        rest = {key: value for key, value in row.items() if key not in ("prompt", "completion")}
        return {"messages": [*prompt, *completion]} | rest
    for field in ("messages", "conversations", "conversation"):
        said = row.get(field)
        if isinstance(said, str) and said.lstrip().startswith("["):
            try:
                said = read_value(said)
            except DataError:
                return row
        if _is_said(said):
            rest = {key: value for key, value in row.items() if key != field}
            return {"messages": said} | rest if field != "messages" else row | {"messages": said}
    return row


def _is_said(value: Any) -> TypeGuard[list[Any]]:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) and "role" in one for one in value)


def _with_calls(dialogue: Dialogue) -> Dialogue:
    """Return the dialogue with calls extracted from the assistant's text, and their values as tools declare them.

    Thoughts are left out. A turn that calls and follows another assistant turn is merged into it: some programs write each
    of several parallel calls as a message. An unread field that contains calls is a fault in a turn without calls.
    """
    said: list[Said] = []
    turns = [_turn_with_calls(turn, dialogue.tools) for turn in dialogue.said]
    refuse_lost_calls(turns, dialogue.rows, dialogue.tools, dialogue.field)
    for turn in turns:
        last = said[-1] if said else None
        if last is not None and last.role == turn.role == "assistant" and turn.calls and not (last.fault or turn.fault):
            text = "\n".join(part for part in (last.text, turn.text) if part)
            calls, learnt = last.calls + turn.calls, last.learnt and turn.learnt
            said[-1] = last._replace(text=text, calls=calls, learnt=learnt)
        else:
            said.append(turn)
    return Dialogue(said, dialogue.tools, dialogue.field)


def _turn_with_calls(turn: Said, tools: tuple[ToolSpec, ...]) -> Said:
    if turn.role != "assistant":
        return turn
    text, calls = without_thoughts(turn.text), turn.calls
    if not calls:
        try:
            text, found = take_calls(text)
            calls = tuple(found)
        except DataError as error:
            return turn._replace(fault=str(error))
    typed = tuple(one._replace(call=as_declared(one.call, tools)) if one.untyped else one for one in calls)
    if says_nothing(turn.text):
        return turn._replace(text="", calls=typed)
    return turn._replace(text=text, calls=typed, no_call=turn.no_call or not (text.strip() or typed))


def dialogue_format(is_one: Callable[[dict[str, Any]], bool], read: Callable[[dict[str, Any]], Dialogue]) -> Format:
    """Return a format whose rows are dialogues: a task per turn that calls or answers, or the last of them as one task."""

    def tasks(row: dict[str, Any], name: str) -> Iterable[Task | DataError]:
        found = _with_calls(read(usual(row)))
        return dialogue_tasks(found.said, found.tools, name, found.field)

    def one(row: dict[str, Any], name: str) -> Task:
        found = _with_calls(read(usual(row)))
        return last_task(found.said, found.tools, name, found.field)

    return Format(is_one, tasks, one, dialogues=True)


def single_format(is_one: Callable[[dict[str, Any]], bool], one: Callable[[dict[str, Any], str], Task]) -> Format:
    """Return a format with one task per row."""
    return Format(is_one, lambda row, name: (one(row, name),), one)
