"""Gold and the tools that it is fitted to."""

from __future__ import annotations

import time
from typing import Any

import pytest

from cahl_pl.datasets import task_parts
from cahl_pl.datasets.task_parts import fit_tools
from cahl_pl.errors import DataError
from cahl_pl.schema import validator
from cahl_pl.types import GoldCall, Message, Task, ToolSpec

ADDRESS = {"type": "object", "properties": {"city": {"type": "string"}, "kind": {"type": "string"}}}


def task(value: Any, schema: Any) -> Task:
    tools = (ToolSpec("use", "", {"type": "object", "properties": {"v": schema}}),)
    return Task("t", (Message("user", "q"),), tools, (GoldCall("use", {"v": value}),))


@pytest.mark.parametrize(("value", "flag"), [(1, True), (0, False), (True, True), ("true", True)])
@pytest.mark.parametrize("kind", ["boolean", ["boolean", "null"]])
def test_a_number_for_a_flag_is_taken_as_the_flag(value: Any, flag: bool, kind: Any) -> None:
    fitted, relaxed = fit_tools(task(value, {"type": kind}))
    assert fitted.gold[0].arguments["v"] is flag
    assert relaxed == []


def test_a_number_stays_one_where_it_is_none_of_a_flag() -> None:
    fitted, relaxed = fit_tools(task(2, {"type": "boolean"}))
    assert (fitted.gold[0].arguments, len(relaxed)) == ({"v": 2}, 1)
    for kind in ("integer", ["boolean", "integer"]):
        assert fit_tools(task(1, {"type": kind}))[0].gold[0].arguments["v"] is not True


@pytest.mark.parametrize(
    ("value", "schema", "place"),
    [
        ({"city": "Oslo", "knd": "home"}, ADDRESS, "'v'"),
        ([{"city": "Oslo"}, {"knd": "home"}], {"type": "array", "items": ADDRESS}, r"'v\[1\]'"),
        ({"to": {"knd": "home"}}, {"type": "object", "properties": {"to": ADDRESS}}, "'v.to'"),
    ],
)
def test_a_misspelt_key_within_an_argument_is_a_fault(value: Any, schema: Any, place: str) -> None:
    with pytest.raises(DataError, match=f"gold call 1: {place} of use has no 'knd'; did you mean 'kind'"):
        fit_tools(task(value, schema))


@pytest.mark.parametrize(
    ("value", "schema"),
    [
        ({"knd": "x"}, ADDRESS | {"additionalProperties": True}),
        ({"knd": "x"}, ADDRESS | {"patternProperties": {"k": {}}}),
        ({"knd": "x", "kind": "y"}, ADDRESS),
        ({"floor": "x"}, ADDRESS),
        ({"knd": "x"}, {"type": "object"}),
    ],
)
def test_other_keys_within_an_argument_pass(value: Any, schema: Any) -> None:
    assert fit_tools(task(value, schema))[0].gold[0].arguments["v"] == value


def test_the_checks_of_a_row_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_parts, "ROW_SECONDS", 0.3)
    monkeypatch.setattr(validator, "CHECK_SECONDS", 0.1)
    endless = {"type": "string", "pattern": "^(a|aa)+$"}
    slow = ToolSpec("f", "", {"type": "object", "properties": {f"p{i}": endless for i in range(20)}})

    def row(values: int) -> Task:
        gold = GoldCall("f", {f"p{i}": "a" * 60 + "!" for i in range(values)})
        return Task("t", (Message("user", "q"),), (slow,), (gold,))

    started = time.thread_time()
    with pytest.raises(DataError, match=r"gold call 1: the checks of this row take more than 0\.3 seconds; simplify the"):
        fit_tools(row(20))
    assert time.thread_time() - started < 2
    fitted, reasons = fit_tools(row(1))
    assert reasons == ["gold call 1: parameter 'p0' of f: the check of this value takes more than 0.1 seconds"]
    assert (fitted.tools[0].parameters["properties"]["p0"], fitted.tools[0].parameters["properties"]["p1"]) == ({}, endless)
