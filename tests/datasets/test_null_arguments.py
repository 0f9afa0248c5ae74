"""Nulls that data sets write where a row has no such key, and nulls that a tool takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cahl_pl.datasets import JsonlDataset
from cahl_pl.datasets.tool_forms import read_tool
from cahl_pl.errors import DataError

PROPERTIES = {
    "city": {"type": "string"},
    "days": {"type": "integer"},
    "note": {"type": ["string", "null"]},
    "place": {"type": "object", "properties": {"zip": {"type": "integer"}}},
}
TOOL = {"name": "weather", "parameters": {"type": "object", "properties": PROPERTIES, "required": ["city"]}}
ASK = {"role": "user", "content": "Rain?"}


def own(arguments: dict[str, Any]) -> dict[str, Any]:
    return {"id": "a", "messages": [ASK], "tools": [TOOL], "gold": [{"name": "weather", "arguments": arguments}]}


def openai(arguments: dict[str, Any]) -> dict[str, Any]:
    calls = [{"type": "function", "function": {"name": "weather", "arguments": arguments}}]
    return {"messages": [ASK, {"role": "assistant", "content": None, "tool_calls": calls}], "tools": [TOOL]}


def xlam(arguments: dict[str, Any]) -> dict[str, Any]:
    return {"query": "Rain?", "tools": [TOOL], "answers": json.dumps([{"name": "weather", "arguments": arguments}])}


def load(tmp_path: Path, row: dict[str, Any]) -> JsonlDataset:
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    return JsonlDataset(tmp_path / "rows.jsonl")


@pytest.mark.parametrize("made", [own, openai, xlam])
@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"days": None}, "the argument 'days' of weather is null, which the tool does not take: leave it out"),
        ({"order_id": None}, "the argument 'order_id' of weather is null, which the tool does not take: leave it out"),
        ({"place": {"zip": None}}, "the argument 'place' of weather holds null, which the tool does not take"),
    ],
)
def test_a_null_that_stands_for_no_argument_is_a_fault(tmp_path: Path, made: Any, more: dict[str, Any], what: str) -> None:
    with pytest.raises(DataError) as error:
        load(tmp_path, made({"city": "Oslo"} | more))
    assert what in str(error.value)


@pytest.mark.parametrize("made", [own, openai, xlam])
def test_a_null_that_the_tool_takes_stays(tmp_path: Path, made: Any) -> None:
    found = load(tmp_path, made({"city": "Oslo", "note": None}))
    assert found.report.counts == (1, 0, 0)
    assert found[0].gold[0].arguments == {"city": "Oslo", "note": None}


def test_a_null_that_had_to_be_given_relaxes_the_schema(tmp_path: Path) -> None:
    assert load(tmp_path, own({"city": None})).report.counts == (0, 1, 0)


def test_nulls_of_a_declaration_say_nothing_but_a_default_does() -> None:
    tool = {"name": "weather", "strict": None, "parameters": {"type": "object", "required": ["city"], "$defs": None}}
    tool["parameters"]["properties"] = {  # type: ignore[index]
        "city": {"type": "string", "enum": None, "items": None, "description": None},
        "days": {"type": ["integer", "null"], "default": None, "enum": [1, None]},
        "order_id": None,
    }
    assert read_tool(tool).parameters == {
        "type": "object",
        "required": ["city"],
        "properties": {"city": {"type": "string"}, "days": {"type": ["integer", "null"], "default": None, "enum": [1, None]}},
    }
