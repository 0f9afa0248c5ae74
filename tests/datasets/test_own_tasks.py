"""A source of tasks of a user's own that gives what is no task, or raises: one sentence with its class and the index."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from cahl_pl.datasets.base import TaskSource
from cahl_pl.datasets.masking import MaskedNames
from cahl_pl.datasets.own_tasks import OwnTasks, checked
from cahl_pl.errors import ConfigError, DataError, SchemaError
from cahl_pl.toolworld import ToolWorld
from cahl_pl.types import GoldCall, Message, Outcome, Task, ToolSpec

FIND = ToolSpec(
    "find", "Find.", {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
)
TASK = Task("a", (Message("user", "Weather?"),), (FIND,), (GoldCall("find", {"city": "Oslo"}),))


class Mine(TaskSource):
    """Gives these tasks; what is an error is raised."""

    def __init__(self, *tasks, length=None):
        self.tasks, self.length = list(tasks), len(tasks) if length is None else length

    def __len__(self):
        if isinstance(self.length, BaseException):
            raise self.length
        return self.length

    def __getitem__(self, index):
        if isinstance(self.tasks[index], BaseException):
            raise self.tasks[index]
        return self.tasks[index]


def told(*tasks, kind=DataError, index=-1):
    source = checked(Mine(*tasks))
    with pytest.raises(kind) as raised:
        [source[i] for i in range(len(source))][index]
    assert "\n" not in str(raised.value)
    return str(raised.value).removeprefix(f"{__name__}.Mine")


def test_what_is_right_passes():
    source = checked(Mine(TASK, replace(TASK, id="b", tools=(), gold=())))
    assert (source[0], source[-1].id, len(source)) == (TASK, "b", 2)
    assert source[0] is TASK
    with pytest.raises(IndexError):
        source[2]


@pytest.mark.parametrize("value", [None, "a row", {"id": "a", "messages": []}, ("a", 1), Task])
def test_what_is_no_task_is_refused(value):
    assert told(TASK, value) == f"[1] gives {value!r}: give a cahl_pl.types.Task"


PARTS = [
    ("id", 7, "text that is unique among the tasks"),
    ("id", "", "text that is unique among the tasks"),
    ("messages", "Weather?", "a tuple of Message(role, content), of the roles system, user, assistant and tool"),
    ("messages", ({"role": "user", "content": "x"},), "a tuple of Message(role, content), of the roles system, user, "),
    ("messages", (Message("human", "x"),), "a tuple of Message(role, content), of the roles system, user, "),
    ("messages", (Message("user", None),), "a tuple of Message(role, content), of the roles system, user, "),
    ("tools", None, "a tuple of ToolSpec(name, description, parameters), empty where the task has none"),
    ("tools", ({"name": "find"},), "a tuple of ToolSpec(name, description, parameters)"),
    ("tools", (replace(FIND, name=""),), "a tuple of ToolSpec(name, description, parameters)"),
    ("gold", None, "a tuple of GoldCall(name, arguments), empty where no tool is needed"),
    ("gold", (GoldCall("find", "Oslo"),), "a tuple of GoldCall(name, arguments)"),
    ("gold", (GoldCall("find", {1: "Oslo"}),), "a tuple of GoldCall(name, arguments)"),
    ("ordered", "yes", "True or False"),
    ("answer", 5, "text, or None"),
    ("state", [1], "a mapping with texts as its keys, or None"),
    ("outcome", {"results": []}, "an Outcome(results, state), its results a tuple, or None"),
    ("outcome", Outcome("sunny"), "an Outcome(results, state), its results a tuple, or None"),
    ("alternatives", (GoldCall("find", {}),), "a tuple of tuples of GoldCall"),
    ("foreseen", 0, "a number above 0, or None"),
    ("tags", {"kind": 1}, "a mapping of texts to texts"),
]


@pytest.mark.parametrize(("name", "value", "right"), PARTS)
def test_parts_of_other_types_are_refused(name, value, right):
    said = told(replace(TASK, **{name: value}))
    assert said.startswith(f"[0]: the task's {name} is ")
    assert right in said.partition(": give ")[2]


def test_an_id_is_that_of_one_task():
    assert told(TASK, replace(TASK, gold=())) == "[1] has the id 'a', as [0] has: give each task an id of its own"


def test_an_index_gives_the_same_task_every_time():
    mine = Mine(TASK)
    source = OwnTasks(mine)
    assert source[0] is TASK
    mine.tasks[0] = replace(TASK, id="c")
    with pytest.raises(DataError, match=r"Mine\[0\] was task 'a' before, and now it is 'c': give the same task for an index"):
        source[0]


FAULTS = [
    ({"messages": (Message("user", "\u200b"),)}, "the request is blank: the user's last message has to say what is to be done"),
    ({"messages": (Message("user", " "),)}, "the request is blank: the user's last message has to say what is to be done"),
    ({"messages": (Message("system", "x"),)}, "the request is blank: the user's last message has to say what is to be done"),
    ({"tools": ()}, "gold call 1: "),
    ({"gold": (GoldCall("fnid", {}),)}, "did you mean 'find'?"),
    ({"gold": (GoldCall("find", {"town": "Oslo"}),)}, "town"),
    ({"gold": (GoldCall("find", {"days": "many"}),)}, "the right call would be punished: correct the gold, or the tool"),
    ({"tools": (FIND, FIND)}, "tool 'find' is offered twice, the first is kept; the right call would be punished"),
    ({"answer": " ", "gold": ()}, "the field 'answer' is blank"),
]


@pytest.mark.parametrize(("change", "said"), FAULTS)
def test_a_task_that_cannot_be_learned_from_is_refused(change, said):
    found = told(replace(TASK, **change))
    assert found.startswith("[0], task 'a': ")
    assert said in found


def test_a_tool_that_has_no_schema_is_refused():
    tool = ToolSpec("find", "", {"type": "object", "properties": {"a": {"type": "int"}}})
    assert told(replace(TASK, tools=(tool,), gold=()), kind=SchemaError).startswith("task 'a', tool 'find': ")


def test_gold_values_stand_in_their_types():
    source = checked(Mine(replace(TASK, gold=(GoldCall("find", {"days": "3"}),))))
    assert source[0].gold[0].arguments == {"days": 3}


RAISED = [OSError(5, "the share is gone"), KeyError("a"), StopIteration(), IndexError("x"), SystemExit()]


@pytest.mark.parametrize("error", RAISED)
def test_what_it_raises_is_told(error):
    said = told(TASK, error, kind=ConfigError)
    assert said.startswith(f".__getitem__ raised {type(error).__name__}")
    assert re.search(rf" for index 1 in {re.escape(__file__)}, line \d+: correct it$", said)


@pytest.mark.parametrize("length", [RuntimeError("not yet"), None, "3", 2.0, -1])
def test_a_length_that_is_none_is_told(length):
    mine = Mine(TASK)
    mine.length = length
    with pytest.raises(ConfigError, match=r"Mine\.__len__ raised \w+ \(.*\).*: correct it$"):
        checked(mine)


def test_a_source_without_tasks_is_refused():
    with pytest.raises(DataError, match=r"Mine has no tasks: its __len__ gives 0$"):
        checked(Mine())


def test_sources_that_check_their_rows_stay_as_they_are():
    world = ToolWorld(size=2)
    assert checked(world) is world
    masked = checked(MaskedNames(Mine(replace(TASK, id=3)), share=0.0))
    with pytest.raises(DataError, match=r"the task's id is 3: give text"):
        masked[0]
