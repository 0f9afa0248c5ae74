"""What a format of rows is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from cahl_pl.datasets.dialogues import dialogue_tasks, last_task
from cahl_pl.datasets.messages import Said
from cahl_pl.errors import DataError
from cahl_pl.types import Task, ToolSpec


@dataclass(frozen=True, slots=True)
class Format:
    """A format of rows.

    Attributes:
        is_one: whether a row, which is an object, has this form.
        tasks: `(row, name) -> tasks`, with ids made of the name; raises DataError naming the field at fault, as does `one`.
        one: `(row, name) -> task`, where a row is read as one task; None where rows are several.
    """

    is_one: Callable[[dict[str, Any]], bool]
    tasks: Callable[[dict[str, Any], str], Iterable[Task | DataError]]
    one: Callable[[dict[str, Any], str], Task] | None = None


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A dialogue that was read.

    Attributes:
        said: its turns.
        tools: the tools offered.
        field: where the turns stand, for messages.
    """

    said: Sequence[Said]
    tools: tuple[ToolSpec, ...]
    field: str = "messages"


def dialogue_format(is_one: Callable[[dict[str, Any]], bool], read: Callable[[dict[str, Any]], Dialogue]) -> Format:
    """Return a format whose rows are dialogues: a task for each turn that calls or answers; as one task, the last of them."""

    def tasks(row: dict[str, Any], name: str) -> Iterable[Task | DataError]:
        found = read(row)
        return dialogue_tasks(found.said, found.tools, name, found.field)

    def one(row: dict[str, Any], name: str) -> Task:
        found = read(row)
        return last_task(found.said, found.tools, name, found.field)

    return Format(is_one, tasks, one)


def single_format(is_one: Callable[[dict[str, Any]], bool], one: Callable[[dict[str, Any], str], Task]) -> Format:
    """Return a format of one task a row."""
    return Format(is_one, lambda row, name: (one(row, name),), one)
