from __future__ import annotations

import json
from pathlib import Path

import pytest

from cahl_pl.environments import PythonTools, PythonToolsEnvironment
from cahl_pl.types import Message, Task, ToolCall

FILE = Path(__file__).with_name("every_style.py")
PRIORITY = {"type": "string", "enum": ["low", "high"]}
ITEM = {
    "type": "object",
    "properties": {"sku": {"type": "string"}, "quantity": {"type": "integer"}},
    "required": ["sku", "quantity"],
}
POINT = {
    "type": "object",
    "properties": {"x": {"type": "number"}, "y": {"type": "number", "default": 0.0}},
    "required": ["x"],
}


@pytest.fixture(scope="module")
def tools():
    with pytest.warns(UserWarning, match="functions without a docstring are not offered: helper$"):
        return PythonTools(str(FILE))


@pytest.fixture(scope="module")
def session(tools):
    environment = PythonToolsEnvironment(str(FILE))  # which names the functions that are not offered no second time
    return environment.start(Task("t", (Message("user", "q"),), tools.specs, state={}))


def parameter(tools, tool, name):
    (spec,) = [spec for spec in tools.specs if spec.name == tool]
    return spec.parameters["properties"][name]


def test_all_of_them_are_tools(tools):
    names = [spec.name for spec in tools.specs]
    assert len(names) == 40
    assert {"greet", "greet_ann", "times_ten", "shop", "cached", "waits"} <= set(names)
    assert not {"helper", "Shop", "Priority"} & set(names)


@pytest.mark.parametrize(
    ("tool", "name", "schema"),
    [
        ("google_typed", "city", {"type": "string", "description": "Name of the city."}),
        (
            "google_typed",
            "days",
            {"type": "integer", "default": 1, "description": "How many days ahead. Defaults to 1."},
        ),
        ("google_arguments", "text", {"type": "string", "description": "What to say, in one or more lines."}),
        ("numpy_style", "values", {"type": "array", "items": {"type": "number"}, "description": "The numbers."}),
        (
            "numpy_style",
            "mode",
            {"type": "string", "enum": ["mean", "sum"], "default": "mean", "description": "What to compute."},
        ),
        ("sphinx_style", "a", {"type": "integer", "description": "The first number."}),
        ("sphinx_style", "b", {"type": "integer", "description": "The second number."}),
        ("sphinx_mixed", "where", {"type": ["string", "null"], "description": "The place."}),
        ("epydoc_style", "n", {"type": "integer", "description": "the number"}),
        ("one_line", "a", {"type": "integer"}),
        ("enum_value", "priority", PRIORITY),
        ("int_enum", "level", {"type": "integer", "enum": [1, 2], "default": 1}),
        ("literal", "unit", {"type": "string", "enum": ["km", "mile"]}),
        ("day_after", "day", {"type": "string", "format": "date"}),
        ("alarm", "at", {"type": "string", "format": "time"}),
        ("price", "net", {"type": "number"}),
        ("by_id", "order", {"type": "string", "format": "uuid"}),
        (
            "ship",
            "to",
            {
                "type": "object",
                "description": "Where a parcel goes.",
                "properties": {
                    "street": {"type": "string"},
                    "city": {"type": "string", "default": "Ulm"},
                    "tags": {"type": "array", "items": {"type": "string"}},
                },
                "required": ["street"],
            },
        ),
        ("count_items", "items", {"type": "array", "items": ITEM}),
        ("move", "start", POINT),
        (
            "place",
            "order",
            {
                "type": "object",
                "properties": {
                    "number": {"type": "integer", "minimum": 1, "description": "Number of the order."},
                    "items": {"type": "array", "items": ITEM},
                    "priority": {**PRIORITY, "default": "low"},
                },
                "required": ["number", "items"],
            },
        ),
        ("optional_union", "key", {"type": ["integer", "string"]}),
        ("unique", "words", {"type": "array", "items": {"type": "string"}, "uniqueItems": True}),
        ("nested", "table", {"type": "object", "additionalProperties": {"type": "array", "items": ITEM}}),
        ("nested", "extra", {"type": "object", "default": {}}),
        ("annotated", "count", {"type": "integer", "minimum": 0, "maximum": 9, "description": "How many."}),
        ("annotated", "name", {"type": "string", "default": "me", "description": "Whose."}),
        ("with_field", "limit", {"type": "integer", "maximum": 10, "default": 3}),
        ("variadic", "numbers", {"type": "array", "items": {"type": "number"}, "default": []}),
        ("greet", "customer", {"type": "string", "description": "Who comes in."}),
        ("shop", "question", {"type": "string"}),
    ],
)
def test_what_a_model_reads(tools, tool, name, schema):
    assert parameter(tools, tool, name) == schema


def test_parameters_that_are_not_for_the_model(tools):
    by_name = {spec.name: spec for spec in tools.specs}
    assert list(by_name["remember"].parameters["properties"]) == ["text"]
    assert by_name["greet_ann"].parameters == {"type": "object", "properties": {}}
    assert list(by_name["times_ten"].parameters["properties"]) == ["b"]
    assert list(by_name["variadic"].parameters["properties"]) == ["numbers"]
    assert "required" not in by_name["sphinx_mixed"].parameters
    assert by_name["with_field"].parameters["required"] == ["query"]


