from __future__ import annotations

import pytest

from cahl_pl.schema import coerce_call, find_problems
from cahl_pl.types import ToolCall, ToolSpec

NODE = {"type": "object", "properties": {"size": {"type": "integer"}, "next": {"$ref": "#/$defs/Node"}}}


def tool(schema, **more):
    return (ToolSpec("f", "", {"type": "object", "properties": {"x": schema}, "required": ["x"], **more}),)


@pytest.mark.parametrize(
    ("schema", "value", "read"),
    [
        ({"type": "object", "additionalProperties": {"type": "integer"}}, {"a": "1", "b": 2}, {"a": 1, "b": 2}),
        (
            {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": {"type": "number"}},
            {"a": 1, "b": "2.5"},
            {"a": "1", "b": 2.5},
        ),
        (
            {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": {"type": "boolean"}},
            ["1", 2, "true"],
            [1, "2", True],
        ),
        ({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}]}, ["1"], [1]),
        ({"$ref": "#/$defs/Node"}, {"size": "1", "next": {"size": "2"}}, {"size": 1, "next": {"size": 2}}),
        ({"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]}, '{"size": "1"}', {"size": 1}),
        ({"type": "array", "items": {"$ref": "#/$defs/Node"}}, [{"size": "1"}], [{"size": 1}]),
        ({"$ref": "#/$defs/a~1b%20c"}, "3", 3),
    ],
)
def test_what_is_inside_is_read_as_its_type(schema, value, read):
    tools = tool(schema, **{"$defs": {"Node": NODE, "a/b c": {"type": "integer"}}})
    call = ToolCall("f", {"x": value})
    assert coerce_call(call, tools).arguments == {"x": read}
    assert find_problems(call, tools) == []


def test_a_reference_that_leads_to_itself_ends():
    tools = tool({"$ref": "#/$defs/Loop"}, **{"$defs": {"Loop": {"$ref": "#/$defs/Loop"}}})
    assert coerce_call(ToolCall("f", {"x": "1"}), tools).arguments == {"x": "1"}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "nullable": True},
        {"type": "string", "enum": ["a"], "nullable": True},
        {"$ref": "#/$defs/Node", "nullable": True},
        {"allOf": [{"$ref": "#/$defs/Node"}], "nullable": True},
    ],
)
def test_nullable_lets_null_pass(schema):
    tools = tool(schema, **{"$defs": {"Node": NODE}})
    assert find_problems(ToolCall("f", {"x": None}), tools) == []
    assert coerce_call(ToolCall("f", {"x": None}), tools).arguments == {"x": None}
    assert find_problems(ToolCall("f", {"x": []}), tools)[0].cause == "type"
    strict = tool({**schema, "nullable": False}, **{"$defs": {"Node": NODE}})
    assert find_problems(ToolCall("f", {"x": None}), strict)[0].cause == "type"
