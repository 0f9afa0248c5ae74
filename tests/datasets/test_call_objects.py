"""Calls as objects of rows: where their arguments stand, and that none are lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from cahl_pl.datasets.call_objects import read_call, read_function
from cahl_pl.datasets.formats.table import FORMATS
from cahl_pl.datasets.gold_calls import read_gold
from cahl_pl.errors import DataError
from cahl_pl.types import Task, ToolCall

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "d", "parameters": PARAMETERS}}]
ASK = {"role": "user", "content": "Rain in Oslo?"}
OSLO = {"city": "Oslo"}

FORMS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "openai": lambda call: {"messages": [ASK, {"role": "assistant", "tool_calls": [call]}], "tools": TOOLS},
    "openai, in function": lambda call: {
        "messages": [ASK, {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": call}]}],
        "tools": TOOLS,
    },
    "openai, until 2023": lambda call: {"messages": [ASK, {"role": "assistant", "function_call": call}], "tools": TOOLS},
    "hermes": lambda call: {
        "messages": [ASK, {"role": "assistant", "content": f"<tool_call>{json.dumps(call)}</tool_call>"}],
        "tools": TOOLS,
    },
    "sharegpt": lambda call: {
        "conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": json.dumps(call)}],
        "tools": json.dumps(TOOLS),
    },
    "openai-responses": lambda call: {
        "input": [ASK],
        "output": [call | {"type": "function_call", "call_id": "1"}],
        "tools": TOOLS,
    },
    "xlam": lambda call: {"query": "q", "answers": json.dumps([call]), "tools": json.dumps(TOOLS)},
}


def calls(form: str, call: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    (task,) = FORMATS[form.partition(",")[0]].tasks(FORMS[form](call), "r")
    if isinstance(task, DataError):
        raise task
    assert isinstance(task, Task)
    return [(gold.name, dict(gold.arguments)) for gold in task.gold]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("key", ["arguments", "parameters", "args"])
@pytest.mark.parametrize("as_text", [False, True])
def test_arguments_are_read_under_their_documented_keys(form: str, key: str, as_text: bool) -> None:
    given = json.dumps(OSLO) if as_text else OSLO
    assert calls(form, {"name": "get_weather", key: given}) == [("get_weather", OSLO)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "key", ["input", "inputs", "params", "kwargs", "tool_input", "action_input", "arg", "body", "arguments_", "call_args"]
)
def test_arguments_under_any_other_key_are_a_fault(form: str, key: str) -> None:
    with pytest.raises(DataError, match=f"'{key}'.*did you mean 'arguments'|'arguments' is missing; a call.* not in '{key}'"):
        calls(form, {"name": "get_weather", key: OSLO})


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("beside", [OSLO, {"status": "open"}, {"type": "warm"}, {"days": 0}, {"now": False}])
def test_arguments_beside_the_name_are_a_fault(form: str, beside: dict[str, Any]) -> None:
    if form == "openai-responses" and "type" in beside:
        return  # the item's own
    (key,) = beside
    with pytest.raises(DataError, match=f"'arguments' is missing; a call without any has {{}}.* not in '{key}'"):
        calls(form, {"name": "get_weather"} | beside)


@pytest.mark.parametrize("form", [form for form in FORMS if form != "xlam"])
@pytest.mark.parametrize("more", [{}, {"id": "7", "type": "function", "index": 0}, {"status": "completed"}, {"args": None}])
def test_a_name_alone_is_a_call_without_arguments(form: str, more: dict[str, Any]) -> None:
    assert calls(form, {"name": "get_weather"} | more) == [("get_weather", {})]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ({"name": "f", "arguments": {}, "args": {"x": 1}}, "the fields 'arguments' and 'args' are both there"),
        ({"name": "f", "arguments": {}, "input": {"x": 1}}, "'arguments' is empty; .* not in 'input'"),
        ({"name": "f", "arguments": "", "params": {"x": 1}}, "'arguments' is empty; .* not in 'params'"),
        ({"name": "f", "args": [1]}, "the field 'args' must be an object, but is a list"),
        ({"function": {"name": "f"}, "arguments": {"x": 1}}, "the field 'arguments' stands beside 'function'"),
        ({"function": {"name": "f"}, "args": {"x": 1}}, "the field 'args' stands beside 'function'"),
        ({"function": {"name": "f"}, "input": {"x": 1}}, "not in 'input'"),
    ],
)
def test_arguments_in_two_places_are_a_fault(call: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_call(call)


def test_what_stands_beside_arguments_is_left_alone() -> None:
    assert read_function({"name": "f", "arguments": {"x": 1}, "requestor": "user", "input": 2}) == ToolCall("f", {"x": 1})
    assert read_function({"name": "f", "arguments": {}, "note": "n"}) == ToolCall("f", {})


def test_gold_calls_follow_the_same_rule() -> None:
    assert dict(read_gold([{"name": "f", "args": OSLO}], ())[0].arguments) == OSLO
    with pytest.raises(DataError, match=r"call 1: the field 'arguments' is missing; .* not in 'input'"):
        read_gold([{"name": "f", "input": OSLO}], ())
    with pytest.raises(DataError, match=r"call 1: the field 'arguments' is missing; a call without any has \{\}$"):
        read_gold([{"name": "f"}], ())


@pytest.mark.parametrize(
    "call", [{"id": "1", "type": "custom", "custom": {"name": "sh", "input": "ls"}}, {"type": "custom", "name": "sh"}]
)
def test_a_call_of_a_custom_tool_is_told(call: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="it is a call of a 'custom' tool, which takes free text, so that no call of it can be"):
        read_call(call)


@pytest.mark.parametrize(
    "more", [{"id": "c1"}, {"id": 0}, {"type": "function_call", "call_id": "c1"}, {"type": "function", "index": 0}]
)
def test_a_gold_call_may_have_an_id_and_a_type(more: dict[str, Any]) -> None:
    (gold,) = read_gold([{"name": "get_weather", "arguments": OSLO} | more], ())
    assert (gold.name, dict(gold.arguments)) == ("get_weather", OSLO)
    with pytest.raises(DataError, match="there is no field 'type'"):
        read_gold([{"name": "get_weather", "arguments": OSLO, "type": "rain"}], ())
