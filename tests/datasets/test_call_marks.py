"""Calls in the text of an assistant: read where the notation is known, a fault where it is not; never an answer in words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cahl_pl.datasets.call_marks import unread_call
from cahl_pl.datasets.formats.table import FORMATS, form_of
from cahl_pl.errors import DataError
from cahl_pl.types import Task, ToolSpec

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [{"name": name, "description": "Look.", "parameters": PARAMETERS} for name in ("weather", "clock")]
CALL = '{"name": "weather", "arguments": {"city": "Oslo"}}'
GLAIVE_CALL = '{"name": "weather", "arguments": \'{"city": "Oslo"}\'}'


def row_of(form: str, text: str) -> dict[str, Any]:
    """Return a row of a format whose one turn of the assistant is this text."""
    asked = {"role": "user", "content": "Rain in Oslo?"}
    if form == "sharegpt":
        turns = [{"from": "human", "value": "Rain in Oslo?"}, {"from": "gpt", "value": text}]
        return {"conversations": turns, "tools": json.dumps(TOOLS)}
    if form == "glaive":
        return {
            "system": f"SYSTEM: Use {json.dumps(TOOLS[0])}",
            "chat": f"USER: q\n\n\nASSISTANT: {text} <|endoftext|>",
        }
    if form == "toolace":
        turns = [{"from": "user", "value": "Rain in Oslo?"}, {"from": "assistant", "value": text}]
        return {"system": json.dumps(TOOLS), "conversations": turns}
    tools = [{"type": "function", "function": tool} for tool in TOOLS]
    if form == "anthropic":
        tools = [{"name": tool["name"], "input_schema": PARAMETERS} for tool in TOOLS]
    return {"messages": [asked, {"role": "assistant", "content": text}], "tools": tools}


def only(row: dict[str, Any]) -> Task | DataError:
    form = form_of(row)
    assert form is not None
    (found,) = FORMATS[form].tasks(row, "r")
    return found


@pytest.mark.parametrize(
    "text",
    [
        f"<TOOL_CALL>{CALL}</TOOL_CALL>",
        f"< tool_call >{CALL}</ tool_call>",
        f"<toolcall>{CALL}</toolcall>",
        f"<tool_calls>[{CALL}]</tool_calls>",
        f"<tool_calls><tool_call>{CALL}</tool_call></tool_calls>",
        f"<functioncall> {GLAIVE_CALL}",
        f"< functioncall > {GLAIVE_CALL}",
        f"<FunctionCall> {GLAIVE_CALL}",
        f"<function_call>{CALL}</function_call>",
    ],
)
@pytest.mark.parametrize("form", ["sharegpt", "hermes", "glaive"])
def test_a_known_tag_is_read_in_any_spelling(form: str, text: str) -> None:
    found = only(row_of(form, text))
    assert isinstance(found, Task)
    assert [(gold.name, dict(gold.arguments)) for gold in found.gold] == [("weather", {"city": "Oslo"})]
    assert found.answer is None


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("<start_function_call>call:weather{}<end_function_call>", "<start_function_call>"),
        ("<function_calls></function_calls>", "<function_calls>"),
        ("I call {'function': 'weather'}.", "JSON that names the tool 'weather'"),
        (f"So:\n```json\n{CALL}\n```", "JSON that names the tool 'weather'"),
        ('weather(city="Oslo")', "the code weather(...)"),
    ],
)
@pytest.mark.parametrize("form", ["sharegpt", "openai", "anthropic", "toolace", "glaive"])
def test_another_notation_is_a_fault_that_names_it(form: str, text: str, mark: str) -> None:
    found = only(row_of(form, text))
    assert isinstance(found, DataError)
    assert "holds a call in a notation that is not read" in str(found)
    assert mark in str(found)


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        (f"[TOOL_CALLS] [{CALL}]", "[TOOL_CALLS]"),
        (f"<|python_tag|>{CALL}", "<|python_tag|>"),
        ("<\uff5ctool\u2581calls\u2581begin\uff5c>function", "<\uff5ctool\u2581calls\u2581begin\uff5c>"),
        ('<function=weather>{"city": "Oslo"}</function>', "<function="),
        ('<function_calls><invoke name="weather">', "<function_calls>"),
        ("Thought: x\nAction: weather\nAction Input: Oslo", "Action: weather"),
        (CALL, "JSON that names the tool 'weather'"),
    ],
)
def test_toolace_has_one_notation(text: str, mark: str) -> None:
    found = only(row_of("toolace", text))
    assert isinstance(found, DataError)
    assert f"holds a call in a notation that is not read ({mark}" in str(found)


@pytest.mark.parametrize(
    "text",
    ["Yes, it rains.", 'It is {"name": "Oslo"}.', "The weather (in Oslo) is bad.", "Call me, or use [1].", "a < b > c"],
)
def test_words_hold_no_call(text: str) -> None:
    assert unread_call(text, [ToolSpec("weather", "", PARAMETERS)]) is None


def test_a_turn_after_an_unread_call_is_a_fault_too() -> None:
    row = row_of("openai", f"[TOOL_CALLS] [{CALL}")
    row["messages"] += [{"role": "user", "content": "So?"}, {"role": "assistant", "content": "It rains."}]
    found = list(FORMATS["openai"].tasks(row, "r"))
    assert ["message 2: the call that starts with '[TOOL_CALLS]': not JSON" in str(one) for one in found] == [
        True,
        True,
    ]
