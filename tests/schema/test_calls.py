from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cahl_pl.schema import Problem, canonical, coerce_call, find_problems
from cahl_pl.schema.validator import MAX_REFERENCES
from cahl_pl.types import ToolCall, ToolSpec


def tool(properties: dict[str, Any], name: str = "f", **keywords: Any) -> ToolSpec:
    return ToolSpec(name, "", {"type": "object", "properties": properties, **keywords})


BOOK = tool(
    {
        "city": {"type": "string"},
        "nights": {"type": "integer", "minimum": 1},
        "price": {"type": "number"},
        "breakfast": {"type": "boolean"},
        "guests": {"type": "array", "items": {"type": "integer"}},
        "room": {"type": "object", "properties": {"beds": {"type": "integer"}}, "required": ["beds"]},
    },
    name="book",
    required=["city"],
)


def causes(arguments: dict[str, Any], *tools: ToolSpec, name: str = "book") -> list[tuple[str, str | None]]:
    return [(p.cause, p.parameter) for p in find_problems(ToolCall(name, arguments), tools or [BOOK])]


# find_problems


def test_a_valid_call_has_no_problems() -> None:
    arguments = {
        "city": "Bern",
        "nights": 2,
        "price": 80.5,
        "breakfast": False,
        "guests": [1, 2],
        "room": {"beds": 1},
    }
    assert causes(arguments) == []


@pytest.mark.parametrize(
    "arguments",
    [
        {"nights": "3"},
        {"nights": 3.0},
        {"nights": " 3.0 "},
        {"city": 3},
        {"city": True},
        {"price": 80},
        {"price": "8e1"},
        {"breakfast": "true"},
        {"breakfast": "False"},
        {"guests": "[1, 2]"},
        {"guests": ["1", 2.0]},
        {"guests": '["1"]'},
        {"room": '{"beds": "2"}'},
        {"room": {"beds": 2.0, "view": "lake"}},
    ],
)
def test_values_that_can_be_read_as_their_type_pass(arguments: dict[str, Any]) -> None:
    assert causes({"city": "Bern", **arguments}) == []


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("nights", "three"),
        ("nights", 3.5),
        ("nights", "3.5"),
        ("nights", True),
        ("nights", 0),
        ("nights", "0"),
        ("nights", None),
        ("nights", "3 nights"),
        ("nights", "\u0663"),
        ("city", None),
        ("city", ["Bern"]),
        ("price", "1e999"),
        ("price", "nan"),
        ("breakfast", 1),
        ("breakfast", "yes"),
        ("guests", "1, 2"),
        ("guests", '["Ann"'),
        ("guests", '{"beds": 1}'),
        ("guests", ["Ann"]),
        ("room", "[1]"),
        ("room", {}),
        ("room", {"beds": "two"}),
    ],
)
def test_values_that_do_not_fit_are_a_type_problem(parameter: str, value: Any) -> None:
    assert causes({"city": "Bern", parameter: value}) == [("type", parameter)]


def test_all_problems_of_a_call_in_order() -> None:
    assert causes({"nights": "x", "stars": 4, "guests": ["a", "b"]}) == [
        ("missing", "city"),
        ("undeclared", "stars"),
        ("type", "nights"),
        ("type", "guests"),
    ]


def test_messages_say_what_is_offered_and_what_is_wrong() -> None:
    assert find_problems(ToolCall("cook", {}), [BOOK, tool({})]) == [
        Problem("unknown_tool", None, "no tool is named 'cook'; offered: book, f")
    ]
    assert find_problems(ToolCall("cook", {}), []) == [
        Problem("unknown_tool", None, "no tool is named 'cook'; offered: none")
    ]
    assert [
        p.message for p in find_problems(ToolCall("f", {"b": 1, "a": "x"}), [tool({"a": {"type": "integer"}})])
    ] == [
        "f has no parameter 'b'; declared: a",
        "parameter 'a' of f: 'x' is not of type 'integer'",
    ]


def test_messages_stay_short() -> None:
    long = "x" * 100_000
    for problem in find_problems(ToolCall("book", {"nights": long, long: 1}), [BOOK]):
        assert len(problem.message) < 600
    assert len(find_problems(ToolCall(long, {}), [BOOK])[0].message) < 600
    type_problem = find_problems(ToolCall("book", {"city": "a", "nights": long}), [BOOK])[0]
    assert type_problem.message.endswith("is not of type 'integer'")


def test_undeclared_parameters_are_welcome_only_where_the_schema_says_so() -> None:
    assert causes({"x": 1}, tool({}), name="f") == [("undeclared", "x")]
    assert causes({"x": 1}, tool({}, additionalProperties=False), name="f") == [("undeclared", "x")]
    assert causes({"x": 1}, tool({}, additionalProperties=True), name="f") == []
    typed = tool({}, additionalProperties={"type": "integer"})
    assert causes({"x": 1}, typed, name="f") == []
    assert causes({"x": []}, typed, name="f") == [("type", None)]


def test_keywords_about_all_arguments_together() -> None:
    either = tool({"a": {}, "b": {}}, anyOf=[{"required": ["a"]}, {"required": ["b"]}])
    assert causes({"b": 1}, either, name="f") == []
    assert causes({}, either, name="f") == [("type", None)]


