from __future__ import annotations

import re
from dataclasses import replace
from random import Random

import pytest

from cahl_pl.datasets import MaskedNames, TaskSource
from cahl_pl.datasets.masking import mask_names
from cahl_pl.datasets.task_parts import history_text, object_schema
from cahl_pl.errors import ConfigError
from cahl_pl.schema import find_problems
from cahl_pl.toolworld import ToolWorld
from cahl_pl.types import NO_RESULT, GoldCall, Message, Task, ToolCall, ToolSpec

SCHEMA = object_schema({"city": {"type": "string"}, "days": {"type": "integer"}}, ["city"])
TASK = Task(
    "t",
    (
        Message("user", "Use weather for city Rome."),
        Message("assistant", history_text([ToolCall("weather", {"city": "Oslo"}), ToolCall("old", {"city": 1})])),
        Message("tool", '[{"name": "weather", "results": 3}]'),
        Message("assistant", "<tool_call>weather</tool_call>"),
        Message("user", "And Rome?"),
    ),
    (
        ToolSpec("weather", "The weather of a city.", SCHEMA),
        ToolSpec("now", "The time.", SCHEMA | {"allOf": [{"minProperties": 1}]}),
    ),
    (GoldCall("weather", {"city": "Rome", "days": 2}, 20), GoldCall("now", {"city": "x"}, NO_RESULT, {"city": "$1"})),
)


class Listed(TaskSource):
    def __init__(self, *tasks: Task) -> None:
        self.tasks = tasks

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, index: int) -> Task:
        return self.tasks[index]


def test_names_are_replaced_everywhere_alike() -> None:
    task = mask_names(TASK, Random(0))
    (weather, now) = task.tools
    city, days = weather.parameters["properties"]
    names = [weather.name, now.name, city, days]
    assert len(set(names)) == 4
    assert all(re.fullmatch("[a-z]{8}", name) for name in names)
    assert weather.parameters == object_schema({city: {"type": "string"}, days: {"type": "integer"}}, [city])
    assert weather.description == "The weather of a city."
    assert now.parameters == TASK.tools[1].parameters  # `allOf` speaks of all parameters
    assert task.gold == (
        GoldCall(weather.name, {city: "Rome", days: 2}, 20),
        GoldCall(now.name, {"city": "x"}, NO_RESULT, {"city": "$1"}),
    )
    assert [message.content for message in task.messages] == [
        "Use weather for city Rome.",
        history_text([ToolCall(weather.name, {city: "Oslo"}), ToolCall("old", {"city": 1})]),
        f'[{{"name": "{weather.name}", "results": 3}}]',
        "<tool_call>weather</tool_call>",  # cannot be read, so it stays
        "And Rome?",
    ]
    assert [find_problems(gold.call, task.tools) for gold in task.gold] == [[], []]


def test_references_are_renamed() -> None:
    task = replace(TASK, gold=(TASK.gold[0], GoldCall("weather", {"city": "20"}, NO_RESULT, {"city": "$1"})))
    masked = mask_names(task, Random(0))
    city = next(iter(masked.tools[0].parameters["properties"]))
    assert masked.gold[1].references == {city: "$1"}
    assert masked.gold[1].planned.arguments == {city: "$1"}


def test_a_share_is_masked_by_seed_and_index() -> None:
    tasks = Listed(*(replace(TASK, id=str(i)) for i in range(200)))
    masked = MaskedNames(tasks, share=0.5, seed=1)
    changed = [masked[i].tools != TASK.tools for i in range(200)]
    assert 70 < sum(changed) < 130
    assert masked[7] == masked[7] == masked[7 - 200] == MaskedNames(tasks, 0.5, 1)[7]
    assert [MaskedNames(tasks, 0.5, 2)[i].tools != TASK.tools for i in range(200)] != changed
    assert MaskedNames(tasks, 0.0)[3] is tasks[3]
    assert all(MaskedNames(tasks, 1.0)[i].tools != TASK.tools for i in range(200))
    assert len(masked) == 200


def test_executable_tasks_are_refused() -> None:
    with pytest.raises(ConfigError, match="it has a state, so its tools are run by their names"):
        MaskedNames(ToolWorld(size=2))
    later = MaskedNames(Listed(TASK, replace(TASK, id="s", state={})), share=0.0)
    with pytest.raises(ConfigError, match="the tools of task 's'"):
        later[1]
    with pytest.raises(ConfigError, match="share must be from 0 to 1, not 2"):
        MaskedNames(Listed(TASK), share=2)
