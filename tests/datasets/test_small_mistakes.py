"""Mistakes that people make in their files: each is one sentence that says where, what, and what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cahl_pl.commands import console

PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["celsius", "kelvin"]}},
    "required": ["city"],
}
TOOL = {"type": "function", "function": {"name": "find_weather", "description": "Look.", "parameters": PARAMETERS}}
GOLD = {"name": "find_weather", "arguments": {"city": "Oslo"}}
ASK = {"role": "user", "content": "Weather in Oslo?"}
CALL = {"id": "a", "type": "function", "function": {"name": "find_weather", "arguments": '{"city": "Oslo"}'}}


def row(**change: Any) -> str:
    made = {"id": "r", "messages": [ASK], "tools": [TOOL], "gold": [GOLD]} | change
    return json.dumps({key: value for key, value in made.items() if value is not ...})


def gold(**change: Any) -> str:
    return row(gold=[{key: value for key, value in (GOLD | change).items() if value is not ...}])


def tool(function: Any = None, **change: Any) -> str:
    return row(tools=[{"type": "function", "function": (TOOL["function"] | change) if function is None else function}])


def schema(**change: Any) -> str:
    return tool(parameters=PARAMETERS | change)


def said(*messages: Any) -> str:
    return row(messages=[ASK, *messages])


# (a file or a line, what its place is, what is said of it)
MISTAKES: list[tuple[str | bytes, str, str]] = [
    # files
    ("id,messages\nr,x\n", "rows.csv", "this is a table, and rows of tasks are nested"),
    (
        '{\n "id": "r"\n}\n',
        "rows.jsonl",
        "an object goes over several lines, from line 1 to 3: write each row on one line",
    ),
    (b'{"id": "\xe9"}', "rows.jsonl, line 1", "byte 8 is not UTF-8; convert the file to UTF-8, from WINDOWS-1252"),
    (b"\x1f\x8b\x08", "rows.jsonl", "the file is packed by gzip; unpack it first"),
    (b"PK\x03\x04", "rows.jsonl", "the file is packed by zip; unpack it first"),
    ("", "rows.jsonl", "no row can be used; check that this is the right file and format"),
    (f"[{row()}]", "rows.jsonl", "one JSON object a line is needed, not a list or parquet"),
    # lines
    ("{'id': 'r'}", "line 1", "not JSON: Expecting property name"),
    (row()[:-1], "line 1", "not JSON: Expecting"),
    (row() + ",", "line 1", "not JSON: there is more text after the value"),
    ('{"id": NaN}', "line 1", "NaN is not JSON"),
    ('{"id": "r", "id": "s"}', "line 1", "the key 'id' appears twice in one object"),
    ('"text"', "line 1", "there must be an object with the field 'id', not a str"),
    # fields of a row
    (row(id=...), "line 1", "the field 'id' is missing"),
    (row(id=7), "line 1", "the field 'id' must be a str, but is a int"),
    (row(gold=..., golds=[], ordered=True), "line 1", "there is no field 'golds'; did you mean 'gold'?"),
    (row(gold=..., ordered=True), "line 1", "the field 'gold' is missing"),
    (row(tools=...), "line 1", "the field 'tools' is missing; a module of Python functions can stand in for it"),
    (row(ordered="yes"), "line 1", "the field 'ordered' must be a bool"),
    (row(answer=" ", gold=[]), "line 1", "the field 'answer' is blank; leave it out"),
    (row(tags={"n": 1}), "line 1", "the field 'tags' must hold text only"),
    # tools
    (row(tools=[3]), "line 1", "the field 'tools', tool 1: a tool must be an object with a name and parameters"),
    (tool({"description": "x"}), "line 1", "the field 'tools', tool 1: the field 'name' is missing"),
    (tool(name=""), "line 1", "the field 'tools', tool 1: the name is empty"),
    (
        tool({"name": "f", "paramters": {}}),
        "line 1",
        "there is no field 'paramters' of a tool; did you mean 'parameters'?",
    ),
    (schema(properties={"city": {"type": "strng"}}), "line 1", "there is no type 'strng'; did you mean \"string\"?"),
    (schema(properties={"city": {"type": "date"}}), "line 1", "there is no type 'date'; use one of string, integer"),
    (schema(required=["town"]), "line 1", "the field 'required' names 'town', which is not among 'properties'"),
    (schema(required="city"), "line 1", "parameters are not valid JSON Schema: required:"),
    (tool(parameters=["city"]), "line 1", "the field 'parameters' must be JSON Schema, an object, but is a list"),
    # gold
    (
        gold(name="find_wether"),
        "line 1",
        "no tool is named 'find_wether'; offered: find_weather; did you mean 'find_weather'?",
    ),
    (row(tools=[]), "line 1", "no tool is named 'find_weather'; offered: none; correct the name, or offer the tool"),
    (gold(name=""), "line 1", "the field 'gold', call 1: the field 'name' is empty"),
    (
        gold(arguments={"citty": "Oslo"}),
        "line 1",
        "has no parameter 'citty'; declared: city, unit; did you mean 'city'?",
    ),
    (
        gold(arguments={"city": "Oslo", "unit": "celcius"}),
        "line 1",
        "is not one of ['celsius', 'kelvin']; did you mean 'cel",
    ),
    (
        gold(arguments=...),
        "line 1",
        "the field 'gold', call 1: the field 'arguments' is missing; a call without any has {}",
    ),
    (gold(arguments="Oslo"), "line 1", "the field 'arguments' is text that is not JSON"),
    (gold(arguments=["Oslo"]), "line 1", "the field 'arguments' must be a dict, but is a list"),
    (gold(results=1), "line 1", "the field 'gold', call 1: there is no field 'results'; did you mean 'result'?"),
    (row(gold=GOLD), "line 1", "the field 'gold' must be a list, but is a dict"),
    (
        row(gold=[GOLD, GOLD | {"arguments": {"city": "$1"}}]),
        "line 1",
        "refers to the result of call 1, but none is stored",
    ),
    (
        row(gold=[GOLD | {"result": "rain"}, GOLD | {"references": {"city": "$1"}}]),
        "line 1",
        "'city' is \"Oslo\", which is not in the result of call 1 that it refers to",
    ),
    (
        row(gold=[GOLD | {"result": {"a": 1}}, GOLD | {"arguments": {"city": "$1.b"}}]),
        "line 1",
        "has no field 'b'; its fields",
    ),
    (gold(arguments={"city": "$1"}), "line 1", "the argument 'city' refers to call 1, which does not come before it"),
    # messages
    (row(messages=[]), "line 1", "the field 'messages' must end with a user's message or a tool's answer"),
    (said({"role": "human", "content": "x"}), "line 1", "message 2: the role 'human' must be one of system, user"),
    (said({"role": "system", "content": "x"}, ASK), "line 1", "message 2: a system message can only come first"),
    (
        said({"role": "user", "content": None}),
        "line 1",
        "message 2: the field 'content' must be a str, but is a NoneType",
    ),
    (
        said({"role": "user", "content": [{"type": "image"}]}),
        "line 1",
        "part 1 is 'image': only parts of text can be read",
    ),
    (said({"role": "assistant", "content": "", "tool_call": [CALL]}, ASK), "line 1", "did you mean 'tool_calls'?"),
    (
        said({"role": "assistant", "tool_calls": [CALL]}, ASK),
        "line 1",
        "message 2: call 1 (find_weather) has no answer",
    ),
    (
        said({"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "b", "content": "x"}),
        "line 1",
        "message 3: the tool_call_id 'b' answers no call; those of its calls are: a",
    ),
    (
        said({"role": "tool", "content": "x"}),
        "line 1",
        "message 2: a tool's answer has to follow a call of the assistant",
    ),
    # other formats
    (
        json.dumps({"query": "q", "calling": []}),
        "line 1",
        "like those of seal-tools: convert-data seal-tools INPUT OUTPUT",
    ),
    (
        json.dumps({"messages": [ASK, {"role": "assistant", "content": "x"}]}),
        "line 1",
        "without the tools that were offered",
    ),
]


def test_there_are_enough_of_them() -> None:
    assert len(MISTAKES) >= 50


@pytest.mark.parametrize(("content", "place", "fault"), MISTAKES, ids=[fault[:50] for _, _, fault in MISTAKES])
def test_a_mistake_is_one_sentence_with_its_place(
    content: str | bytes, place: str, fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / (place if place.startswith("rows.csv") else "rows.jsonl")
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(SystemExit) as end:
        console(["check-data", str(path)])
    assert end.value.code != 0
    captured = capsys.readouterr()
    (line,) = [line for line in (captured.err + captured.out).splitlines() if fault in line]
    assert place in line


def test_a_row_that_is_lost_beside_good_ones_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(row() + "\n" + row(id="s", gold=[GOLD | {"name": "find_wether"}]))
    with pytest.raises(SystemExit, match="1"):
        console(["check-data", str(path)])
    out = capsys.readouterr().out
    assert out.startswith(
        f"{path}: 1 row kept, 0 with a relaxed schema, 1 dropped\n  dropped s: {path}, line 2: gold call 1:"
    )
