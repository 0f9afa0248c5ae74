from __future__ import annotations

import inspect
import sys
import time
from typing import Any

import pytest

from cahl_pl.schema import Problem, call_key, check_tool, coerce_call, find_problems, is_time_up, time_limit, validator
from cahl_pl.types import ToolCall, ToolSpec


def tool(properties: dict[str, Any], name: str = "f", **keywords: Any) -> ToolSpec:
    return ToolSpec(name, "", {"type": "object", "properties": properties, **keywords})


def causes(arguments: dict[str, Any], *tools: ToolSpec, name: str = "f") -> list[tuple[str, str | None]]:
    return [(p.cause, p.parameter) for p in find_problems(ToolCall(name, arguments), tools)]


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


def test_schemas_are_compiled_once_and_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validator, "_cache", {})
    monkeypatch.setattr(validator, "CACHE_SIZE", 3)
    parameters = tool({"city": {"type": "string"}}).parameters
    first = validator.compile_schema(parameters)
    assert validator.compile_schema(parameters) is first
    for _ in range(10):
        find_problems(ToolCall("f", {"a": 1}), [tool({"a": {"type": "integer"}})])
        assert len(validator._cache) <= 3


def test_cached_schemas_stay_alive() -> None:
    # Otherwise the id of one could be given to the next schema, which would then be taken for it.
    parameters = tool({"a": {"type": "integer"}}).parameters
    assert validator.compile_schema(parameters).source is parameters


@pytest.mark.parametrize(
    "whole", [{}, {"minProperties": 1}, {"$schema": "https://json-schema.org/draft/2020-12/schema"}]
)
def test_the_search_for_a_pattern_ends(whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validator, "CHECK_SECONDS", 0.05)
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


ENDLESS = {"type": "string", "pattern": "^(a|aa)+$"}
SLOW = "a" * 60 + "!"


@pytest.mark.parametrize("form", ["parameters", "items", "keys"])
def test_many_slow_values_of_a_call_take_the_time_of_one(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validator, "CHECK_SECONDS", 0.1)
    listed = {"a": {"type": "array", "items": ENDLESS}}
    keyed = {"a": {"type": "object", "patternProperties": {ENDLESS["pattern"]: {}}, "additionalProperties": False}}
    forms: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "parameters": ({f"p{i}": ENDLESS for i in range(30)}, {f"p{i}": SLOW for i in range(30)}),
        "items": (listed, {"a": [SLOW] * 30}),
        "keys": (keyed, {"a": {f"{SLOW}{i}": 1 for i in range(30)}}),
    }
    properties, arguments = forms[form]
    started = time.thread_time()
    (problem,) = find_problems(ToolCall("f", arguments), [tool(properties)])
    assert time.thread_time() - started < 1
    assert "the check of this value takes more than 0.1 seconds" in problem.message
    # and the next call has its own time
    quick = tool({"p0": ENDLESS})
    assert find_problems(ToolCall("f", {"p0": "aaa"}), [quick]) == []


def test_what_is_wrong_beside_a_slow_value_is_still_told() -> None:
    declared = tool({"a": {"type": "integer"}, "b": ENDLESS}, required=["c"])
    assert causes({"a": "x", "b": "aab", "d": 1}, declared) == [
        ("missing", "c"),
        ("undeclared", "d"),
        ("type", "a"),
        ("type", "b"),
    ]


def test_a_limit_around_holds_for_all_calls_within() -> None:
    with time_limit(0.0):
        assert is_time_up()
        (problem,) = find_problems(ToolCall("f", {"a": "aaa"}), [tool({"a": ENDLESS})])
        assert "takes more than" in problem.message
        assert find_problems(ToolCall("f", {"a": 1}), [tool({"a": {"type": "integer"}})]) == []
    assert not is_time_up()


@pytest.mark.parametrize("frames", [0, 700, 800, 840, 880, 920])
@pytest.mark.parametrize("depth", [60, 900])
def test_deep_values_raise_nothing_where_the_stack_is_deep(frames: int, depth: int) -> None:
    lists = tool({"a": {"$ref": "#/$defs/E"}}, **{"$defs": {"E": {"type": "array", "items": {"$ref": "#/$defs/E"}}}})
    value: Any = []
    for _ in range(depth):
        value = [value]
    call = ToolCall("f", {"a": value})

    def below(left: int) -> Any:
        return below(left - 1) if left else (coerce_call(call, [lists]), find_problems(call, [lists]), call_key(call, [lists]))

    room = sys.getrecursionlimit() - len(inspect.stack(0)) - 60
    coerced, problems, _ = below(min(frames, room))
    assert coerced.name == "f"
    assert all("cannot be checked" in problem.message for problem in problems)
