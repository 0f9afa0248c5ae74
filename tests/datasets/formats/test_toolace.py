from __future__ import annotations

import json
import time
from typing import Any

import pytest

from cahl_pl.datasets.formats.toolace import json_schema, toolace_tasks
from cahl_pl.errors import DataError
from cahl_pl.types import NO_RESULT, GoldCall, Message, Task, ToolSpec

TOOLS = [
    {
        "name": "Get Weather",
        "description": "Weather of a city.",
        "parameters": {
            "type": "dict",
            "properties": {"city": {"type": "string", "description": "Which."}, "days": {"type": "int", "default": 1}},
            "required": ["city"],
        },
        "required": None,
    },
    {"name": "ping", "description": "Ping.", "parameters": {"type": "dict", "properties": {}}},
]
SYSTEM = f"You compose functions [or not]. Here is a list of functions:\n{json.dumps(TOOLS)}.\nPut calls as [f(a=1)]"


def turns(*values: str) -> list[dict[str, str]]:
    speakers = {"U": "user", "A": "assistant", "T": "tool"}
    return [{"from": speakers[value[0]], "value": value[2:]} for value in values]


def read(*values: str, system: str = SYSTEM) -> list[Task | DataError]:
    return list(toolace_tasks({"system": system, "conversations": turns(*values)}, "r-0"))


def test_each_calling_turn_becomes_a_task() -> None:
    calls = '[Get Weather(city="Rome"), Get Weather(city="Oslo", days=2)]'
    answers = '[{"name": "Get Weather", "results": {"t": 20}}, {"name": "Get Weather", "results": {"t": 5}}]'
    first, second = read("U:Rome and Oslo?", f"A:{calls}", f"T:{answers}", "A:20 and 5.", "U:Ping", "A:[ping()]")
    assert isinstance(first, Task)
    assert isinstance(second, Task)
    assert (first.id, first.tags, first.ordered) == ("r-0-turn-2", {"kind": "multiple"}, False)
    assert first.messages == (Message("user", "Rome and Oslo?"),)
    assert first.gold == (
        GoldCall("Get Weather", {"city": "Rome"}, {"t": 20}),
        GoldCall("Get Weather", {"city": "Oslo", "days": 2}, {"t": 5}),
    )
    assert first.tools[0] == ToolSpec(
        "Get Weather",
        "Weather of a city.",
        {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Which."},
                "days": {"type": "integer", "default": 1},
            },
            "required": ["city"],
        },
    )
    assert second.id == "r-0-turn-6"
    assert second.gold == (GoldCall("ping", {}),)
    assert [message.role for message in second.messages] == ["user", "assistant", "tool", "assistant", "user"]
    assert second.messages[1].content == (
        '<tool_call>\n{"name": "Get Weather", "parameters": {"city": "Rome"}}\n'
        '{"name": "Get Weather", "parameters": {"city": "Oslo", "days": 2}}\n</tool_call>'
    )


@pytest.mark.parametrize("answer", ["T:fine", "T:[1, 2]", "T:{}", "U:and?"])
def test_answers_that_do_not_fit_are_not_stored(answer: str) -> None:
    (task,) = read("U:Ping", "A:[ping()]", answer)
    assert isinstance(task, Task)
    assert task.gold[0].result is NO_RESULT


def test_a_broken_turn_spoils_the_later_ones_but_not_the_earlier() -> None:
    items = read("U:1", "A:[ping()]", "U:2", "A:[ping(x)]", "U:3", "A:[ping()]")
    assert isinstance(items[0], Task)
    assert [str(item) for item in items[1:]] == [
        "the field 'conversations', turn 4: the argument 'x' of ping has no name",
        "the field 'conversations', turn 6: the calls of turn 4, which it follows, cannot be read",
    ]


