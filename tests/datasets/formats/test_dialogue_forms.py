"""Forms that dialogues have in public data sets besides those of the APIs: where the turns stand, thoughts, parallel calls."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cahl_pl.datasets.formats.table import FORMATS, form_of
from cahl_pl.datasets.jsonl import read_any
from cahl_pl.errors import DataError
from cahl_pl.types import Task

PARAMETERS = {"type": "object", "properties": {"tz": {"type": "string"}}, "required": ["tz"]}
TOOLS = [{"type": "function", "function": {"name": "time", "description": "Tell it.", "parameters": PARAMETERS}}]
ASK = {"role": "user", "content": "What time is it?"}


def call(zone: str, content: str = "") -> dict[str, Any]:
    """Return one of several messages with a call each, as some programs write parallel calls."""
    return {
        "role": "assistant",
        "content": content,
        "function_call": {"name": "time", "arguments": json.dumps({"tz": zone})},
    }


def read(row: dict[str, Any]) -> list[Task | DataError]:
    form = form_of(row)
    assert form is not None
    return list(FORMATS[form].tasks(row, "r"))


@pytest.mark.parametrize("field", ["messages", "conversations", "conversation"])
@pytest.mark.parametrize("as_text", [False, True])
def test_turns_with_roles_are_read_wherever_they_stand(field: str, as_text: bool) -> None:
    turns = [ASK, call("A"), {"role": "function", "name": "time", "content": "10:00"}]
    row = {field: json.dumps(turns) if as_text else turns, "tools": json.dumps(TOOLS), "source": "x", "id": "a"}
    (task,) = read(row)
    assert isinstance(task, Task)
    assert [(gold.name, gold.arguments, gold.result) for gold in task.gold] == [("time", {"tz": "A"}, "10:00")]
    assert read_any(row, "r").gold == task.gold


def test_parallel_calls_may_be_messages_of_their_own() -> None:
    answers = [{"role": "function", "content": text} for text in ("10:00", "11:00")]
    said = {"role": "assistant", "content": "Let me look."}
    row = {
        "messages": [ASK, said, call("A"), call("B"), *answers, {"role": "assistant", "content": "10 and 11."}],
        "tools": TOOLS,
    }
    (task,) = read(row)
    assert isinstance(task, Task)
    assert [(dict(gold.arguments), gold.result) for gold in task.gold] == [
        ({"tz": "A"}, "10:00"),
        ({"tz": "B"}, "11:00"),
    ]
    row["messages"] += [{"role": "user", "content": "Thanks."}, {"role": "assistant", "content": "Yes."}]
    _, task = read(row)
    assert isinstance(task, Task)
    assert [message.role for message in task.messages] == ["user", "assistant", "tool", "tool", "assistant", "user"]
    assert task.messages[1].content.startswith("Let me look.\n<tool_call>\n")


@pytest.mark.parametrize(
    "thought",
    [
        "<think>\nhm\n</think>\n\n",
        "hm\n</think>\n",
        "[THINK]hm[/THINK]",
        "<think>a</think><think>b</think>",
        "<think></think>",
    ],
)
@pytest.mark.parametrize("form", ["openai", "sharegpt"])
def test_a_thought_is_no_part_of_an_answer(form: str, thought: str) -> None:
    text = f"{thought}It is 10:00."
    if form == "openai":
        row: dict[str, Any] = {"messages": [ASK, {"role": "assistant", "content": text}], "tools": TOOLS}
    else:
        turns = [{"from": "human", "value": "What time is it?"}, {"from": "gpt", "value": text}]
        row = {"conversations": turns, "tools": json.dumps(TOOLS)}
    (task,) = read(row)
    assert isinstance(task, Task)
    assert (task.gold, task.answer) == ((), "It is 10:00.")


def test_a_row_of_another_kind_is_told_that_no_form_is_known() -> None:
    row = {"question": "q", "input": [{"step": "1"}], "toolset": [], "reference": []}
    with pytest.raises(DataError, match="the row has no form that is known: cahl-pl convert-data --help lists them"):
        read_any(row, "r")


@pytest.mark.parametrize("role", ["tool_response", "tool_result", "tool_output", "function_result", "observation"])
def test_a_tool_s_answer_has_several_names(role: str) -> None:
    tool = {"name": "clock", "parameters": {"type": "object", "properties": {}}}
    call = {"role": "tool_call", "content": '{"name": "clock", "arguments": {}}'}
    said = [{"role": "user", "content": "q"}, call, {"role": role, "content": "12:00"}, {"role": "assistant", "content": "12."}]
    row = {"messages": said, "tools": [tool]}
    assert form_of(row) == "sharegpt"
    (task,) = FORMATS["sharegpt"].tasks(row, "r")
    assert isinstance(task, Task)
    assert [(gold.name, gold.result) for gold in task.gold] == [("clock", "12:00")]
