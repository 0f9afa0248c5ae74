from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cahl_pl import schema
from cahl_pl.errors import SchemaError
from cahl_pl.schema import Problem, canonical, check_tool, coerce_call, find_problems
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


def deep_list(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


HOSTILE = {
    "nan": float("nan"),
    "infinity": float("-inf"),
    "huge int": 10**5000,
    "huge int in a list": [10**5000],
    "deep": deep_list(50_000),
    "lone surrogate": "\ud800",
    "digits": "9" * 10_000,
    "exponent": "1e999",
    "deep json": "[" * 50_000 + "]" * 50_000,
    "open json": "[" * 50_000,
    "json nan": "[NaN]",
    "nul": "\x00",
    "none": None,
    "empty": "",
    "wide": [None] * 10_000,
}


# check_tool


def test_check_tool_takes_valid_schemas() -> None:
    check_tool(BOOK, "x")
    check_tool(tool({}), "x")
    check_tool(tool({"a": {"$ref": "#/$defs/A"}}, **{"$defs": {"A": {"type": "integer"}}}), "x")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"properties": {}}, 'parameters must be a JSON Schema with "type": "object"'),
        ([], 'parameters must be a JSON Schema with "type": "object"'),
        ({"type": "object", "properties": {"a": {"type": "int"}}}, "properties: a: type: 'int' is not valid"),
        ({"type": "object", "properties": {"a": {"pattern": "("}}}, "'(' is not a 'regex'"),
        ({"type": "object", "required": "a"}, "required: 'a' is not of type 'array'"),
        ({"type": "object", "properties": {"a": {"$ref": "#/$defs/B"}}}, "leads nowhere"),
        ({"type": "object", "properties": {"a": {"$ref": "http://localhost:1/x"}}}, "leads nowhere"),
        ({"type": "object", "properties": {"a": {"$ref": "http://["}}}, "leads nowhere"),
        ({"type": "object", "properties": {"a": {"$schema": "http://["}}}, "$schema may only stand at the top"),
        ({"type": "object", "properties": {"a": {"pattern": "a{99999999999}"}}}, "the repetition number is too large"),
    ],
)
def test_check_tool_names_place_tool_and_fault(parameters: Any, message: str) -> None:
    with pytest.raises(SchemaError) as error:
        check_tool(ToolSpec("x", "", parameters), "rows.jsonl, line 3")
    assert str(error.value).startswith("rows.jsonl, line 3, tool 'x': ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_check_tool_survives_a_deep_schema() -> None:
    inner: dict[str, Any] = {}
    for _ in range(5000):
        inner = {"items": inner}
    with pytest.raises(SchemaError, match="nested too deeply"):
        check_tool(tool({"a": inner}), "x")


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


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_values_never_raise(value: Any) -> None:
    declared: dict[str, Any] = {
        kind: {"type": kind} for kind in ("string", "integer", "number", "boolean", "array", "object", "null")
    }
    declared["multiple"] = {"multipleOf": 0.1}
    declared["unique"] = {"uniqueItems": True}
    declared["union"] = {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "array"}}]}
    declared["self"] = {"$ref": "#/properties/self", "items": {"$ref": "#/properties/self"}}
    offered = [tool(declared)]
    for name in [*declared, "undeclared"]:
        call = ToolCall("f", {name: value})
        assert all(isinstance(p.message, str) for p in find_problems(call, offered))
        coerce_call(call, offered)
    assert find_problems(ToolCall(value, {}), offered)[0].cause == "unknown_tool"
    assert find_problems(ToolCall("f", {"\ud800": value}), offered)[0].cause == "undeclared"


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


# canonical


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (0.0, -0.0),
        ({"a": 1, "b": [2]}, {"b": [2.0], "a": 1.0}),
        ([1, 2], (1, 2)),
        (float("nan"), float("nan")),
        (10**400, 10**400),
        (1e300, int(1e300)),
    ],
)
def test_same_values_have_the_same_canonical_form(one: Any, other: Any) -> None:
    assert canonical(one) == canonical(other)


def test_blanks_can_be_left_out() -> None:
    assert canonical({" a": [" Bern\n"]}, strip=True) == canonical({" a": ["Bern"]}, strip=True)


def test_different_values_have_different_canonical_forms() -> None:
    values = [
        *(1, True, "1", "True", None, "None", [1], {"1": 1}, 1.5, "1.5", "", [], {}, "0x1"),
        *(
            [[]],
            [[], []],
            ["a,b"],
            ["a", "b"],
            ["a", ["b"]],
            {"a": "b"},
            ["a:b"],
            "Bern",
            "bern",
            " Bern",
            "Bern\n",
            2**53,
            2**53 + 1,
        ),
        *(float("nan"), float("inf"), float("-inf"), -1, 0, False, "\ud800", "\udfff", "\\ud800"),
        *({"a": {"b": 1}}, {"a": {}, "b": 1}),
    ]
    assert len({canonical(value) for value in values}) == len(values)


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE.keys())
def test_canonical_takes_hostile_values(value: Any) -> None:
    assert canonical(value) == canonical(value)
    assert canonical(value) != canonical({"a": value})


def test_canonical_takes_linear_time() -> None:
    def seconds(value: Any) -> float:
        times = []
        for _ in range(3):
            start = time.perf_counter()
            canonical(value)
            times.append(time.perf_counter() - start)
        return min(times)

    # Quadratic time would be 400 times as much, and minutes.
    small, large = deep_list(10_000), deep_list(200_000)
    assert seconds(large) < 100 * seconds(small)
    assert seconds(1 << 4_000_000) < 1


