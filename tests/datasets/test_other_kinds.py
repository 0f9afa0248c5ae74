"""Files that are no data, rows of other trainings, and tools that nobody can learn to call: one sentence each."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from cahl_pl.datasets import JsonlDataset
from cahl_pl.datasets.convert import convert, read_source
from cahl_pl.datasets.requests import Requests
from cahl_pl.datasets.rows import read_rows
from cahl_pl.datasets.tool_forms import read_tool
from cahl_pl.errors import DataError

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>\n"
ASK = {"role": "user", "content": "q"}
SAY = {"role": "assistant", "content": "a"}
TOOL = {"type": "function", "function": {"name": "w", "parameters": {"type": "object", "properties": {}}}}
ROW = {"id": "a", "messages": [ASK], "tools": [TOOL], "gold": []}


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.parquet"])
@pytest.mark.parametrize(
    ("start", "said"),
    [
        (LFS, "this is a pointer of Git LFS and not the file that it stands for: run git lfs pull"),
        (b"/annex/objects/MD5E-s1--x.jsonl\n", "this is a pointer of git-annex"),
        (PAGE, "this is a web page (HTML), such as a login or an error, that was saved in the place of the data: download"),
        (b"\n \n<HTML lang='en'>", "this is a web page (HTML)"),
        (b"<!-- x --><html>", "this is a web page (HTML)"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "this is XML, such as a store's error"),
        (b"Entry not found", "this is a server's answer ('Entry not found') that was saved in the place of the data"),
        (b"Access to dataset x is restricted.\n", "this is a server's answer ('Access to dataset x is restricted.')"),
    ],
)
def test_what_was_saved_in_the_place_of_data_is_told(tmp_path: Path, name: str, start: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(start)
    with pytest.raises(DataError) as error:
        list(read_rows(tmp_path / name))
    assert f"{name}: {said}" in str(error.value)


@pytest.mark.parametrize(
    ("start", "said"),
    [(LFS, "this is a pointer of Git LFS"), (PAGE, "this is a web page (HTML)"), (b"PAR1", "this is parquet, and JSON is")],
)
def test_a_file_of_tools_is_told_too(tmp_path: Path, start: bytes, said: str) -> None:
    (tmp_path / "tools.json").write_bytes(start)
    with pytest.raises(DataError) as error:
        Requests("Go.", str(tmp_path / "tools.json"))
    assert f"tools.json: {said}" in str(error.value)


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (b"\x1f\x8b\x08", "the file is packed by gzip; unpack it first"),
        (b"PAR1\x15\x04", "not a parquet file that can be read"),
        (b"ARROW1\x00\x00", "this is an Arrow file: write its rows as JSON lines"),
        (b"\x80\x04\x95\x10", "this is a pickle: write its rows as JSON lines"),
        (b"SQLite format 3\x00", "this is an SQLite database"),
        (b"%PDF-1.7\n", "this is a PDF"),
        ("{}\n".encode("utf-16"), "the file is UTF-16, not UTF-8; convert it to UTF-8: iconv"),
        ("{}\n".encode("utf-16-le"), "the file is UTF-16, not UTF-8"),
    ],
)
def test_files_of_other_kinds_are_told(tmp_path: Path, start: bytes, said: str) -> None:
    (tmp_path / "rows.jsonl").write_bytes(start)
    with pytest.raises(DataError) as error:
        JsonlDataset(tmp_path / "rows.jsonl")
    assert f"rows.jsonl: {said}" in str(error.value)


@pytest.mark.parametrize("broken", [b"\x00\x00\x00\x00", b'{"id": "a\x00"}', b'{"id": \x00}'])
def test_nul_bytes_are_told(tmp_path: Path, broken: bytes) -> None:
    (tmp_path / "rows.jsonl").write_bytes(json.dumps(ROW).encode() + b"\n" + broken + b"\n")
    dataset = JsonlDataset(tmp_path / "rows.jsonl")
    assert dataset.report.counts == (1, 0, 1)
    told = "a NUL byte, as where writing broke off: leave such bytes out, tr -d '\\000' < OLD > NEW"
    assert told in dataset.report.dropped[0][1]


def fault(tmp_path: Path, row: dict[str, Any]) -> str:
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError) as error:
        JsonlDataset(tmp_path / "rows.jsonl")
    sentence = str(error.value).partition("line 1: ")[2].partition("; check")[0]
    for name in ("openai", "xlam"):
        with pytest.raises(DataError) as other:
            convert(read_source(name, tmp_path / "rows.jsonl"), "rows", tmp_path / "out.jsonl")
        assert str(other.value).partition("; check")[0].endswith(sentence)
    return str(error.value)


TURN = {"from": "gpt", "value": "x"}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {"chosen": [ASK, SAY], "rejected": [ASK, SAY]},
        {"messages": [ASK], "tools": [TOOL], "chosen": SAY, "rejected": SAY},
        {"messages": [ASK, SAY, ASK], "tools": [TOOL], "chosen": SAY, "rejected": SAY},
        {"conversations": [{"from": "human", "value": "q"}], "tools": "[]", "chosen": TURN, "rejected": TURN},
        {"input": {"messages": [ASK]}, "preferred_output": [SAY], "non_preferred_output": [SAY]},
        {"messages": [ASK], "tools": [TOOL], "chosen_response": SAY, "rejected_response": SAY},
    ],
)
def test_pairs_of_preferences_are_told(tmp_path: Path, row: dict[str, Any]) -> None:
    assert ", as for DPO), of which no call can be learnt: write the messages with the turn of " in fault(tmp_path, row)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "q", "completion": "a", "label": True}, "the row is a rated completion, as for KTO, without the tools"),
        ({"prompt": "q", "completion": "a"}, "the row is a prompt and its completion without the tools that were offered"),
        ({"instruction": "q", "input": "", "output": "a"}, "the row is an instruction and its answer, as Alpaca's, without"),
        ({"instruction": "q", "output": "{}", "tools": "[{}]"}, "an instruction and its answer, as Alpaca's: write it"),
        ({"query": "q", "tools": [TOOL], "steps": [{"tool_calls": []}]}, "the row is one of ActionStudio ('steps'), which is"),
        ({"id": "a", "question": [[ASK]], "function": [TOOL]}, "the row is one of BFCL ('question'), a test set: docs/benchm"),
        ({"id": "a", "question": [[ASK]], "involved_classes": ["M"]}, "the row is one of BFCL ('question'), a test set"),
        ({"messages": [ASK], "tools": [TOOL], "choices": [{"message": SAY}]}, "a request and what an API answered ('choices')"),
        ({"request": {}, "response": {"choices": [{"message": SAY}]}}, "a request and what an API answered ('choices'): write"),
        ({"custom_id": "1", "body": {"messages": [ASK]}}, "the row is a request to an API ('body'), and holds no right calls"),
        ({"instruction": "Use available tools.", "input": "", "output": "a"}, "the row is an instruction and its answer"),
        ({"text": "x"}, "the row is bare text, as for pretraining"),
        ({"error": "Access denied"}, "the row is a server's error ('Access denied') that was saved in the place of the data"),
    ],
)
def test_rows_of_other_trainings_are_told(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    assert said in fault(tmp_path, row)


@pytest.mark.parametrize("field", ["label", "kto_tag", "is_correct", "success"])
@pytest.mark.parametrize("rating", [False, 0, 0.0, -1, "false", "0", "Rejected"])
def test_rows_that_are_rated_as_unwanted_are_told(tmp_path: Path, field: str, rating: Any) -> None:
    row = {"messages": [ASK, SAY], "tools": [TOOL], field: rating}
    assert f"rated as one that is not wanted ({field!r} is {json.dumps(rating)}, as for KTO)" in fault(tmp_path, row)


@pytest.mark.parametrize("rating", [True, 1, 0.5, "true", "weather", None])
def test_rows_that_are_rated_as_wanted_or_not_at_all_are_read(tmp_path: Path, rating: Any) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": [ASK, SAY], "tools": [TOOL], "label": rating}))
    assert len(JsonlDataset(tmp_path / "rows.jsonl", strict=True)) == 1


def test_prompt_and_completion_of_messages_are_a_dialogue(tmp_path: Path) -> None:
    call = {"function": {"name": "w", "arguments": {}}}
    row = {"prompt": [ASK], "completion": [{"role": "assistant", "tool_calls": [call]}], "tools": [TOOL]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    task = JsonlDataset(tmp_path / "rows.jsonl", strict=True)[0]
    assert ([m.content for m in task.messages], [gold.name for gold in task.gold]) == (["q"], ["w"])


@pytest.mark.parametrize(
    ("tool", "name"),
    [
        ({"type": "web_search"}, "web_search"),
        ({"type": "file_search", "vector_store_ids": ["x"]}, "file_search"),
        ({"type": "code_interpreter", "container": {"type": "auto"}}, "code_interpreter"),
        ({"type": "mcp", "server_label": "x", "server_url": "https://example.org"}, "mcp"),
        ({"type": "web_search_20250305", "name": "web_search", "max_uses": 5}, "web_search_20250305"),
        ({"type": "bash_20250124", "name": "bash"}, "bash_20250124"),
        ({"googleSearch": {}}, "googleSearch"),
    ],
)
def test_hosted_tools_are_told(tool: dict[str, Any], name: str) -> None:
    with pytest.raises(DataError, match=f"it is '{name}', a tool that its provider runs itself: it has no parameters"):
        read_tool(tool)


def test_tools_that_take_text_are_told_and_others_are_read() -> None:
    with pytest.raises(DataError, match="it is 'custom', a tool that takes free text"):
        read_tool({"type": "custom", "name": "x", "description": "d"})
    assert read_tool({"type": "custom", "name": "x", "input_schema": {"type": "object", "properties": {}}}).name == "x"
    assert read_tool({"name": "x", "description": "d"}).name == "x"
    assert read_tool({"type": "function", "name": "x"}).name == "x"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", ["default", "enum", "minimum"])
def test_numbers_that_json_does_not_have_are_told(tmp_path: Path, value: float, place: str) -> None:
    declared = {"type": "number", place: [value] if place == "enum" else value}
    tool = {"name": "w", "parameters": {"type": "object", "properties": {"x": declared}}}
    with pytest.raises(DataError, match=r"its declaration of 'w' holds what JSON does not have, such as NaN, an infinity"):
        read_tool(tool)
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROW) + "\n" + json.dumps(ROW | {"id": "b", "tools": [tool]}))
    dataset = JsonlDataset(tmp_path / "rows.jsonl")
    assert dataset.report.counts == (1, 0, 1)
    assert "is not JSON: write null, a number or text" in dataset.report.dropped[0][1]


@pytest.mark.parametrize("kind", ["web_search_call", "code_interpreter_call", "custom_tool_call", "mcp_list_tools"])
def test_items_of_hosted_tools_are_told(tmp_path: Path, kind: str) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps({"input": [ASK, {"type": kind, "id": "1"}, SAY], "tools": [TOOL]}))
    with pytest.raises(DataError, match=f"the item '{kind}' is of a tool that its provider runs itself or that takes free"):
        JsonlDataset(tmp_path / "rows.jsonl")


TEXT = {"type": "text", "text": "q"}
UI = {"role": "assistant", "parts": [{"type": "tool-w", "toolCallId": "1", "state": "output-available", "input": {}}]}
CORE = {"role": "assistant", "content": [{"type": "tool-call", "toolCallId": "1", "toolName": "w", "args": {}}]}
USE = {"role": "assistant", "content": [{"toolUse": {"toolUseId": "1", "name": "w", "input": {}}}]}
PART = {"role": "model", "parts": [{"functionCall": {"name": "w"}}]}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"messages": [ASK], "toolConfig": {"tools": []}}, "Bedrock's Converse API ('toolConfig')"),
        ({"messages": [ASK, USE], "tools": [TOOL]}, "Bedrock's Converse API ('toolUse')"),
        ({"messages": [ASK, PART], "tools": []}, "Gemini's API ('functionCall')"),
        ({"messages": [{"role": "user", "parts": [TEXT]}, UI], "tools": [TOOL]}, "Vercel's AI SDK ('tool-w')"),
        ({"messages": [{"role": "user", "parts": [TEXT]}], "tools": [TOOL]}, "Vercel's AI SDK ('parts')"),
        ({"messages": [ASK, CORE], "tools": [TOOL]}, "Vercel's AI SDK ('tool-call')"),
        ({"message": "q", "chat_history": [{"role": "USER", "message": "hi"}]}, "Cohere's first API ('chat_history')"),
        ({"messages": [{"type": "human", "content": "q"}, {"type": "ai", "content": "a"}]}, "LangChain's messages ('type'"),
    ],
)
def test_rows_of_apis_that_are_not_read_are_told(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    assert said in fault(tmp_path, row)


@pytest.mark.parametrize(
    ("name", "row", "said"),
    [
        ("sharegpt", {"messages": [ASK, SAY]}, "as which it cannot be read either: the field 'tools' is missing"),
        ("openai", {"messages": [ASK, SAY]}, "the field 'tools' is missing: without the tools that were offered"),
        (
            "openai",
            {"messages": [ASK, {"role": "tool_call", "content": '{"name": "w"}'}, SAY], "tools": [TOOL]},
            "user, assistant, tool; the row is one of sharegpt: convert-data sharegpt INPUT OUTPUT",
        ),
    ],
)
def test_no_converter_is_named_that_cannot_read_the_row(tmp_path: Path, name: str, row: dict[str, Any], said: str) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError) as error:
        convert(read_source(name, tmp_path / "rows.jsonl"), "rows", tmp_path / "out.jsonl")
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([ASK], "the right calls are missing: the field 'messages' holds no turn of the assistant, and there is no field"),
        ([{"role": "User", "content": "q"}, {"role": "Chatbot", "content": "a"}], "message 1: the role 'User' must be one of"),
        ([ASK, {"role": "bot", "content": "a"}], "message 2: the role 'bot' must be one of system, user, assistant, tool"),
    ],
)
def test_messages_without_the_assistant_are_told(tmp_path: Path, messages: list[Any], said: str) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": messages, "tools": [TOOL]}))
    with pytest.raises(DataError) as error:
        JsonlDataset(tmp_path / "rows.jsonl")
    assert said in str(error.value)