def test_a_type_that_holds_itself_keeps_its_definition(tools):
    (spec,) = [spec for spec in tools.specs if spec.name == "depth"]
    assert spec.parameters["properties"]["tree"] == {"$ref": "#/$defs/Node"}
    assert spec.parameters["$defs"]["Node"]["properties"]["children"]["items"] == {"$ref": "#/$defs/Node"}


ITEMS = [{"sku": "a", "quantity": 2}, {"sku": "b", "quantity": 3}]


@pytest.mark.parametrize(
    ("tool", "arguments", "answer"),
    [
        ("google_typed", {"city": "Ulm", "days": "3"}, "Ulm 3"),
        ("google_typed", {"city": "Ulm"}, "Ulm 1"),
        ("google_arguments", {"text": "hi", "upper": True}, "HI"),
        ("numpy_style", {"values": [1, 2, 3], "mode": "sum"}, 6.0),
        ("sphinx_style", {"a": 1, "b": 2}, 3),
        ("sphinx_mixed", {}, "nowhere"),
        ("epydoc_style", {"n": 4}, 8),
        ("one_line", {"a": 3, "b": 4}, 12),
        ("enum_value", {"priority": "high"}, "high"),
        ("int_enum", {"level": 2}, 2),
        ("int_enum", {}, 1),
        ("literal", {"unit": "km"}, "km"),
        ("day_after", {"day": "2024-02-28"}, "2024-02-29"),
        ("hours_between", {"start": "2024-01-01T00:00:00", "end": "2024-01-01T06:30:00"}, 6.5),
        ("alarm", {"at": "07:30:59"}, "07:30:00"),
        ("price", {"net": 10}, "11.90"),
        ("price", {"net": 0.1}, "0.119"),
        ("by_id", {"order": "12345678-1234-5678-1234-567812345678"}, "12345678123456781234567812345678"),
        ("suffix", {"path": "a/b.txt"}, ".txt"),
        ("ship", {"to": {"street": "high street"}}, {"street": "High Street", "city": "Ulm", "tags": ["sent"]}),
        ("count_items", {"items": ITEMS}, 5),
        ("move", {"start": {"x": 1, "y": 2}}, {"x": 2.0, "y": 2.0}),
        ("place", {"order": {"number": 7, "items": ITEMS}}, {"number": 7, "items": ITEMS, "priority": "high"}),
        ("depth", {"tree": {"name": "a", "children": [{"name": "b"}]}}, 2),
        ("optional_union", {"key": "3"}, "str None"),
        ("optional_union", {"key": 3, "note": "n"}, "int n"),
        ("unique", {"words": ["b", "a"], "order": [1]}, ["a", "b", "tuple"]),
        ("nested", {"table": {"k": ITEMS}}, {"k": 2}),
        ("sequence", {"numbers": [3, 1], "more": [2]}, [1, 2, 3]),
        ("annotated", {"count": 4}, "4 me"),
        ("with_field", {"query": "x"}, "x 3"),
        ("variadic", {"numbers": [1, 2.5]}, 3.5),
        ("variadic", {}, 0),
        ("positional", {"x": 1, "schema": 5}, [1, 2, 5]),
        ("waits", {"seconds": 0}, "done"),
        ("streams", {"n": 3}, [0, 1, 2]),
        ("as_json", {"x": 3}, {"x": 3}),
        ("cached", {"n": 5}, 25),
        ("greet", {"customer": "Bo"}, "Corner greets Bo"),
        ("greet_ann", {}, "Corner greets Ann"),
        ("times_ten", {"b": 3}, 30),
        ("shop", {"question": "open?"}, "Corner: open?"),
    ],
)
def test_values_come_in_as_declared_and_go_out_as_json(session, tool, arguments, answer):
    feedback = session.call(ToolCall(tool, arguments))
    assert (json.loads(feedback.text), feedback.error) == (answer, None)


def test_a_state_is_the_sessions_own(session):
    assert session.call(ToolCall("remember", {"text": "a"})).text == "1"
    assert session.call(ToolCall("remember", {"text": "b"})).text == "2"


def test_an_endless_answer_ends(session):
    text = session.call(ToolCall("endless", {})).text
    assert text.startswith("[0, 1, 2, 3")
    assert len(text) == 2000


@pytest.mark.parametrize(
    ("tool", "arguments", "message", "error"),
    [
        ("day_after", {"day": "tomorrow"}, "parameter 'day': input should be a valid date or datetime", "type"),
        ("by_id", {"order": "7"}, "parameter 'order': input should be a valid UUID", "type"),
        ("price", {"net": "much"}, "parameter 'net' of price", "type"),
        ("enum_value", {"priority": "middle"}, "'middle' is not one of ['low', 'high']", "type"),
        ("place", {"order": {"number": 0, "items": []}}, "0 is less than the minimum of 1", "type"),
        ("thing", {}, "the tool's result holds something that JSON has no form for: object", "tool"),
    ],
)
def test_what_does_not_fit_is_told_to_the_model(session, tool, arguments, message, error):
    feedback = session.call(ToolCall(tool, arguments))
    assert feedback.error == error
    assert message in json.loads(feedback.text)["error"]
