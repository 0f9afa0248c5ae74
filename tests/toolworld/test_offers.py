from __future__ import annotations

import copy
from random import Random

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cahl_pl.toolworld import ToolError, toolkit
from cahl_pl.toolworld.offers import json_schema, offer
from cahl_pl.toolworld.tools import TOOLS


def alias(tool, **parameters):
    return {"tool": tool, "parameters": parameters}


STATE = {
    "aliases": {
        "make_deposit": alias("bank.deposit", acct="account", sum="amount"),
        "check_balance": alias("bank.balance", account="account"),
        "add": alias("numbers.add", x="a", y="b"),
        "plan_event": alias("calendar.add_event", title="event", weekday="day"),
        "set_device": alias("home.switch_device", device="device", power="on"),
        "km_to_miles": alias("units.km_to_miles", value="value"),
    },
    "balance": {"KV47": 100},
}


def test_tools_share_and_change_the_state():
    state = copy.deepcopy(STATE)
    tools = toolkit(state)
    assert tools["make_deposit"](acct="KV47", sum=20) == 120
    assert tools["check_balance"](account="KV47") == 120
    assert state["balance"] == {"KV47": 120}


def test_no_state_offers_no_tools():
    assert toolkit(None) == {}


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("add", {"x": 1}, "missing y"),
        ("add", {"x": 1, "y": 2, "z": 3}, "unknown z"),
        ("add", {"x": 1, "y": "2"}, "y must be a integer"),
        ("add", {"x": True, "y": 2}, "x must be a integer"),
        ("add", {"x": 1.5, "y": 2}, "x must be a integer"),
        ("add", {"x": 10**13, "y": 2}, "x is out of range"),
        ("km_to_miles", {"value": float("nan")}, "value is out of range"),
        ("km_to_miles", {"value": float("inf")}, "value is out of range"),
        ("check_balance", {"account": ["KV47"]}, "account must be a string"),
        ("check_balance", {"account": "KV48"}, "no balance for KV48"),
        ("plan_event", {"title": "Zuma", "weekday": "Mon"}, "weekday must be one of Monday, Tuesday"),
        ("set_device", {"device": "DX10", "power": 1}, "power must be a boolean"),
    ],
)
def test_bad_arguments(name, arguments, reason):
    with pytest.raises(ToolError, match=reason):
        toolkit(copy.deepcopy(STATE))[name](**arguments)


def test_numbers_are_read_as_json_schema_reads_them():
    assert toolkit(STATE)["add"](x=2.0, y=3) == 5
    assert toolkit(STATE)["km_to_miles"](value=10) == 6.21


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["hall", "Monday"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(TOOLS)), st.lists(VALUES, min_size=1, max_size=4), st.integers(0, 9))
def test_hostile_arguments_only_raise_tool_errors(tool, values, seed):
    spec, entry = offer(TOOLS[tool], Random(seed))
    call = toolkit({"aliases": {spec.name: entry}})[spec.name]
    arguments = dict(zip([*spec.parameters["properties"], "more"], values, strict=False))
    try:
        result = call(**arguments)
    except ToolError:
        return
    assert isinstance(result, (str, int, float, bool))


def test_json_schemas_of_the_five_types():
    def schema(tool, parameter):
        return json_schema(TOOLS[tool].parameters[parameter])

    assert schema("contacts.email", "name") == {"type": "string"}
    assert schema("bank.deposit", "amount") == {"type": "integer"}
    assert schema("units.km_to_miles", "value") == {"type": "number"}
    assert schema("home.switch_device", "on") == {"type": "boolean"}
    assert schema("travel.flight_price", "cabin") == {
        "type": "string",
        "enum": ["economy", "business", "first"],
    }


@pytest.mark.parametrize("tool", TOOLS.values(), ids=TOOLS)
def test_every_alias_is_offered(tool):
    specs = [offer(tool, Random(seed))[0] for seed in range(500)]
    assert {spec.name for spec in specs} == set(tool.names)
    assert {spec.description for spec in specs} == set(tool.descriptions)
    aliases = {alias for parameter in tool.parameters.values() for alias in parameter.aliases}
    assert {alias for spec in specs for alias in spec.parameters["properties"]} == aliases
    jsonschema.Draft202012Validator.check_schema(specs[0].parameters)
    for spec in specs:
        assert spec.parameters["type"] == "object"
        assert spec.parameters["required"] == list(spec.parameters["properties"])
        assert len(spec.parameters["required"]) == len(tool.parameters)