def test_union_types() -> None:
    optional = tool({"a": {"anyOf": [{"type": "integer"}, {"type": "null"}]}, "b": {"type": ["integer", "string"]}})
    call = ToolCall("f", {"a": "7", "b": "7"})
    assert find_problems(call, [optional]) == []
    # The string that `b` may be goes before the integer that it could be read as.
    assert coerce_call(call, [optional]).arguments == {"a": 7, "b": "7"}
    assert causes({"a": None}, optional, name="f") == []
    assert coerce_call(ToolCall("f", {"b": True}), [optional]).arguments == {"b": "true"}
    assert causes({"a": "x"}, optional, name="f") == [("type", "a")]


def test_references_within_the_schema_are_followed() -> None:
    linked = tool({"a": {"$ref": "#/$defs/Small"}}, **{"$defs": {"Small": {"type": "integer", "maximum": 3}}})
    assert causes({"a": 3}, linked, name="f") == []
    assert causes({"a": 4}, linked, name="f") == [("type", "a")]


def test_hostile_values_never_raise(hostile: Any) -> None:
    declared: dict[str, Any] = {
        kind: {"type": kind} for kind in ("string", "integer", "number", "boolean", "array", "object", "null")
    }
    declared["multiple"] = {"multipleOf": 0.1}
    declared["unique"] = {"uniqueItems": True}
    declared["union"] = {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "array"}}]}
    declared["self"] = {"$ref": "#/properties/self", "items": {"$ref": "#/properties/self"}}
    offered = [tool(declared)]
    for name in [*declared, "undeclared"]:
        call = ToolCall("f", {name: hostile})
        assert all(isinstance(p.message, str) for p in find_problems(call, offered))
        coerce_call(call, offered)
    assert find_problems(ToolCall(hostile, {}), offered)[0].cause == "unknown_tool"
    assert find_problems(ToolCall("f", {"\ud800": hostile}), offered)[0].cause == "undeclared"


@pytest.mark.parametrize(
    "place", [{"type": 5}, {"anyOf": 5}, {"type": None}, {"type": [5, "null"]}, {"oneOf": {"a": 1}}, 7]
)
def test_a_reference_to_what_is_no_schema_raises_nothing(place: Any) -> None:
    offered = [tool({"a": {"$ref": "#/properties/b/default"}, "b": {"default": place}})]
    call = ToolCall("f", {"a": "1"})
    assert all(isinstance(problem.message, str) for problem in find_problems(call, offered))
    assert coerce_call(call, offered) == call


@pytest.mark.parametrize("frames", [0, 200, 500])
def test_a_schema_that_is_its_own_reference_is_no_trouble_wherever_the_caller_stands(frames: int) -> None:
    """Near Python's limit, jsonschema's Rust would panic, which no `except Exception` catches."""
    offered = [tool({"self": {"$ref": "#/properties/self", "items": {"$ref": "#/properties/self"}}})]

    def deeper(left: int) -> list[Problem]:
        return deeper(left - 1) if left else find_problems(ToolCall("f", {"self": [[1]]}), offered)

    (problem,) = deeper(frames)
    assert problem.message == "parameter 'self' of f: this value cannot be checked: too deep, too long or out of range"


def test_a_value_that_follows_references_is_checked_down_to_fifty_levels() -> None:
    offered = [tool({"tree": {"type": "array", "items": {"$ref": "#/properties/tree"}}})]

    def nested(levels: int) -> list[Any]:
        return [nested(levels - 1)] if levels else []

    assert not find_problems(ToolCall("f", {"tree": nested(MAX_REFERENCES)}), offered)
    (problem,) = find_problems(ToolCall("f", {"tree": nested(MAX_REFERENCES + 1)}), offered)
    assert "too deep" in problem.message


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from([*BOOK.parameters["properties"], "x"]), JSON_VALUES))
def test_any_arguments_never_raise_and_coercion_settles(arguments: dict[str, Any]) -> None:
    call = ToolCall("book", arguments)
    coerced = coerce_call(call, [BOOK])
    assert [p[:2] for p in find_problems(coerced, [BOOK])] == [p[:2] for p in find_problems(call, [BOOK])]
    assert canonical(coerce_call(coerced, [BOOK]).arguments) == canonical(coerced.arguments)


# coerce_call


def test_arguments_are_coerced_where_they_can_be() -> None:
    arguments = {
        "city": 3,
        "nights": "3",
        "price": "80",
        "breakfast": "True",
        "guests": '["1", 2.0]',
        "room": {"beds": "two"},
        "stars": "4",
    }
    coerced = coerce_call(ToolCall("book", arguments), [BOOK])
    assert json.dumps(coerced.arguments) == json.dumps(
        {
            "city": "3",
            "nights": 3,
            "price": 80,
            "breakfast": True,
            "guests": [1, 2],
            "room": {"beds": "two"},
            "stars": "4",
        }
    )
    assert arguments["nights"] == "3"


def test_calls_of_unknown_tools_stay_as_they_are() -> None:
    call = ToolCall("cook", {"nights": "3"})
    assert coerce_call(call, [BOOK]) == call
