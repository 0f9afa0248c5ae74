from __future__ import annotations

import json
from typing import Any

import pytest

from cahl_pl.datasets.formats.xlam import xlam_task
from cahl_pl.errors import DataError
from cahl_pl.types import GoldCall, Message, Task, ToolSpec

TOOLS = [
    {
        "name": "live_giveaways_by_type",
        "description": "Giveaways by type.",
        "parameters": {
            "type": {"description": "The type.", "type": "str", "default": "game"},
            "count": {"description": "How many.", "type": "int"},
            "tags": {"description": "Tags.", "type": "List[str], optional"},
        },
    }
]
ANSWERS = [{"name": "live_giveaways_by_type", "arguments": {"type": "beta", "count": 2}}] * 2


def row(tools: Any = TOOLS, answers: Any = ANSWERS) -> dict[str, Any]:
    return {"id": 7, "query": "Where are they?", "tools": json.dumps(tools), "answers": json.dumps(answers)}


def test_a_row_becomes_a_task() -> None:
    task = xlam_task(row(), "xlam-0")
    properties = {
        "type": {"type": "string", "description": "The type.", "default": "game"},
        "count": {"type": "integer", "description": "How many."},
        "tags": {"type": "array", "items": {"type": "string"}, "description": "Tags."},
    }
    schema = {"type": "object", "properties": properties, "required": ["count"]}
    call = GoldCall("live_giveaways_by_type", {"type": "beta", "count": 2})
    assert task == Task(
        "xlam-0",
        (Message("user", "Where are they?"),),
        (ToolSpec("live_giveaways_by_type", "Giveaways by type.", schema),),
        (call, call),
        tags={"kind": "multiple"},
    )
    assert xlam_task(row() | {"tools": TOOLS, "answers": ANSWERS}, "xlam-0") == task


def test_irrelevance_has_no_gold() -> None:
    task = xlam_task(row(answers=[]), "x")
    assert (task.gold, task.tags) == ((), {"kind": "none"})


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({}, "the field 'query' is missing"),
        (row() | {"tools": "["}, "the field 'tools': not JSON"),
        (row(answers={"name": "f"}), "the field 'answers' must be a list, but is an object"),
        (row(answers=[{"name": "f", "arguments": "x"}]), "the field 'answers', call 1: the field 'arguments' is text"),
        (
            row(tools=[{"name": "f", "parameters": {"a": 1}}]),
            "the field 'parameters' is no JSON Schema: it has .* 'a' is no",
        ),
        (row() | {"answers": None}, "the field 'answers' must be a list, but is null"),
    ],
)
def test_malformed_rows_name_the_field(broken: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        xlam_task(broken, "x")


def test_parameters_say_whether_they_are_required_and_may_be_json_schema() -> None:
    flat = {"a": {"type": "int", "required": False}, "u": {"type": "str", "enum": ["C", "F"]}}
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "u": {"type": "string", "enum": ["C", "F"]}},
        "required": ["u"],
    }
    for parameters in (flat, schema):
        (tool,) = xlam_task(row(tools=[{"name": "f", "parameters": parameters}], answers=[]), "x").tools
        assert tool.parameters == schema
