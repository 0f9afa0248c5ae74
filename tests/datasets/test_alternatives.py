"""Rows with several right lists of gold calls."""

from __future__ import annotations

import json
from random import Random

import pytest

from cahl_pl.datasets.fitness import check_tasks
from cahl_pl.datasets.jsonl import JsonlDataset, row_to_task, task_to_row
from cahl_pl.datasets.masking import mask_names
from cahl_pl.datasets.task_parts import fit_tools
from cahl_pl.errors import DataError
from cahl_pl.rollout.gold import gold_plan
from cahl_pl.toolworld import ToolWorld2

CITY = {
    "name": "get_city",
    "description": "City of a person.",
    "parameters": {"properties": {"name": {"type": "string"}}},
}
WEATHER = {"name": "get_weather", "description": "Weather.", "parameters": {"properties": {"city": {"type": "string"}}}}
BY_NAME = {"name": "weather_of", "description": "Weather.", "parameters": {"properties": {"name": {"type": "string"}}}}


def row(**fields):
    return {
        "id": "r",
        "messages": [{"role": "user", "content": "How is the weather at Bero's?"}],
        "tools": [CITY, WEATHER, BY_NAME],
        "gold": [{"name": "weather_of", "arguments": {"name": "Bero"}, "instruction": "the weather at Bero's"}],
        "alternatives": [
            [
                {"name": "get_city", "arguments": {"name": "Bero"}, "result": "Rome"},
                {"name": "get_weather", "arguments": {"city": "$1"}},
            ]
        ],
        **fields,
    }


def test_other_ways_are_read_like_gold():
    task = row_to_task(row())
    (way,) = task.alternatives
    assert [call.name for call in way] == ["get_city", "get_weather"]
    assert way[1].arguments == {"city": "Rome"}
    assert way[1].references == {"city": "$1"}
    assert task.gold[0].instruction == "the weather at Bero's"
    assert row_to_task(task_to_row(task)) == task


def test_a_plan_in_words_takes_the_instruction_or_lists_the_values():
    task = row_to_task(row())
    assert [(step.instruction, dict(step.parameters)) for step in gold_plan(task, in_words=True)] == [
        ("the weather at Bero's", {})
    ]
    other = row_to_task(row(gold=row()["alternatives"][0], alternatives=[]))
    assert [step.instruction for step in gold_plan(other, in_words=True)] == ["City of a person: Bero", "Weather: $1"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"alternatives": [[]]},
            "'alternatives' holds other ways to what 'gold' does; each of them, and 'gold', needs a call",
        ),
        ({"gold": []}, "needs a call"),
        ({"alternatives": [[{"name": "get_city"}]]}, "'alternatives, 1', call 1: the field 'arguments' is missing"),
        ({"alternatives": [{"name": "get_city"}]}, "'alternatives, 1' must be a list"),
        ({"alternative": []}, "did you mean 'alternatives'"),
        ({"gold": [{"name": "weather_of", "arguments": {}, "instruction": 3}]}, "'instruction' must be text"),
    ],
)
def test_a_mistake_in_one_is_told(fields, words):
    with pytest.raises(DataError, match=words):
        row_to_task(row(**fields))


def test_a_typo_in_an_alternative_costs_the_row(tmp_path):
    wrong = row(alternatives=[[{"name": "get_wether", "arguments": {"city": "Rome"}}]])
    (tmp_path / "rows.jsonl").write_text(json.dumps(wrong) + "\n" + json.dumps(row(id="s")))
    data = JsonlDataset(str(tmp_path / "rows.jsonl"))
    assert len(data) == 1
    assert "alternative 1: gold call 1" in str(data.report)
    assert "did you mean 'get_weather'" in str(data.report)


def test_for_an_alternative_no_schema_is_relaxed_and_values_take_their_types():
    tools = [{**WEATHER, "parameters": {"properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}}]

    def way(days):
        return [{"name": "get_weather", "arguments": {"city": "Rome", "days": days}}]

    task, reasons = fit_tools(row_to_task(row(tools=tools, gold=way("3"), alternatives=[way("3")])))
    assert [calls[0].arguments["days"] for calls in task.ways] == [3, 3]
    assert reasons == []
    with pytest.raises(DataError, match=r"alternative 1: gold call 1: .*days.*: correct it"):
        fit_tools(row_to_task(row(tools=tools, gold=way("3"), alternatives=[way("some")])))


FETCH = {"name": "get_city", "arguments": {"name": "Bero"}, "result": "Rome"}


@pytest.mark.parametrize(
    ("instruction", "words"),
    [
        ("  ", "'instruction' is blank"),
        ("weather", r"does not say \$1, which the call's references need"),
        ("weather in $2", r"does not say \$1"),
        ("weather in $1 and $4", r"says \$4, to which the call's references do not refer"),
        ("weather in $1 " + "x" * 2000, "has 2,014 characters, and 2,000 are the most"),
    ],
)
def test_an_instruction_has_to_say_what_its_call_needs(instruction, words):
    gold = [FETCH, {"name": "get_weather", "arguments": {"city": "$1"}, "instruction": instruction}]
    with pytest.raises(DataError, match=words):
        row_to_task(row(gold=gold, alternatives=[]))


def test_amounts_are_no_references():
    calls = [
        FETCH,
        {"name": "get_weather", "arguments": {"city": "$1"}, "instruction": "weather in $1 below $1.50 or $1,000"},
    ]
    assert row_to_task(row(gold=calls, alternatives=[])).gold[1].instruction.endswith("$1,000")
    alone = [{"name": "weather_of", "arguments": {"name": "Bero"}, "instruction": "Bero owes me $5"}]
    assert row_to_task(row(gold=alone, alternatives=[])).gold[0].instruction == "Bero owes me $5"


def test_names_are_masked_in_every_way():
    masked = mask_names(row_to_task(row()), Random(0))
    names = {tool.name for tool in masked.tools}
    assert {call.name for way in masked.ways for call in way} == names
    assert all(
        set(call.arguments) <= set(masked.tool(call.name).parameters["properties"])
        for way in masked.ways
        for call in way
    )


def test_the_shortest_way_has_to_fit_into_the_steps():
    long = row_to_task(row(gold=row()["alternatives"][0], alternatives=[row()["gold"]]))
    _, faults = check_tasks([long], lambda task: 1, 100, 1, None, run_gold=False)
    assert faults == []
    _, faults = check_tasks(
        [row_to_task(row(gold=row()["alternatives"][0], alternatives=[]))], lambda t: 1, 100, 1, None, False
    )
    assert len(faults) == 1


def test_toolworld_2_is_written_and_read_back():
    for task in (ToolWorld2("test", 20)[i] for i in range(20)):
        back = row_to_task(json.loads(json.dumps(task_to_row(task))))
        assert back == task
