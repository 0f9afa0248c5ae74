"""Values of schemas: what is drawn at random passes the check of calls, and what a schema allows is taken."""

from __future__ import annotations

import pytest

pytest.importorskip("llguidance", reason="grammars need llguidance: pip install 'cahl-pl[constrained]'")

from cahl_pl.parsing import format_call, parse_action
from cahl_pl.schema import find_problems
from cahl_pl.types import ToolCall

TREE = {"type": "object", "properties": {"v": {"type": "integer"}, "next": {"$ref": "#/$defs/tree"}}, "required": ["v"]}

SCHEMAS = {
    "text": ({"type": "string"}, ["", "a", 'with "quotes" and \\', "line\nbreak", "日本"]),
    "number": ({"type": "number"}, [0, -1.5, 1e3, 12345678901]),
    "integer": ({"type": "integer"}, [0, -7, 10**12]),
    "range": ({"type": "integer", "minimum": 3, "maximum": 12}, [3, 9, 12]),
    "from": ({"type": "number", "minimum": 0}, [0, 2.5]),
    "nullable": ({"type": "string", "nullable": True}, [None, "x"]),
    "types": ({"type": ["integer", "null"]}, [None, 4]),
    "enum": ({"type": "string", "enum": ["north east", "süd", 'a"b']}, ["north east", "süd", 'a"b']),
    "mixed enum": ({"enum": [1, "one", None, True]}, [1, "one", None, True]),
    "const": ({"const": {"a": [1]}}, [{"a": [1]}]),
    "list": ({"type": "array", "items": {"type": "integer"}}, [[], [1], [1, 2, 3]]),
    "bounded list": (
        {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 2},
        [[True], [True, False]],
    ),
    "two at least": ({"type": "array", "items": {"type": "boolean"}, "minItems": 2}, [[True, True], [True] * 3]),
    "any": ({}, ["x", 1, [1, "a"], {"k": {"l": []}}, None]),
    "any list": ({"type": "array"}, [[], ["a", 1]]),
    "free object": ({"type": "object"}, [{}, {"a": 1, "b": [2]}]),
    "values": ({"type": "object", "additionalProperties": {"type": "integer"}}, [{"a": 1}]),
    "object": (
        {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer"}}, "required": ["b"]},
        [{"b": 1}, {"a": "x", "b": 1}],
    ),
    "anyOf": ({"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "string"}}]}, [1, ["a"]]),
    "pattern": ({"type": "string", "pattern": "^[a-c]{2,4}$"}, ["ab", "cccc"]),
    "length": ({"type": "string", "minLength": 2, "maxLength": 4}, ["ab", "abcd"]),
    "date": ({"type": "string", "format": "date"}, ["2026-11-30", "tomorrow"]),
    "itself": ({"$ref": "#/$defs/tree"}, [{"v": 1}, {"v": 1, "next": {"v": 2}}]),
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_values_are_those_of_the_schema(words, task_of, name):
    schema, values = SCHEMAS[name]
    task = task_of({"p": schema}, **{"$defs": {"tree": TREE}})
    for value in values:
        call = ToolCall("use", {"p": value})
        assert find_problems(call, task.tools) == []
        assert words.takes("action", task, format_call(call)), value
    for seed in range(6):
        action = parse_action(words.draw("action", task, seed))
        assert action.error is None
        if action.call is not None:
            assert find_problems(action.call, task.tools) == [], action.call


@pytest.mark.parametrize("required", [[], ["a"], ["b"], ["c"], ["a", "c"], ["a", "b", "c"]])
def test_what_is_required_is_there_and_the_rest_may_be(letters, task_of, required):
    task = task_of({name: {"type": "integer"} for name in "abc"}, required)
    for chosen in ("", "a", "b", "c", "ab", "ac", "bc", "abc"):
        call = format_call(ToolCall("use", {name: 1 for name in chosen}))
        assert letters.takes("action", task, call) == (set(required) <= set(chosen)), chosen


def test_a_tool_without_parameters_gets_none(letters, task_of):
    task = task_of({})
    assert letters.takes("action", task, format_call(ToolCall("use", {})))
    assert not letters.takes("action", task, format_call(ToolCall("use", {"a": 1})))
