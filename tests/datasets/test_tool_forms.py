"""Tools are read in every form that programs write, and what is none is named."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from cahl_pl.datasets.tool_forms import is_plain, read_tool, read_tools
from cahl_pl.errors import DataError, SchemaError
from cahl_pl.schema import check_tool, find_problems
from cahl_pl.types import ToolCall, ToolSpec

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "a": {"type": "array", "items": {"type": "string", "enum": ["x"]}, "default": ["x"], "description": "A."}
    },
    "required": ["a"],
}


@pytest.mark.parametrize(
    ("change", "plain", "valid"),
    [
        ({}, True, True),
        ({"type": "dict"}, False, False),
        ({"type": ["object", "null"]}, False, False),
        ({"title": 1}, False, False),
        ({"enum": {}}, False, False),
        ({"required": ["a", "a"]}, False, False),
        ({"required": [1]}, False, False),
        ({"required": "a"}, False, False),
        ({"items": 1}, False, False),
        ({"properties": []}, False, False),
        ({"properties": {"a": {"type": "int"}}}, False, False),
        ({"properties": {"a": {"items": {"properties": {"b": {"type": "int"}}}}}}, False, False),
        ({"minProperties": 1}, False, True),
        ({"properties": {"a": True}}, False, True),
    ],
)
def test_plain_schemas_need_no_further_check(change: dict[str, Any], plain: bool, valid: bool) -> None:
    schema = SCHEMA | change
    assert is_plain(schema) == plain
    try:
        check_tool(ToolSpec("f", "", schema), "here")
    except SchemaError:
        assert not valid
    else:
        assert valid


DECLARED = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = ToolSpec("f", "d", DECLARED)


@pytest.mark.parametrize(
    "form",
    [
        {"type": "function", "function": {"name": "f", "description": "d", "parameters": DECLARED, "strict": True}},
        {"type": "function", "function": {"name": "f", "description": "d", "input_schema": DECLARED}},
        {"type": "function", "name": "f", "description": "d", "parameters": DECLARED},  # Responses
        {"name": "f", "description": "d", "parameters": DECLARED},
        {"name": "f", "description": "d", "input_schema": DECLARED, "cache_control": {"type": "ephemeral"}},
        {"name": "f", "description": "d", "inputSchema": DECLARED, "annotations": {"readOnlyHint": True}},
        {"toolSpec": {"name": "f", "description": "d", "inputSchema": {"json": DECLARED}}},
        {
            "name": "f",
            "description": "d",
            "parameters": {"properties": {"city": {"type": "str"}}, "required": ["city"]},
        },
        {"name": "f", "description": "d", "parameters": {"city": {"type": "str"}}},  # xLAM
        {
            "name": "f",
            "description": "d",
            "parameters": '{"type": "dict", "properties": {"city": {"type": "string", "required": true}}}',
        },
        {
            "name": "f",
            "description": "d",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
            "required": ["city"],
        },
    ],
)
def test_forms_of_one_tool(form: Any) -> None:
    assert read_tool(form) == TOOL


def test_required_parameters_are_listed() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": True}
    with pytest.raises(DataError, match="'required' is true; give the names of the required parameters, in a list"):
        read_tool({"name": "f", "parameters": schema})


@pytest.mark.parametrize("empty", [{}, None, "{}"])
def test_a_tool_without_parameters(empty: Any) -> None:
    assert read_tool({"name": "f", "parameters": empty}) == ToolSpec("f", "", {"type": "object", "properties": {}})
    assert read_tool({"name": "f"}).parameters == {"type": "object", "properties": {}}


@pytest.mark.parametrize(
    ("given", "schema"),
    [
        ({"type": "dict"}, {"type": "object"}),
        ({"type": "float"}, {"type": "number"}),
        ({"type": "str", "description": "x"}, {"type": "string", "description": "x"}),
        ({"type": "int"}, {"type": "integer"}),
        ({"type": "list", "items": {"type": "bool"}}, {"type": "array", "items": {"type": "boolean"}}),
        ({"type": "tuple"}, {"type": "array"}),
        ({"type": "any"}, {}),
        ({"type": "List[float]"}, {"type": "array", "items": {"type": "number"}}),
        ({"type": "Optional[int]"}, {"type": ["integer", "null"]}),
        ({"type": ["str", "int"]}, {"type": ["string", "integer"]}),
        ({"type": "string", "nullable": True}, {"type": ["string", "null"]}),
        ({"type": "string", "nullable": False}, {"type": "string"}),
        ({"type": "string", "enum": ["a"], "nullable": True}, {"type": ["string", "null"], "enum": ["a", None]}),
        ({"anyOf": [{"type": "int"}], "nullable": True}, {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        ({"additionalProperties": {"type": "int"}}, {"additionalProperties": {"type": "integer"}}),
    ],
)
def test_names_of_types_are_python_s_or_json_s(given: Any, schema: Any) -> None:
    tool = read_tool({"name": "f", "parameters": {"type": "object", "properties": {"x": given}}})
    assert tool.parameters["properties"]["x"] == schema


@pytest.mark.parametrize(
    ("parameters", "required"),
    [
        ({"a": {"type": "int", "required": False}, "b": {"type": "int", "required": True}}, ["b"]),
        ({"a": {"type": "int", "required": True, "default": 1}, "b": {"type": "int", "default": 1}}, ["a"]),
        ({"a": {"type": "int, optional"}, "b": {"type": "int"}}, ["b"]),
        ({"a": {"type": "int", "optional": True}, "b": {"type": "int"}}, ["b"]),
    ],
)
def test_flat_parameters_say_themselves_whether_they_are_required(parameters: Any, required: list[str]) -> None:
    schema = read_tool({"name": "f", "parameters": parameters}).parameters
    assert schema["required"] == required
    assert schema["properties"]["b"] in ({"type": "integer"}, {"type": "integer", "default": 1})


def test_a_flat_parameter_keeps_its_enum() -> None:
    schema = read_tool(
        {"name": "f", "parameters": {"u": {"type": "str", "enum": ["C", "F"], "default": ""}}}
    ).parameters
    assert schema == {"type": "object", "properties": {"u": {"type": "string", "enum": ["C", "F"]}}}


def nested(**schema: Any) -> dict[str, Any]:
    return {"name": "f", "parameters": {"type": "object", "properties": {"x": schema}}}


@pytest.mark.parametrize(
    ("tool", "fault"),
    [
        ({"name": " "}, "the name is empty"),
        ({"description": "x"}, "the field 'name' is missing"),
        ({"name": 1}, "the field 'name' must be text, but is an integer"),
        (3, "a tool must be an object with a name and parameters, not an integer"),
        ({"name": "f", "paramters": {}}, "there is no field 'paramters' of a tool; did you mean 'parameters'?"),
        ({"function": {"name": "f", "inputschema": {}}}, "did you mean 'input_schema'?"),
        ({"name": "f", "args": {"x": {}}}, "the field 'args' is none of a tool; the parameters stand in 'parameters'"),
        ({"name": "f", "parameters": [1]}, "the field 'parameters' must be JSON Schema, an object, but is a list"),
        ({"name": "f", "parameters": {"a": 1}, "input_schema": {}}, "the parameters stand there twice"),
        ({"function": "f"}, "the field 'function' must be an object"),
        (
            nested(type="strng"),
            "the field 'parameters': properties.x.type: there is no type 'strng'; did you mean \"string\"?",
        ),
        (nested(type="date"), "there is no type 'date'; use one of string, integer, number"),
        (nested(type=3), "properties.x.type must be the name of a type"),
        (
            {"name": "f", "parameters": {**DECLARED, "required": ["town"]}},
            "names 'town', which is not among 'properties'",
        ),
        ({"name": "f", "parameters": {**DECLARED, "required": ["citty"]}}, "did you mean 'city'?"),
        (nested(items=[3]), "parameters are not valid JSON Schema"),
    ],
)
def test_what_is_no_tool_is_named(tool: Any, fault: str) -> None:
    with pytest.raises(DataError) as error:
        read_tool(tool)
    assert fault in str(error.value)


def test_types_that_nobody_knows_do_not_constrain_in_data_sets() -> None:
    assert read_tool(nested(type="np.ndarray"), lenient=True).parameters["properties"]["x"] == {}
    with pytest.raises(DataError):
        read_tool(nested(type="np.ndarray"))


def test_a_list_of_tools_may_be_json_text() -> None:
    assert read_tools('[{"name": "f", "description": "d", "parameters": {"city": {"type": "str"}}}]') == (TOOL,)
    assert read_tools("") == ()
    with pytest.raises(DataError, match="the field 'tools': not JSON"):
        read_tools("[")
    with pytest.raises(DataError, match="the field 'tools', tool 2: the name is empty"):
        read_tools([{"name": "f"}, {"name": ""}])


def test_a_list_beside_bare_parameters_says_which_are_required() -> None:
    bare = {"a": {"type": "int"}, "b": {"type": "int"}}
    assert read_tool({"name": "f", "parameters": bare, "required": ["b"]}).parameters["required"] == ["b"]
    assert not read_tool({"name": "f", "parameters": bare, "required": []}).parameters["required"]
    assert read_tool({"name": "f", "parameters": bare}).parameters["required"] == ["a", "b"]


def test_examples_that_are_no_list_constrain_nothing() -> None:
    properties = {"a": {"type": "string", "examples": "x, y"}, "b": {"type": "string", "examples": ["x"]}}
    made = read_tool({"name": "f", "parameters": {"type": "object", "properties": properties}}).parameters["properties"]
    assert made == {"a": {"type": "string"}, "b": {"type": "string", "examples": ["x"]}}


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ({"type": "array", "items": [{"type": "float"}, {}]}, {"type": "array", "prefixItems": [{"type": "number"}, {}]}),
        (
            {"items": [{"type": "string"}], "additionalItems": {"type": "int"}},
            {"prefixItems": [{"type": "string"}], "items": {"type": "integer"}},
        ),
        ({"type": "number", "minimum": 0, "exclusiveMinimum": True}, {"type": "number", "exclusiveMinimum": 0}),
        ({"type": "number", "maximum": 9, "exclusiveMaximum": False}, {"type": "number", "maximum": 9}),
    ],
)
def test_what_older_drafts_write_in_another_way(older: Any, newer: Any) -> None:
    schema = {"type": "object", "properties": {"a": older}, "required": ["a"]}
    assert read_tool({"name": "f", "parameters": schema}).parameters["properties"] == {"a": newer}


A, B = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}, {"properties": {"b": {"enum": [1]}}}


@pytest.mark.parametrize(
    ("schema", "required", "calls"),
    [
        ({"$ref": "#/$defs/A", "$defs": {"A": A}}, ["a"], {'{"a": 1}': True, "{}": False}),
        ({"type": "object", "allOf": [A, B]}, ["a"], {'{"a": 1, "b": 1}': True, '{"b": 1}': False}),
        (
            {"type": "object", "anyOf": [A, B | {"required": ["b"]}]},
            [],
            {'{"a": 1}': True, '{"b": 1}': True, "{}": False},
        ),
    ],
)
def test_parameters_that_do_not_stand_at_the_top_can_be_given(schema: Any, required: Any, calls: Any) -> None:
    tool = read_tool({"name": "f", "parameters": schema})
    assert list(tool.parameters["properties"]) == (["a"] if "$ref" in schema else ["a", "b"])
    assert tool.parameters.get("required", []) == required
    for text, valid in calls.items():
        assert (not find_problems(ToolCall("f", json.loads(text)), [tool])) == valid, text


@pytest.mark.parametrize("key", ["allOf", "anyOf"])
def test_a_schema_of_nothing_but_itself_has_no_parameters(key: str) -> None:
    began = time.process_time()
    tool = read_tool({"name": "f", "parameters": {"type": "object", key: [{"$ref": "#"}] * 9}})
    assert tool.parameters.get("properties", {}) == {}
    assert time.process_time() - began < 1
