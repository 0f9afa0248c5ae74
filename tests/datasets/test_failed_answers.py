"""A tool's answer that says that the call failed is a failure, in whatever words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cahl_pl.datasets.failed_answers import as_failure
from cahl_pl.datasets.formats.table import FORMATS
from cahl_pl.datasets.gold_calls import read_gold
from cahl_pl.environments.recorded import RecordedEnvironment
from cahl_pl.types import Task, ToolSpec

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
ASK = {"role": "user", "content": "Rain?"}
CALL = {"name": "weather", "arguments": {"city": "Oslo"}}
MCP = {"content": [{"type": "text", "text": "no such city"}], "isError": True}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}]


def dialogue(form: str, content: Any, **more: Any) -> dict[str, Any]:
    if form == "anthropic":
        use = {"type": "tool_use", "id": "1", "name": "weather", "input": {"city": "Oslo"}}
        result = {"type": "tool_result", "tool_use_id": "1", "content": content} | more
        said = [ASK, {"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
        return {"messages": said, "tools": [{"name": "weather", "input_schema": PARAMETERS}]}
    if form == "openai-responses":
        output = {"type": "function_call_output", "call_id": "1", "output": content} | more
        return {"input": [ASK, {"type": "function_call", "call_id": "1", **CALL}, output], "tools": TOOLS}
    if form == "sharegpt":
        turns = [{"from": "human", "value": "Rain?"}, {"from": "function_call", "value": json.dumps(CALL)}]
        return {"conversations": [*turns, {"from": "observation", "value": content} | more], "tools": json.dumps(TOOLS)}
    called = {"role": "assistant", "tool_calls": [{"id": "1", "function": CALL}]}
    return {"messages": [ASK, called, {"role": "tool", "tool_call_id": "1", "content": content} | more], "tools": TOOLS}


@pytest.mark.parametrize("form", ["anthropic", "openai", "openai-responses", "sharegpt"])
@pytest.mark.parametrize(
    ("content", "more", "error"),
    [
        ("no such city", {"is_error": True}, "no such city"),
        ("no such city", {"isError": True}, "no such city"),
        ([{"type": "text", "text": "no such city"}], {"is_error": True}, "no such city"),
        ('{"error": "no such city"}', {"is_error": True}, "no such city"),
        ('{"code": 404}', {"is_error": True}, '{"code": 404}'),
        ("", {"is_error": True}, "the tool failed"),
        (MCP, {}, "no such city"),
        (json.dumps(MCP), {}, "no such city"),
        (MCP | {"content": []}, {}, "the tool failed"),
    ],
)
def test_a_failed_call_fails_again(form: str, content: Any, more: dict[str, Any], error: str) -> None:
    (task,) = FORMATS[form].tasks(dialogue(form, content, **more), "r")
    assert isinstance(task, Task)
    assert task.gold[0].result == {"error": error}
    answer = RecordedEnvironment().start(task).call(task.gold[0].call)
    assert (answer.text, answer.error) == (json.dumps({"error": error}), "tool")


@pytest.mark.parametrize("form", ["anthropic", "openai", "openai-responses", "sharegpt"])
@pytest.mark.parametrize(
    ("content", "more", "result"),
    [
        ("no such city", {"is_error": False}, "no such city"),
        ("isError: no", {}, "isError: no"),
        (MCP | {"isError": False}, {}, MCP | {"isError": False}),
        ({"is_error": "no"}, {}, {"is_error": "no"}),
    ],
)
def test_any_other_answer_stays(form: str, content: Any, more: dict[str, Any], result: Any) -> None:
    (task,) = FORMATS[form].tasks(dialogue(form, content, **more), "r")
    assert isinstance(task, Task)
    assert task.gold[0].result == result


def test_others_words_for_a_failure() -> None:
    (task,) = FORMATS["openai"].tasks(dialogue("openai", "no such city", status="error"), "r")  # LangChain
    assert isinstance(task, Task)
    assert task.gold[0].result == {"error": "no such city"}
    (task,) = FORMATS["anthropic"].tasks(dialogue("anthropic", None, is_error=True), "r")
    assert isinstance(task, Task)
    assert task.gold[0].result == {"error": "the tool failed"}
    (gold,) = read_gold([CALL | {"result": MCP}], [ToolSpec("weather", "", PARAMETERS)])
    assert gold.result == {"error": "no such city"}
    assert as_failure(None) is None
