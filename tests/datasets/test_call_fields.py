"""Calls in fields of a message beside its text: read where they are OpenAI's, a fault by name where not; never no call."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cahl_pl.datasets.convert import convert, read_source
from cahl_pl.datasets.formats.table import FORMATS
from cahl_pl.datasets.jsonl import read_any
from cahl_pl.errors import DataError
from cahl_pl.types import Task

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "d", "parameters": PARAMETERS}}]
ASK = {"role": "user", "content": "Rain in Oslo?"}
OSLO = {"city": "Oslo"}
FUNCTION = {"name": "get_weather", "arguments": json.dumps(OSLO)}
CALL = {"id": "c1", "type": "function", "function": FUNCTION}


def row_of(form: str, text: Any = "Let me look.", **fields: Any) -> dict[str, Any]:
    """Return a row whose one turn of the assistant says the text and has the fields."""
    if form == "sharegpt":
        return {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": text} | fields], "tools": TOOLS}
    tools: list[Any] = [{"name": "get_weather", "input_schema": PARAMETERS}] if form == "anthropic" else TOOLS
    return {"messages": [ASK, {"role": "assistant", "content": text} | fields], "tools": tools}


def only(form: str, row: dict[str, Any]) -> Task:
    (task,) = FORMATS[form].tasks(row, "r")
    if isinstance(task, DataError):
        raise task
    return task


@pytest.mark.parametrize("form", ["openai", "sharegpt", "hermes"])
@pytest.mark.parametrize("text", ["Let me look.", "", None])
@pytest.mark.parametrize(
    "fields", [{"tool_calls": [CALL]}, {"function_call": FUNCTION}, {"tool_calls": None, "function_call": FUNCTION}]
)
def test_calls_beside_text_are_read_by_every_reader_of_text(form: str, text: str | None, fields: dict[str, Any]) -> None:
    for row in (row_of(form, text, **fields), row_of("openai", text, **fields)):
        task = only(form, row)
        assert [(gold.name, dict(gold.arguments)) for gold in task.gold] == [("get_weather", OSLO)]
        assert task.answer is None


def test_a_row_of_sharegpt_with_calls_in_fields_is_read_with_its_answers() -> None:
    second = CALL | {"id": "c2", "function": FUNCTION | {"arguments": '{"city": "Rome"}'}}
    row = row_of("sharegpt", tool_calls=[CALL, second])
    answers = (("sun", "c2"), ("rain", "c1"))
    row["conversations"] += [{"from": "tool", "value": text, "tool_call_id": call} for text, call in answers]
    gold = read_any(row, "r").gold
    assert [(dict(one.arguments), one.result) for one in gold] == [(OSLO, "rain"), ({"city": "Rome"}, "sun")]


@pytest.mark.parametrize("form", ["sharegpt", "hermes"])
def test_calls_in_the_text_and_in_a_field_are_one_if_they_are_the_same(form: str) -> None:
    tagged = 'Ok.<tool_call>{"name": "get_weather", "arguments": {"city": "%s"}}</tool_call>'
    assert len(only(form, row_of(form, tagged % "Oslo", tool_calls=[CALL])).gold) == 1
    with pytest.raises(DataError, match="the calls in the text are others than those in the field 'tool_calls'"):
        only(form, row_of(form, tagged % "Rome", tool_calls=[CALL]))


def test_anthropic_s_reader_names_the_right_one(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps(row_of("openai", tool_calls=[CALL])))
    with pytest.raises(DataError, match=r"'tool_calls' is none of Anthropic's .*; the row is one of openai: convert-data"):
        convert(read_source("anthropic", tmp_path / "in.jsonl"), "in", tmp_path / "out.jsonl")
    with pytest.raises(DataError, match="the field 'function_call' is none of Anthropic's messages"):
        only("anthropic", row_of("anthropic", function_call=FUNCTION))


GIVEN = {"toolName": "get_weather", "args": OSLO}
LOST: dict[str, dict[str, Any]] = {
    "toolInvocations": {"toolInvocations": [{"state": "result", "toolCallId": "c1", "result": "5 C"} | GIVEN]},
    "parts": {"parts": [{"type": "text", "text": "x"}, {"type": "tool-get_weather", "input": OSLO, "output": "5 C"}]},
    "parts.type": {"parts": [{"type": "dynamic-tool", "input": OSLO}]},
    "additional_kwargs.tool_calls": {"additional_kwargs": {"tool_calls": [CALL]}},
    "additional_kwargs": {"additional_kwargs": json.dumps({"tool_calls": [CALL]})},
    "blocks": {"blocks": [{"block_type": "tool_call", "tool_name": "get_weather", "tool_kwargs": OSLO}]},
    "tool_uses": {"tool_uses": [{"name": "get_weather", "input": OSLO}]},
    "tool_call": {"tool_call": CALL},
    "toolCalls": {"toolCalls": [CALL]},
    "invalid_tool_calls": {"invalid_tool_calls": [{"name": "get_weather", "args": "{"}]},
    "tool_name": {"tool_name": "get_weather"},
    "actions": {"actions": [{"name": "get_weather", "input": OSLO}]},
    "metadata": {"metadata": {"a": [{"b": {"name": "get_weather", "city": "Oslo"}}]}},
    "extra": {"extra": {"get_weather": OSLO}},
}


@pytest.mark.parametrize("form", ["openai", "sharegpt", "hermes", "anthropic"])
@pytest.mark.parametrize("name", LOST)
def test_calls_in_fields_that_are_not_read_are_a_fault(form: str, name: str) -> None:
    with pytest.raises(DataError, match=f"field '{name}"):
        only(form, row_of(form, **LOST[name]))


@pytest.mark.parametrize("name", LOST)
def test_they_are_a_fault_in_the_dialogue_of_ones_own_rows_too(name: str) -> None:
    said = [ASK, {"role": "assistant", "content": "Hm."} | LOST[name], ASK]
    with pytest.raises(DataError, match=rf"the field 'messages', message 2: .*field '{name}"):
        read_any({"id": "r", "messages": said, "tools": TOOLS, "gold": []}, "r")


def test_a_part_of_text_holds_nothing_else() -> None:
    part = {"type": "text", "text": "Let me look.", "calls": [{"name": "get_weather", "args": OSLO}]}
    with pytest.raises(DataError, match=r"the field 'content.calls' holds a call"):
        only("openai", row_of("openai", [part]))


INNOCENT: dict[str, Any] = {
    "id": "m1",
    "refusal": None,
    "audio": None,
    "annotations": [],
    "reasoning_content": '{"name": "get_weather", "arguments": {}}',
    "weight": 1,
    "tool_calls": [],
    "function_call": None,
    "tool_call_id": None,
    "invalid_tool_calls": [],
    "additional_kwargs": {"refusal": None, "tool_calls": []},
    "response_metadata": {"finish_reason": "stop", "model_name": "m", "token_usage": {"prompt_tokens": 3}},
    "usage_metadata": {"input_tokens": 3, "tool_use_prompt_token_count": 0},
    "tool_plan": "I say it.",
    "is_tool_call": False,
    "timestamp": "2026-01-01",
    "recall": "high",
    "parts": [{"type": "text", "text": "Let me look."}],
}


@pytest.mark.parametrize("form", ["openai", "sharegpt", "hermes", "anthropic"])
def test_metadata_is_left_alone(form: str) -> None:
    task = only(form, row_of(form, "It rains.", **INNOCENT))
    assert (task.gold, task.answer) == ((), "It rains.")


def test_a_turn_whose_calls_are_read_may_hold_copies_of_them() -> None:
    task = only("openai", row_of("openai", tool_calls=[CALL], additional_kwargs={"tool_calls": [CALL]}))
    assert len(task.gold) == 1


def test_what_an_answer_cites_is_no_call() -> None:
    cited = [{"start": 0, "end": 4, "text": "Rain", "sources": [{"type": "tool", "id": "c1:0", "tool_output": {"t": 3}}]}]
    assert read_any(row_of("openai", "Rain", citations=cited, annotations=cited), "r").answer == "Rain"
