"""Rows with calls in tags: whose answer is whose, what the system text keeps, where a turn of a flattened chat starts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cahl_pl.datasets.formats.table import FORMATS, form_of
from cahl_pl.datasets.formats.tagged import without_tools
from cahl_pl.errors import DataError
from cahl_pl.types import Task

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS = [{"name": name, "description": "Look.", "parameters": PARAMETERS} for name in ("weather", "clock")]
SYSTEM = "SYSTEM: Use " + json.dumps(TOOLS[0])
CALL = '<functioncall> {"name": "weather", "arguments": \'{"city": "Oslo"}\'} <|endoftext|>'


def tagged(tag: str, *values: Any) -> str:
    return "\n".join(f"<{tag}>{json.dumps(value)}</{tag}>" for value in values)


def called(*ids: str | None) -> str:
    calls = [{"name": name, "arguments": {}} for name in ("weather", "clock")]
    return tagged("tool_call", *(c | ({"id": i} if i else {}) for c, i in zip(calls, ids, strict=True)))


def row(calls: str, answers: str, **more: Any) -> dict[str, Any]:
    turns = [("human", "q"), ("gpt", calls), ("tool", answers)]
    return {"conversations": [{"from": who, "value": text} for who, text in turns], "tools": json.dumps(TOOLS)} | more


def read(value: dict[str, Any]) -> list[Task | DataError]:
    form = form_of(value)
    assert form is not None
    return list(FORMATS[form].tasks(value, "r"))


@pytest.mark.parametrize(
    ("ids", "answers"),
    [
        ((None, None), ({"name": "clock", "content": "12:00"}, {"name": "weather", "content": {"t": 1}})),
        (("a", "b"), ({"tool_call_id": "b", "content": "12:00"}, {"tool_call_id": "a", "content": {"t": 1}})),
        (("a", "b"), ({"id": "b", "content": "12:00"}, {"id": "a", "content": {"t": 1}})),
        # these calls have no ids, the names say which is which
        ((None, None), ({"tool_call_id": "x", "name": "clock", "content": "12:00"},
                        {"tool_call_id": "y", "name": "weather", "content": {"t": 1}})),
        ((None, None), ({"t": 1}, "12:00")),
    ],
)  # fmt: skip
def test_an_answer_belongs_to_the_call_that_it_names(ids: tuple[str | None, ...], answers: tuple[Any, ...]) -> None:
    (task,) = read(row(called(*ids), tagged("tool_response", *answers)))
    assert isinstance(task, Task)
    assert [(gold.name, gold.result) for gold in task.gold] == [("weather", {"t": 1}), ("clock", "12:00")]


@pytest.mark.parametrize(
    ("ids", "answers", "message"),
    [
        ((None, None), ({"name": "news", "content": 1}, {"name": "clock", "content": 2}), "the answer is by 'news'"),
        (("a", "b"), ({"tool_call_id": "b", "content": 1}, {"tool_call_id": "c", "content": 2}), "'c' answers no call"),
        (("a", "b"), ({"id": "b", "content": 1}, {"t": 2}), "this answer has no tool_call_id, but others"),
    ],
)
def test_an_answer_to_no_call_is_a_fault(ids: tuple[str | None, ...], answers: tuple[Any, ...], message: str) -> None:
    (fault,) = read(row(called(*ids), tagged("tool_response", *answers)))
    assert message in str(fault)


def test_an_object_that_has_an_id_of_its_own_is_no_envelope() -> None:
    (task,) = read(row(tagged("tool_call", {"name": "clock"}), tagged("tool_response", {"id": 7, "content": "x"})))
    assert isinstance(task, Task)
    assert task.gold[0].result == {"id": 7, "content": "x"}


@pytest.mark.parametrize("role", ["user", "tool"])
def test_messages_may_end_with_the_answers_of_tools(role: str) -> None:
    said = [("user", "q"), ("assistant", called(None, None)), (role, tagged("tool_response", 1, 2))]
    value = {"messages": [{"role": who, "content": text} for who, text in said], "tools": TOOLS}
    assert form_of(value) == "hermes"
    (task,) = read(value)
    assert isinstance(task, Task)
    assert [gold.result for gold in task.gold] == ["1", "2"]


def test_a_system_text_loses_its_list_of_tools_and_how_to_call_alone() -> None:
    block = f"<tools>{json.dumps(TOOLS)}</tools>"
    assert without_tools(f"You help. {block} Never ship.") == "You help.\nNever ship."
    assert without_tools("No <tools></tools> here.") == "No <tools></tools> here."
    how = (
        "For each function call, return a json object within <tool_call></tool_call> XML tags:\n<tool_call>\n"
        '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
    )
    assert without_tools(f"You help.\n{block}\n\n{how}\nNever ship.") == "You help.\nNever ship."


def test_tools_in_the_field_system_are_told_by_their_tags() -> None:
    value = row(called(None, None), tagged("tool_response", 1, 2), system=f"Help. <tools>{json.dumps(TOOLS)}</tools>")
    del value["tools"]
    assert form_of(value) == "hermes"
    (task,) = read(value)
    assert isinstance(task, Task)
    assert ([tool.name for tool in task.tools], task.messages[0].content) == (["weather", "clock"], "Help.")
    assert form_of(value | {"system": json.dumps(TOOLS)}) == "toolace"


@pytest.mark.parametrize(
    "chat",
    [
        f'USER: The log says "last USER: bob" ok?\n\n\nASSISTANT: {CALL}',
        f'USER: The log says "last USER: bob" ok? ASSISTANT: {CALL}',
    ],
)
def test_a_speaker_within_a_sentence_starts_no_turn(chat: str) -> None:
    (task,) = read({"system": SYSTEM, "chat": chat})
    assert isinstance(task, Task)
    assert [(one.role, one.content) for one in task.messages] == [("user", 'The log says "last USER: bob" ok?')]
    assert dict(task.gold[0].arguments) == {"city": "Oslo"}


@pytest.mark.parametrize(
    ("chat", "message"),
    [
        (f"Human: q ASSISTANT: Hi <|endoftext|> USER: q ASSISTANT: {CALL}", "the field 'chat' starts with 'Human: q"),
        ("USER: q ASSISTANT: a USER: b", "whether USER: within a line starts a turn"),
        ("USER: q ASSISTANT: a ASSISTANT: b", "which ASSISTANT: in"),
    ],
)
def test_a_chat_whose_turns_are_not_clear_is_refused(chat: str, message: str) -> None:
    with pytest.raises(DataError) as error:
        read({"system": SYSTEM, "chat": chat})
    assert message in str(error.value)


def test_a_turn_that_is_not_to_be_learnt_is_no_task() -> None:
    function = [{"type": "function", "function": tool} for tool in TOOLS]

    def turn(name: str, weight: Any) -> list[dict[str, Any]]:
        call = {"id": name, "type": "function", "function": {"name": name, "arguments": "{}"}}
        return [
            {"role": "assistant", "tool_calls": [call], "weight": weight},
            {"role": "tool", "tool_call_id": name, "content": "1"},
        ]

    asked = {"role": "user", "content": "q"}
    value = {"messages": [asked, *turn("weather", 1), *turn("clock", 0)], "tools": function}
    task, skipped = read(value)
    assert isinstance(task, Task)
    assert [gold.name for gold in task.gold] == ["weather"]
    assert "message 4: the row says that this turn is not to be learnt (weight 0)" in str(skipped)
    one = FORMATS["openai"].one
    assert one is not None
    assert [gold.name for gold in one(value, "r").gold] == ["weather"]
    with pytest.raises(DataError, match="not to be learnt"):
        one(value | {"messages": [asked, *turn("clock", 0)]}, "r")
    with pytest.raises(DataError, match="the field 'weight' must be 0"):
        read(value | {"messages": [asked, *turn("clock", "no")]})
    spoken = row(called(None, None), tagged("tool_response", 1, 2))
    spoken["conversations"][1]["train"] = False
    assert "not to be learnt" in str(read(spoken)[0])


def test_how_apigen_has_calls_written_is_left_out_of_the_system_text() -> None:
    how = (
        "The output MUST strictly adhere to the following format, and NO other text MUST be included.\n<tool_call>[\n"
        '{"name": "func_name1", "arguments": {"argument1": "value1"}},\n... (more tool calls as required)\n]</tool_call>'
    )
    system = f"You are an expert.\n<tools>{json.dumps(TOOLS)}</tools>\n\n{how}"
    assert without_tools(system) == "You are an expert."
