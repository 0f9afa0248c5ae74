"""Tools whose schemas refer to what is no schema, or hold what JSON does not have."""

from __future__ import annotations

from typing import Any

import pytest

from cahl_pl.errors import SchemaError
from cahl_pl.schema import check_tool
from cahl_pl.types import ToolSpec

REFERS = {"properties": {"a": {"$ref": "#/$defs/A"}}}


def check(**schema: Any) -> None:
    check_tool(ToolSpec("f", "", {"type": "object", **schema}), "row 1")


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (
            {"properties": {"a": {"$ref": "#/properties/b/description"}, "b": {"description": "x"}}},
            "$ref '#/properties/b/description' leads to text, not to a schema",
        ),
        ({"properties": {"a": {"$ref": "#/x"}}, "x": ["string"]}, "$ref '#/x' leads to a list, not to a schema"),
        ({"properties": {"a": {"$ref": "#/x"}}, "x": {"type": "strng"}}, "type: 'strng' is not valid"),
        ({"properties": {"a": {"$ref": "#/required/0"}}, "required": ["a"]}, "leads to text, not to a schema"),
        ({**REFERS, "$defs": {"A": 5}}, "$defs: A: 5 is not of type 'object', 'boolean'"),
        ({**REFERS, "$defs": 5}, "$defs: 5 is not of type 'object'"),
        ({**REFERS, "$defs": {"A": {"$ref": "#/$defs/A"}}}, "$ref '#/$defs/A' leads back to itself"),
        (
            {**REFERS, "$defs": {"A": {"$ref": "#/$defs/B"}, "B": {"$ref": "#/$defs/A"}}},
            "leads back to itself",
        ),
        ({**REFERS, "$defs": {}}, "$ref '/$defs/A' leads nowhere"),
        ({"properties": {"a": {"default": float("nan")}}}, "default holds nan, which JSON does not have: leave it out"),
        ({"properties": {"a": {"enum": [1.0, float("inf")]}}}, "enum holds inf, which JSON does not have"),
        ({"properties": {"a": {"default": {"b": [float("-inf")]}}}}, "default holds -inf, which JSON does not have"),
        ({"properties": {"a": {"maximum": float("inf")}}}, "maximum holds inf, which JSON does not have"),
    ],
)
def test_what_calls_cannot_be_checked_against_is_refused(schema: dict[str, Any], said: str) -> None:
    with pytest.raises(SchemaError) as raised:
        check(**schema)
    assert str(raised.value).startswith("row 1, tool 'f': parameters are not valid JSON Schema: ")
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "schema",
    [
        {**REFERS, "$defs": {"A": {"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}}}},
        {**REFERS, "$defs": {"A": True}},
        {"properties": {"a": {"$ref": "#"}}},
        {"properties": {"a": {"$ref": "#b"}}, "$defs": {"A": {"$anchor": "b", "type": "string"}}},
        {"properties": {"a": {"default": {"$ref": "x", "$schema": "y"}}, "b": {"enum": [{"$ref": "x"}]}}},
        {"properties": {"$ref": {"type": "string"}, "default": {"$ref": "#/properties/$ref"}}},
    ],
)
def test_what_they_can_be_checked_against_passes(schema: dict[str, Any]) -> None:
    check(**schema)


def test_a_reference_of_a_parameter_that_is_named_as_a_keyword_is_looked_at() -> None:
    with pytest.raises(SchemaError, match="leads nowhere"):
        check(properties={"default": {"$ref": "#/$defs/no"}})
