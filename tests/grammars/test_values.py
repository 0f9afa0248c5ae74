"""Values of schemas: what is drawn at random passes the check of calls, and what a schema allows is taken."""

from __future__ import annotations

from functools import partial

import pytest

pytest.importorskip("llguidance", reason="grammars need llguidance: pip install 'cahl-pl[constrained]'")

from cahl_pl.parsing import format_call, format_plan, parse_action
from cahl_pl.schema import find_problems
from cahl_pl.types import SubTask, ToolCall

TREE = {"type": "object", "properties": {"v": {"type": "integer"}, "next": {"$ref": "#/$defs/tree"}}, "required": ["v"]}

NODE = {
    "type": "object",
    "properties": {"v": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
    "required": ["v", "next"],
}
DEFS = {
    "tree": TREE,
    "node": NODE,
    "side": {"type": "string", "enum": ["left", "right"]},
    "holder": {"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 3}]},
}

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
    "one item": ({"type": "array", "items": {"type": "integer"}, "maxItems": 1}, [[], [4]]),
    "exactly one": ({"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 1}, [[4]]),
    "no item": ({"type": "array", "items": {"type": "integer"}, "maxItems": 0}, [[]]),
    "pair": (
        {"type": "array", "prefixItems": [{"type": "number"}, {"type": "string"}], "items": False, "minItems": 2},
        [[1.5, "a"]],
    ),
    "pair and more": (
        {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "boolean"}]},
        [[], [1], [1, True, "x"]],
    ),
    "numbers in a list": ({"type": "array", "items": {"type": "number"}, "minItems": 1}, [[1.5, 2]]),
    "length or null": ({"type": ["string", "null"], "minLength": 3}, ["abc", None]),
    "range or null": ({"type": ["integer", "null"], "minimum": 5, "maximum": 9}, [5, 9, None]),
    "types with limits": (
        {"type": ["string", "array"], "items": {"type": "integer"}, "minItems": 1, "minLength": 2},
        ["ab", [1]],
    ),
    "a type beside alternatives": (
        {"type": "string", "anyOf": [{"pattern": "^a+$"}, {"enum": ["b", "c"]}]},
        ["aa", "b"],
    ),
    "one of two keys": (
        {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
        },
        [{"a": 1}, {"b": 1}, {"a": 1, "b": 2}],
    ),
    "by a mark": (
        {
            "oneOf": [
                {
                    "type": "object",
                    "properties": {"kind": {"const": "a"}, "x": {"type": "integer"}},
                    "required": ["kind", "x"],
                },
                {
                    "type": "object",
                    "properties": {"kind": {"const": "b"}, "y": {"type": "string"}},
                    "required": ["kind"],
                },
            ]
        },
        [{"kind": "a", "x": 1}, {"kind": "b"}],
    ),
    "all of": (
        {"allOf": [{"$ref": "#/$defs/tree"}, {"required": ["next"]}], "description": "d"},
        [{"v": 1, "next": {"v": 2}}],
    ),
    "all of an enum": ({"allOf": [{"$ref": "#/$defs/side"}], "default": "left"}, ["left", "right"]),
    "elsewhere": ({"$ref": "#/$defs/holder/anyOf/1"}, [3]),
    "elsewhere, behind a list": (
        {"type": "array", "items": {"allOf": [{"$ref": "#/$defs/holder/anyOf/1"}]}, "uniqueItems": False},
        [[3, 4]],
    ),
    "open": (
        {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": True},
        [{}, {"a": 1}, {"b": [1]}, {"a": 1, "b": "x", "aa": None}],
    ),
    "open to texts": (
        {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b/c d": {"type": "integer"}},
            "required": ["a"],
            "additionalProperties": {"type": "string"},
        },
        [{"a": 1}, {"a": 1, "b/c d": 2, "z": "x"}],
    ),
    "closed and empty": ({"type": "object", "properties": {}, "additionalProperties": False}, [{}]),
    "keys of a pattern": (
        {"type": "object", "patternProperties": {"^x-": {"type": "integer"}}, "additionalProperties": False},
        [{}, {"x-a": 1}],
    ),
    "keys of an enum": (
        {"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": {"type": "integer"}},
        [{}, {"a": 1}, {"a": 1, "b": 2}],
    ),
    "some pairs": (
        {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 1},
        [{"a": 1}, {"a": 1, "b": 2}],
    ),
    "enum of two types": ({"type": "string", "enum": ["a", 1]}, ["a"]),
    "a node that may end": (
        {"$ref": "#/$defs/node"},
        [{"v": 1, "next": None}, {"v": 1, "next": {"v": 2, "next": None}}],
    ),
    "itself": ({"$ref": "#/$defs/tree"}, [{"v": 1}, {"v": 1, "next": {"v": 2}}]),
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_values_are_those_of_the_schema(words, task_of, name):
    schema, values = SCHEMAS[name]
    task = task_of({"p": schema}, **{"$defs": DEFS})
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


@pytest.mark.parametrize("pattern", [r"^(?=.*[A-Z])(?=.*\d).{8,}$", r"^(a|b)\1$", r"^(?!\.)[a-z.]+@[a-z]+$"])
def test_a_pattern_that_no_grammar_can_hold_is_left_to_the_check(words, task_of, pattern):
    task = task_of({"p": {"type": "string", "pattern": pattern, "minLength": 2}})
    for text in ("Abcdefg1", "aa", "a.b@c"):
        assert words.takes("action", task, format_call(ToolCall("use", {"p": text})))
    assert not words.takes("action", task, format_call(ToolCall("use", {"p": "a"})))
    assert not words.takes("action", task, format_call(ToolCall("use", {"p": 12})))


def test_a_key_that_is_declared_does_not_come_again_among_the_others(letters, task_of):
    task = task_of({"a": {"type": "integer"}}, additionalProperties={"type": "integer"})
    takes = partial(letters.takes, "action", task)
    assert takes('<tool_call>{"name": "use", "parameters": {"a": 1, "b": 2}}</tool_call>')
    assert not takes('<tool_call>{"name": "use", "parameters": {"a": 1, "a": 2}}</tool_call>')
    assert not takes('<tool_call>{"name": "use", "parameters": {"b": 2}}</tool_call>')


@pytest.mark.parametrize("limits", [{"minLength": 1}, {"maxLength": 40}])
def test_a_text_of_limited_length_holds_no_tag(letters, task_of, limits):
    task = task_of({"p": {"type": "string"} | limits})
    call = '<tool_call>{"name": "use", "parameters": {"p": "so %s it is"}}</tool_call>'
    assert letters.takes("action", task, call % "</b>")
    assert not letters.takes("action", task, call % "</tool_call>")


def test_references_stand_within_lists_and_objects_of_any_keywords(letters, task_of):
    task = task_of(
        {
            "l": {"type": "array", "items": {"type": "integer"}, "uniqueItems": True},
            "o": {"allOf": [{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}]},
        }
    )
    first = SubTask("do", "use", {"l": [1], "o": {"a": 1}})
    assert letters.takes("plan", task, format_plan([first, SubTask("do", "use", {"l": ["$1", 2], "o": {"a": "$1"}})]))


@pytest.mark.parametrize("key", ["allOf", "anyOf"])
@pytest.mark.parametrize("times", [1, 9])
def test_a_schema_that_is_made_of_itself_alone_has_an_end(letters, task_of, key, times):
    task = task_of({"p": {"$ref": "#/$defs/a"}}, **{"$defs": {"a": {key: [{"$ref": "#/$defs/a"}] * times}}})
    assert letters.takes("action", task, format_call(ToolCall("use", {"p": 1})))


def test_a_schema_that_requires_itself_without_end_does_not_end_the_run(letters, task_of):
    schema = {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "required": ["a"]}
    task = task_of({"p": {"$ref": "#/$defs/a"}}, **{"$defs": {"a": schema}})
    assert letters.takes("action", task, "<answer>no</answer>")
