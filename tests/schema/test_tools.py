from __future__ import annotations

from typing import Any

import pytest

from cahl_pl.errors import SchemaError
from cahl_pl.schema import check_tool
from cahl_pl.types import ToolSpec


def tool(properties: dict[str, Any], name: str = "f", **keywords: Any) -> ToolSpec:
    return ToolSpec(name, "", {"type": "object", "properties": properties, **keywords})


def test_check_tool_takes_valid_schemas() -> None:
    check_tool(tool({"city": {"type": "string"}, "room": {"type": "object"}}, required=["city"]), "x")
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
