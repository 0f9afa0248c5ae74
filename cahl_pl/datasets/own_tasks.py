"""Tasks of a user's own source: errors name the source's class and the index of a task that cannot be trained on."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from cahl_pl.datasets.base import TaskSource
from cahl_pl.datasets.gold_calls import check_writable
from cahl_pl.datasets.masking import MaskedNames
from cahl_pl.datasets.requests import Requests
from cahl_pl.datasets.task_parts import MAX_GOLD_CALLS, fit_tools
from cahl_pl.errors import DataError
from cahl_pl.errors.own_code import is_ours, own_code, path_of
from cahl_pl.schema import check_tool
from cahl_pl.schema.blanks import is_blank
from cahl_pl.schema.wording import show
from cahl_pl.types import GoldCall, Message, Outcome, Task, ToolSpec

_Check = Callable[[Any], bool]


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_named(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_object(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(_is_text, value))


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _or_none(check: _Check) -> _Check:
    return lambda value: value is None or check(value)


def _several(kind: type, **parts: _Check) -> _Check:
    """Return a check that a value is a list of such objects, with such parts."""

    def check(values: Any) -> bool:
        return _is_list(values) and all(
            isinstance(one, kind) and all(right(getattr(one, name)) for name, right in parts.items()) for one in values
        )

    return check


_gold: Final = _several(GoldCall, name=_is_named, arguments=_is_object, references=_is_object, instruction=_is_text)

_PARTS: Final[Mapping[str, tuple[_Check, str]]] = {
    "id": (_is_named, "text that is unique among the tasks"),
    "messages": (
        _several(Message, role=lambda value: value in ("system", "user", "assistant", "tool"), content=_is_text),
        "a tuple of Message(role, content), of the roles system, user, assistant and tool",
    ),
    "tools": (
        _several(ToolSpec, name=_is_named, description=_is_text, parameters=_is_object),
        "a tuple of ToolSpec(name, description, parameters), empty where the task has none",
    ),
    "gold": (_gold, "a tuple of GoldCall(name, arguments), empty where no tool is needed"),
    "ordered": (lambda value: isinstance(value, bool), "True or False"),
    "answer": (_or_none(_is_text), "text, or None"),
    "state": (_or_none(_is_object), "a mapping with texts as its keys, or None"),
    "outcome": (
        _or_none(lambda value: _several(Outcome, results=_is_list, state=_or_none(_is_object))([value])),
        "an Outcome(results, state), its results a tuple, or None",
    ),
    "alternatives": (
        lambda value: _is_list(value) and all(map(_gold, value)),
        "a tuple of tuples of GoldCall",
    ),
    "foreseen": (_or_none(lambda value: type(value) is int and value > 0), "a number above 0, or None"),
    "tags": (lambda value: _is_object(value) and all(map(_is_text, value.values())), "a mapping of texts to texts"),
}
"""Field of a task -> check of a value, and what the value has to be."""


class OwnTasks(TaskSource):
    """Tasks of a user's own source, each checked like rows of a file when it is first drawn.

    Args:
        source: the source.

    Raises:
        DataError: it has no tasks; also when drawing a task that cannot be used, or has the id of another one.
        ConfigError: the source itself raises an error.
    """

    def __init__(self, source: TaskSource) -> None:
        self.source = source
        self.report, self.fingerprint = source.report, source.fingerprint
        with own_code(source, "__len__"):
            self._length = len(source)
        if not self._length:
            raise DataError(f"{path_of(source)} has no tasks: its __len__ gives 0")
        self._indices: dict[str, int] = {}  # id -> index of the tasks that have been drawn
        self._ids: dict[int, str] = {}

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Task:
        place = operator.index(index)
        place = place + self._length if place < 0 else place
        if not 0 <= place < self._length:
            raise IndexError(index)
        with own_code(self.source, "__getitem__", f"index {place}"):
            task = self.source[place]
        where = f"{path_of(self.source)}[{place}]"
        if not isinstance(task, Task):
            raise DataError(f"{where} gives {show(task)}: give a cahl_pl.types.Task")
        for name, (is_right, right) in _PARTS.items():
            if not is_right(value := getattr(task, name)):
                raise DataError(f"{where}: the task's {name} is {show(value)}: give {right}")
        known = self._ids.setdefault(place, task.id)
        if known != task.id:
            raise DataError(
                f"{where} was task {known!r} before, and now it is {task.id!r}: give the same task for an index every time"
            )
        other = self._indices.setdefault(task.id, place)
        if other != place:
            raise DataError(f"{where} has the id {task.id!r}, as [{other}] has: give each task an id of its own")
        try:
            return _fitted(task)
        except DataError as error:
            raise DataError(f"{where}, task {task.id!r}: {error}") from None


def _fitted(task: Task) -> Task:
    """Return a task, whose parts have the right types, with its gold values in their declared types.

    Raises:
        DataError: it cannot be trained on.
        SchemaError: a tool's parameters are not a schema.
    """
    asked = next((message.content for message in reversed(task.messages) if message.role == "user"), "")
    if is_blank(asked):
        raise DataError("the request is blank: the user's last message has to say what is to be done")
    if len(task.gold) > MAX_GOLD_CALLS:
        raise DataError(f"there are {len(task.gold)} gold calls, and {MAX_GOLD_CALLS} are the most")
    for tool in task.tools:
        check_tool(tool, f"task {task.id!r}")
    fitted, reasons = fit_tools(task)
    if reasons:
        raise DataError(f"{reasons[0]}; the right call would be punished: correct the gold, or the tool")
    check_writable(fitted)
    return fitted


def checked(source: TaskSource) -> TaskSource:
    """Return a source whose tasks are checked as they are drawn; `source` itself if its class checks them already."""
    if isinstance(source, Requests) or (is_ours(source) and not isinstance(source, MaskedNames)):  # of a user's tasks
        return source
    return OwnTasks(source)
