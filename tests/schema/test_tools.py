from __future__ import annotations

from typing import Any

import pytest

from cahl_pl.errors import SchemaError
from cahl_pl.schema import check_tool, tools
from cahl_pl.types import ToolSpec


def tool(properties: dict[str, Any], name: str = "f", **keywords: Any) -> ToolSpec:
    return ToolSpec(name, "", {"type": "object", "properties": properties, **keywords})


def test_check_tool_takes_valid_schemas() -> None:
    check_tool(tool({"city": {"type": "string"}, "room": {"type": "object"}}, required=["city"]), "x")
    check_tool(tool({}), "x")
    check_tool(tool({"a": {"$ref": "#/$defs/A"}}, **{"$defs": {"A": {"type": "integer"}}}), "x")


@pytest.mark.parametrize("pattern", [r"^\p{L}+$", r"^(?<year>\d{4})$", r"^https?:\/\/"])
def test_patterns_may_be_those_of_javascript(pattern: str) -> None:
    check_tool(tool({"a": {"type": "string", "pattern": pattern}}), "x")


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


def test_equal_schemas_are_examined_once_and_faulty_ones_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    examined = []
    monkeypatch.setattr(tools, "_sound", set())
    check = tools.Draft202012Validator.check_schema
    monkeypatch.setattr(
        tools.Draft202012Validator, "check_schema", lambda *a, **k: examined.append(a) or check(*a, **k)
    )
    for name in "fgh":
        check_tool(tool({"a": {"type": "integer"}}, name), "x")
    assert len(examined) == 1
    for name in "fg":
        with pytest.raises(SchemaError, match=f"place, tool '{name}': .*required: 'a' is not"):
            check_tool(tool({}, name, required="a"), "place")
    assert len(examined) == 3
    for _ in range(2):  # what stands after the examination counts too
        with pytest.raises(SchemaError, match="leads nowhere"):
            check_tool(tool({"a": {"$ref": "#/$defs/B"}}), "x")


def test_what_is_equal_in_python_alone_is_another_schema() -> None:
    check_tool(tool({"a": {}}, required=["a"], minProperties=1), "x")
    with pytest.raises(SchemaError, match="is not of type 'array'"):
        check_tool(tool({"a": {}}, required=("a",), minProperties=1), "x")
    with pytest.raises(SchemaError, match="True is not of type 'integer'"):
        check_tool(tool({"a": {}}, required=["a"], minProperties=True), "x")


def test_only_so_many_sound_schemas_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "_sound", set())
    monkeypatch.setattr(tools, "_SOUND_SCHEMAS", 2)
    for name in "abc":
        check_tool(tool({name: {}}), "x")
    assert len(tools._sound) == 1