@pytest.mark.parametrize(
    ("items", "unique"),
    [
        ([1, True, "1", [1], {"a": 1}], True),
        (["a", " a", "A"], True),
        ([{"a": 1, "b": 2}, {"b": 2.0, "a": 1}], False),
        ([[], {}, []], False),
    ],
)
def test_items_that_should_be_unique(items: list[Any], unique: bool) -> None:
    listed = tool({"a": {"type": "array", "uniqueItems": True}})
    problems = find_problems(ToolCall(listed.name, {"a": items}), (listed,))
    assert [problem.message.split(": ")[1] for problem in problems] == (
        [] if unique else ["two of the items are the same"]
    )
    assert find_problems(ToolCall(listed.name, {"a": items * 2}), (tool({"a": {"uniqueItems": False}}),)) == []


@pytest.mark.parametrize("keyword", ["$ref", "$dynamicRef"])
def test_values_that_schemas_follow_without_end_take_limited_time(keyword: str) -> None:
    branches = [
        {"properties": {"op": {"const": op}, "x": {keyword: "#/$defs/E"}}, "required": ["op", "x"]} for op in "abc"
    ]
    schema = {"a": {"$ref": "#/$defs/E"}}
    nested = tool(schema, **{"$defs": {"E": {"anyOf": [*branches, {"type": "number"}]}}})
    check_tool(nested, "here")

    def value(depth: int) -> Any:
        return 1 if depth == 0 else {"op": "b", "x": value(depth - 1)}

    assert find_problems(ToolCall(nested.name, {"a": value(2)}), (nested,)) == []
    start = time.process_time()
    (problem,) = find_problems(ToolCall(nested.name, {"a": value(40)}), (nested,))  # 3^40 branches
    assert "takes more than 0.5 seconds" in problem.message
    assert time.process_time() - start < 5
    assert find_problems(ToolCall(nested.name, {"a": value(1)}), (nested,)) == []


def test_many_items_that_should_be_unique_take_linear_time() -> None:
    listed = tool({"a": {"uniqueItems": True}})
    call = ToolCall(listed.name, {"a": [{"n": n} for n in range(20_000)]})
    start = time.process_time()
    assert find_problems(call, (listed,)) == []
    assert time.process_time() - start < 5  # comparing each with each takes an hour


# cache


def test_schemas_are_compiled_once_and_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "_cache", {})
    monkeypatch.setattr(schema, "CACHE_SIZE", 3)
    first = schema._compiled(BOOK.parameters)
    assert schema._compiled(BOOK.parameters) is first
    for _ in range(10):
        find_problems(ToolCall("f", {"a": 1}), [tool({"a": {"type": "integer"}})])
        assert len(schema._cache) <= 3


def test_cached_schemas_stay_alive() -> None:
    # Otherwise the id of one could be given to the next schema, which would then be taken for it.
    parameters = tool({"a": {"type": "integer"}}).parameters
    assert schema._compiled(parameters).source is parameters


@pytest.mark.parametrize(
    "whole", [{}, {"minProperties": 1}, {"$schema": "https://json-schema.org/draft/2020-12/schema"}]
)
def test_the_search_for_a_pattern_ends(whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "CHECK_SECONDS", 0.05)
    endless, text = (
        "^(a|aa)+$",
        "a" * 60 + "!",
    )  # takes ages, and so do (a+)+ and a?a?a?... where they are not seen through
    inner = {"a": {"type": "string", "pattern": endless}, "b": {"$ref": "#"}}
    patterned = tool(inner, **whole)
    check_tool(patterned, "here")
    started = time.process_time()
    assert find_problems(ToolCall("f", {"a": "aaa"}), [patterned]) == []
    fault = "the check of this value takes more than 0.05 seconds"
    assert find_problems(ToolCall("f", {"a": text}), [patterned]) == [
        Problem("type", "a", f"parameter 'a' of f: {fault}")
    ]
    assert causes({"b": {"a": text}}, patterned, name="f") == [("type", "b")]
    for keyword in (
        {"patternProperties": {endless: {}}},
        {"additionalProperties": False, "patternProperties": {endless: {}}},
    ):
        assert causes({text: 1}, tool({}, **keyword), name="f") == [("type", None)]
    for pattern in ("^(a+)+$", "a?" * 30 + "a" * 30):
        assert causes({"a": text[:29]}, tool({"a": {"pattern": pattern}}), name="f") in ([], [("type", "a")])
    assert time.process_time() - started < 20


def test_names_are_matched_by_pattern_properties() -> None:
    numbers = {"patternProperties": {"^n_": {"type": "integer"}}}
    for extra, wrong in (({}, []), ({"additionalProperties": False}, [("type", None)])):
        open_ = tool({"q": {"type": "string"}}, **numbers, **extra)
        assert causes({"q": "x", "n_1": 1}, open_, name="f") == []
        assert causes({"n_1": "x"}, open_, name="f") == [("type", None)]
        assert causes({"q": "x", "m": 1}, open_, name="f") == wrong


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"not": {"$schema": "http://json-schema.org/draft-07/schema#"}}, r"\$schema may only stand at the top"),
        ({"patternProperties": {"a": {}}, "unevaluatedProperties": False}, "cannot stand in one schema"),
    ],
)
def test_keywords_that_would_search_without_a_limit_are_refused(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(SchemaError, match=f"^here, tool 'f': .*{message}"):
        check_tool(tool({}, **keywords), "here")
