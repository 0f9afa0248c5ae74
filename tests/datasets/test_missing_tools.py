"""Rows whose tools stand in another field than 'tools', or one by one as JSON text."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cahl_pl.datasets.jsonl import read_any
from cahl_pl.errors import DataError

TOOL = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
WRAPPED = {"type": "function", "function": TOOL}
CALL = {"name": "weather", "arguments": {"city": "Oslo"}}
ASK = {"role": "user", "content": "Rain?"}
TURNS = [ASK, {"role": "assistant", "tool_calls": [{"function": CALL}]}]
USE = {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "weather", "input": {"city": "Oslo"}}]}
SHARED = [{"from": "human", "value": "Rain?"}, {"from": "function_call", "value": json.dumps(CALL)}]
ROWS: list[dict[str, Any]] = [
    {"messages": TURNS},
    {"messages": [ASK, USE]},
    {"conversations": SHARED},
    {"input": [ASK, {"type": "function_call", "call_id": "1", **CALL}]},
    {"id": "a", "messages": [ASK], "gold": [CALL]},
]
PLACES = [
    ("available_tools", [WRAPPED], "available_tools"),
    ("available_tools", json.dumps([TOOL]), "available_tools"),
    ("metadata", {"source": "x", "tools": [TOOL]}, "metadata.tools"),
    ("metadata", json.dumps({"tools": json.dumps([WRAPPED])}), "metadata.tools"),
    ("kwargs", {"xml_tools": [json.dumps(TOOL)]}, "kwargs.xml_tools"),
]


@pytest.mark.parametrize("row", ROWS[:-1])  # of this project's own rows any other field is a fault
@pytest.mark.parametrize(("field", "value", "place"), PLACES)
def test_the_field_that_holds_the_tools_is_named(row: dict[str, Any], field: str, value: Any, place: str) -> None:
    told = f"the field 'tools' is missing: '{place}' holds tools, which are read in 'tools' alone: write them there"
    with pytest.raises(DataError) as error:
        read_any(row | {field: value}, "r")
    assert str(error.value) == told


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("more", [{}, {"metadata": {"calls": [CALL]}}, {"source": "[1]"}, {"extra": {"tools": []}}])
def test_other_fields_hold_none(row: dict[str, Any], more: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"the field 'tools' is missing(?!: ')|there is no field"):
        read_any(row | more, "r")


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("tool", [TOOL, WRAPPED])
def test_each_tool_may_be_json_text(row: dict[str, Any], tool: dict[str, Any]) -> None:
    task = read_any(row | {"tools": [json.dumps(tool)]}, "r")
    assert [one.name for one in task.tools] == ["weather"]
    assert dict(task.tools[0].parameters) == TOOL["parameters"]
    assert [(gold.name, dict(gold.arguments)) for gold in task.gold] == [("weather", {"city": "Oslo"})]