def test_rows_that_cannot_be_read() -> None:
    for row, message in (
        ({}, "the field 'system' is missing"),
        ({"system": "no [1] list", "conversations": []}, "the field 'system' holds no JSON list of tools"),
        (
            {"system": SYSTEM, "conversations": turns("U:Hi", "A:[ping()]", "T:[1]", "A:Hello [see below]")[:1]},
            "no turn of the assistant calls a tool",
        ),
        (
            {"system": SYSTEM, "conversations": [{"from": "gpt", "value": ""}]},
            "turn 1: 'from' must be user, assistant or tool",
        ),
        (
            {"system": '[{"name": 1}]', "conversations": []},
            "the field 'system', the tools: the field 'name' must be text",
        ),
    ):
        with pytest.raises(DataError, match=message.replace("(", r"\(")):
            list(toolace_tasks(row, "r"))
    (item,) = read("A:[ping()]")
    assert "calls must follow a user's message" in str(item)


def test_near_json_schema() -> None:
    declared: Any = {
        "type": "dict",
        "properties": {
            "a": {"type": "array", "items": {"type": "float"}},
            "b": {"type": "any", "enum": ["x"]},
            "c": {"type": "dict", "properties": {"d": {"type": "boolean"}}, "required": ["d", "e"]},
            "e": "odd",
        },
    }
    assert json_schema(declared) == {
        "type": "object",
        "properties": {
            "a": {"type": "array", "items": {"type": "number"}},
            "b": {"enum": ["x"]},
            "c": {"type": "object", "properties": {"d": {"type": "boolean"}}, "required": ["d"]},
            "e": {},
        },
    }


@pytest.mark.parametrize("system", ["[" * 20_000, '["a",' * 20_000])
def test_brackets_without_end_are_given_up(system: str) -> None:
    started = time.process_time()
    with pytest.raises(DataError, match="holds no JSON list of tools"):
        read("U:x", "A:[ping()]", system=system)
    assert time.process_time() - started < 5


def test_a_turn_that_answers_its_user_is_a_task_without_gold() -> None:
    first, second = read("U:Hi", "A:Hello [see below]", "U:Ping", "A:[ping()]", "T:[1]", "A:Done.")
    assert isinstance(first, Task)
    assert isinstance(second, Task)
    assert (first.gold, first.answer, first.tags, len(first.messages)) == ((), "Hello [see below]", {"kind": "none"}, 1)
    assert (second.gold[0].name, second.answer) == ("ping", None)


def test_answers_are_matched_to_calls_by_their_names() -> None:
    call = '[Get Weather(city="Rome"), ping(), Get Weather(city="Oslo")]'
    one, two = ({"name": "Get Weather", "results": degrees} for degrees in (20, 5))
    other = {"name": "ping", "results": "ok"}
    for answers in ([one, other, two], [other, one, two], [one, two, other]):
        (task,) = read("U:x", f"A:{call}", f"T:{json.dumps(answers)}")
        assert isinstance(task, Task)
        assert [gold.result for gold in task.gold] == [20, "ok", 5]


@pytest.mark.parametrize(
    "answers",
    [
        [{"name": "pong", "results": 1}, {"name": "Get Weather", "results": 2}],
        [{"name": "ping", "results": 1}, {"name": "ping", "results": 2}],
        [{"name": "ping", "results": 1}],
        [{"results": 1}, {"name": "ping", "results": 2}],
    ],
)
def test_answers_of_tools_that_are_not_called_are_a_fault(answers: Any) -> None:
    (fault,) = read("U:x", 'A:[Get Weather(city="Rome"), ping()]', f"T:{json.dumps(answers)}")
    assert isinstance(fault, DataError)
    assert "turn 3: the tools that answer are " in str(fault)
    assert "but those that are called Get Weather, ping: name each answer by its call" in str(fault)


def test_answers_without_names_go_by_their_place() -> None:
    (task,) = read("U:x", 'A:[Get Weather(city="Rome"), ping()]', 'T:[{"results": 20}, {"temperature": 5}]')
    assert isinstance(task, Task)
    assert [gold.result for gold in task.gold] == [20, {"temperature": 5}]
