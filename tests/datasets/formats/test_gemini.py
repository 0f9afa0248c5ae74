"""Rows of Gemini's API, as Vertex AI is tuned with."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from cahl_pl.datasets.formats.table import FORMATS, form_of
from cahl_pl.datasets.jsonl import read_any
from cahl_pl.errors import DataError
from cahl_pl.types import NO_RESULT, Task

CITY = {"type": "OBJECT", "properties": {"city": {"type": "STRING"}}, "required": ["city"]}
WEATHER = {"name": "weather", "parameters": CITY}
CLOCK = {"name": "clock", "parameters": {"type": "OBJECT", "properties": {"zone": {"type": "STRING", "nullable": True}}}}
ROW: dict[str, Any] = {
    "systemInstruction": {"role": "system", "parts": [{"text": "Be brief."}]},
    "contents": [
        {"role": "user", "parts": [{"text": "Rain in Oslo,"}, {"text": "and the time?"}]},
        {
            "role": "model",
            "parts": [
                {"text": "Two calls.", "thought": True},
                {"functionCall": {"name": "weather", "args": {"city": "Oslo"}}, "thoughtSignature": "x"},
                {"functionCall": {"name": "clock"}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"name": "clock", "response": {"hour": 7}}},
                {"functionResponse": {"name": "weather", "response": {"error": "no such city"}}},
            ],
        },
        {"role": "model", "parts": [{"text": "At 7, and I do not know."}]},
        {"role": "user", "parts": [{"text": "Thanks."}]},
        {"role": "model", "parts": [{"text": "You are welcome."}]},
    ],
    "tools": [{"functionDeclarations": [WEATHER]}, {"functionDeclarations": [CLOCK]}],
}


def changed(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    row = copy.deepcopy(ROW)
    change(row)
    return row


def test_a_dialogue_gives_a_task_for_each_turn_that_calls_or_answers() -> None:
    assert form_of(ROW) == "gemini"
    called, answered = FORMATS["gemini"].tasks(ROW, "r")
    assert isinstance(called, Task)
    assert isinstance(answered, Task)
    assert [(m.role, m.content) for m in called.messages] == [("system", "Be brief."), ("user", "Rain in Oslo,\nand the time?")]
    assert [(gold.name, dict(gold.arguments), gold.result) for gold in called.gold] == [
        ("weather", {"city": "Oslo"}, {"error": "no such city"}), ("clock", {}, {"hour": 7}),
    ]  # fmt: skip
    assert [tool.name for tool in called.tools] == ["weather", "clock"]
    assert called.tools[0].parameters["properties"] == {"city": {"type": "string"}}
    assert (answered.gold, answered.answer) == ((), "You are welcome.")
    assert [message.content for message in answered.messages[3:5]] == ['{"error": "no such city"}', '{"hour": 7}']


def test_names_as_python_writes_them_are_read() -> None:
    call = {"role": "model", "parts": [{"function_call": {"name": "weather", "args": {"city": "Oslo"}}}]}
    row = {
        "system_instruction": "Be brief.", "contents": [{"parts": [{"text": "Rain?"}]}, call],
        "tools": [{"function_declarations": [WEATHER]}],
    }  # fmt: skip
    task = read_any(row, "r")
    assert [message.content for message in task.messages] == ["Be brief.", "Rain?"]
    assert [(gold.name, dict(gold.arguments), gold.result) for gold in task.gold] == [("weather", {"city": "Oslo"}, NO_RESULT)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda row: row.pop("tools"), "the field 'tools' is missing: without the tools"),
        (lambda row: row["tools"].append({"googleSearch": {}}), "tool 3: it is 'googleSearch', a tool that its provider runs"),
        (lambda row: row["contents"][0].update(role="human"), "content 1: the role 'human' must be one of user, model"),
        (lambda row: row["contents"][0]["parts"].append({"inlineData": {}}), "content 1: part 3: it is 'inlineData' of the"),
        (lambda row: row["contents"][1]["parts"][1]["functionCall"].update(input={}), "part 2: there is no field 'input' of a"),
        (lambda row: row["contents"][1]["parts"][1]["functionCall"].update(args=[]), "part 2: the field 'args' must be an obj"),
        (lambda row: row["contents"][2]["parts"].pop(), "the answer is by 'clock', but the call at its place is"),
        (lambda row: row["contents"][1]["parts"].append("x"), "part 4: there must be an object, not text"),
    ],
)
def test_what_cannot_be_read_is_told(change: Callable[[dict[str, Any]], Any], said: str) -> None:
    row = changed(change)
    row["contents"] = row["contents"][:4]  # its one task is the first turn's
    with pytest.raises(DataError) as error:
        read_any(row, "r")
    assert said in str(error.value)
