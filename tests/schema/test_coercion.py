from __future__ import annotations

import time

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


CAT = {"type": "object", "properties": {"kind": {"enum": ["cat"]}, "id": {"type": "integer"}}, "required": ["id"]}
DOG = {"type": "object", "properties": {"kind": {"const": "dog"}, "id": {"type": "string"}}, "required": ["id"]}


@pytest.mark.parametrize(
    ("schema", "value", "read"),
    [
        ({"oneOf": [CAT, DOG]}, {"kind": "dog", "id": "5"}, {"kind": "dog", "id": "5"}),
        ({"oneOf": [CAT, DOG]}, {"kind": "cat", "id": 5}, {"kind": "cat", "id": 5}),
        ({"oneOf": [CAT, DOG]}, {"kind": "cat", "id": "5"}, {"kind": "cat", "id": 5}),
        ({"oneOf": [CAT, DOG]}, {"kind": "dog", "id": 5}, {"kind": "dog", "id": "5"}),
        ({"anyOf": [{"type": "array", "items": {"type": t}} for t in ("integer", "string")]}, ["1", "2"], ["1", "2"]),
        ({"anyOf": [{"$ref": "#/$defs/Node"}, DOG]}, {"kind": "dog", "id": "5", "size": "1"}, None),
    ],
)
def test_of_several_schemas_the_one_that_a_value_has_throughout_goes_first(schema, value, read):
    tools = tool(schema, **{"$defs": {"Node": NODE}})
    call = ToolCall("f", {"x": value})
    assert coerce_call(call, tools).arguments == {"x": read or value}
    assert find_problems(call, tools) == []


def test_schemas_that_branch_at_every_level_are_looked_at_within_bounds():
    branches = [
        {"type": "object", "properties": {"a": {"$ref": "#/$defs/B"}, name: {"type": "null"}}} for name in "bcd"
    ]
    value = "5"
    for _ in range(60):
        value = {"a": value}
    start = time.process_time()
    coerce_call(ToolCall("f", {"x": value}), tool({"$ref": "#/$defs/B"}, **{"$defs": {"B": {"anyOf": branches}}}))
    assert time.process_time() - start < 2


@pytest.mark.parametrize("other", [{"const": 2}, {"enum": [1, 2]}])
def test_a_value_that_an_alternative_names_itself_is_not_read_as_another_one(other):
    tools = tool({"anyOf": [{"type": "string", "enum": ["a", "2 or so"]}, other]})
    call = ToolCall("f", {"x": 2})
    assert coerce_call(call, tools) == call
    assert find_problems(call, tools) == []


def test_a_reference_may_lead_to_a_place_in_a_list():
    tools = tool(
        {"$ref": "#/$defs/A/anyOf/1"}, **{"$defs": {"A": {"anyOf": [{"type": "string"}, {"type": "integer"}]}}}
    )
    assert coerce_call(ToolCall("f", {"x": "2"}), tools).arguments == {"x": 2}
