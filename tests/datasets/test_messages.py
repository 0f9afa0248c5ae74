"""Dialogues: every tool's answer stands beside its call, and what does not go together is named."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cahl_pl.datasets.messages import fold, read_dialogue
from cahl_pl.errors import DataError
from cahl_pl.types import Message


def calling(*calls: tuple[str | None, str]) -> dict[str, Any]:
    listed = [
        {"type": "function", "function": {"name": "get_order", "arguments": {"id": order}}}
        | ({"id": id_} if id_ else {})
        for id_, order in calls
    ]
    return {"role": "assistant", "content": None, "tool_calls": listed}


def answer(content: str, id_: str | None = None, **other: Any) -> dict[str, Any]:
    return {"role": "tool", "content": content} | ({"tool_call_id": id_} if id_ else {}) | other


ASKED = {"role": "user", "content": "Where are A-1 and A-2?"}


def read(*messages: Any) -> tuple[Message, ...]:
    return fold(read_dialogue([ASKED, *messages]))


def test_answers_stand_in_the_order_of_their_calls() -> None:
    found = read(calling(("a", "A-1"), ("b", "A-2")), answer("lost", "b"), answer("delivered", "a"))
    assert [message.content for message in found[2:]] == ["delivered", "lost"]
    assert [message.role for message in found] == ["user", "assistant", "tool", "tool"]


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": {}}}


@pytest.mark.parametrize("within", [True, False])
def test_answers_without_ids_go_by_their_names(within: bool) -> None:
    def said(name: str, value: int) -> dict[str, Any]:
        return answer(json.dumps({"name": name, "results": value})) if within else answer(str(value), name=name)

    called = {"role": "assistant", "content": None, "tool_calls": [named("f"), named("g"), named("f")]}
    found = read(called, said("g", 2), said("f", 1), said("f", 3))
    values = [json.loads(message.content) for message in found[2:]]
    assert [value["results"] if within else value for value in values] == [1, 2, 3]
    with pytest.raises(DataError, match="the answer is by 'g', but the call at its place is of 'f'"):
        read(called, said("g", 2), said("g", 1), said("f", 3))


def test_answers_without_ids_go_by_their_place() -> None:
    found = read(calling((None, "A-1"), (None, "A-2")), answer("one"), answer("two"))
    assert [message.content for message in found[2:]] == ["one", "two"]
    found = read(calling(("a", "A-1")), answer("one"))
    assert found[2].content == "one"


@pytest.mark.parametrize(
    ("messages", "fault"),
    [
        (
            [calling(("a", "A-1")), answer("x", "c")],
            "3: the tool_call_id 'c' answers no call; those of its calls are: a",
        ),
        (
            [calling(("call_1", "A-1")), answer("x", "call_2")],
            "message 3: the tool_call_id 'call_2' answers no call; did you mean 'call_1'?",
        ),
        (
            [calling(("a", "A-1"), ("b", "A-2")), answer("x", "a")],
            "message 2: call 2 (get_order, id 'b') has no answer",
        ),
        ([calling(("a", "A-1"), ("b", "A-2")), ASKED], "message 2: call 1 (get_order) has no answer"),
        ([calling((None, "A-1"), (None, "A-2")), answer("x")], "message 2: call 2 (get_order) has no answer"),
        (
            [calling((None, "A-1")), answer("x"), answer("y")],
            "message 4: this tool's answer has no call: message 2 has 1 call",
        ),
        ([calling(("a", "A-1")), answer("x", "a"), answer("y", "a")], "message 4: the call 'a' is answered twice"),
        ([calling(("a", "A-1"), ("a", "A-2")), answer("x", "a")], "message 2: two calls have the id 'a'"),
        ([calling(("a", "A-1"), ("a", "A-1"))], "call 2: it is call 1 again, with its id 'a': leave one of them out"),
        ([answer("x", "a")], "message 2: the tool_call_id 'a' answers no call: none stands before it"),
        ([answer("x")], "message 2: a tool's answer has to follow a call of the assistant"),
        (
            [{"role": "assistant", "content": "Let me check."}, answer("x")],
            "message 3: a tool's answer has to follow a call of the assistant",
        ),
        (
            [calling((None, "A-1")), answer("x", "a")],
            "the tool_call_id 'a' answers no call; those of its calls are: none",
        ),
        (
            [calling(("a", "A-1"), ("b", "A-2")), answer("x", "a"), answer("y")],
            "message 4: this answer has no tool_call_id, but others to the same calls have",
        ),
        (
            [calling(("a", "A-1"), (None, "A-2")), answer("x", "a")],
            "message 2: call 2 (get_order without an id) has no answer",
        ),
    ],
)
def test_answers_that_do_not_go_with_calls_are_named(messages: list[Any], fault: str) -> None:
    with pytest.raises(DataError) as error:
        read(*messages)
    assert str(error.value).startswith("the field 'messages', message ")
    assert fault in str(error.value)


@pytest.mark.parametrize("content", ["", None, "Let me see."])
def test_the_legacy_function_call_is_a_call(content: str | None) -> None:
    called = {"role": "assistant", "content": content, "function_call": {"name": "f", "arguments": '{"x": 1}'}}
    found = read(called, {"role": "function", "name": "f", "content": "done"})
    text = '<tool_call>\n{"name": "f", "parameters": {"x": 1}}\n</tool_call>'
    assert found[1:] == (
        Message("assistant", f"{content}\n{text}" if content else text),
        Message("tool", "done"),
    )
    with pytest.raises(DataError, match="message 3: the answer is by 'g', but the call at its place is of 'f'"):
        read(called, {"role": "function", "name": "g", "content": "done"})


@pytest.mark.parametrize("arguments", ["", None, "null", {}])
def test_a_call_without_arguments(arguments: Any) -> None:
    call = {"id": "a", "function": {"name": "f", "arguments": arguments}}
    found = read({"role": "assistant", "tool_calls": [call]}, answer("x", "a"))
    assert found[1].content == '<tool_call>\n{"name": "f", "parameters": {}}\n</tool_call>'


def test_parts_of_text_and_the_developer_are_read() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}]
    assert fold(read_dialogue([{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}])) == (
        Message("system", "Be brief."),
        Message("user", "a\nb"),
    )


def test_system_messages_at_the_head_are_one() -> None:
    head = [
        {"role": role, "content": text}
        for role, text in (("system", "Be kind."), ("system", ""), ("developer", "Be brief."))
    ]
    said = read_dialogue([*head, {"role": "user", "content": "Hello."}])
    assert fold(said) == (Message("system", "Be kind.\n\nBe brief."), Message("user", "Hello."))
    with pytest.raises(DataError, match="message 5: a system message can only come first"):
        read_dialogue([*head, {"role": "user", "content": "Hello."}, head[0]])


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        (
            {"role": "human", "content": "x"},
            "'human' must be one of system, user, assistant, tool; did you mean 'user'?",
        ),
        ({"role": "asistant", "content": "x"}, "did you mean 'assistant'?"),
        ({"role": "system", "content": "x"}, "a system message can only come first"),
        ({"role": "user"}, "the field 'content' is missing"),
        ({"role": "user", "content": 5}, "the field 'content' must be text, but is an integer"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {}}]},
            "part 1 is 'image_url': only parts of text",
        ),
        (
            {"role": "assistant", "content": "", "tool_call": [{}]},
            "no field 'tool_call' of a message; did you mean 'tool_c",
        ),
        (
            {"role": "assistant", "content": "", "calls": [{}]},
            "no field 'calls' of a message; calls stand in 'tool_calls'",
        ),
        ({"role": "user", "content": "x", "tool_call_id": "a"}, "only a tool's answer has a tool_call_id"),
        ({"role": "user", "content": "x", "tool_calls": [{"name": "f"}]}, "only an assistant has tool_calls"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": ""}}]}, "call 1: the field 'name' is empty"),
        ({"role": "assistant", "tool_calls": [{"name": "f", "argument": {}}]}, "did you mean 'arguments'?"),
        (
            {"role": "assistant", "tool_calls": [{"name": "f", "arguments": "x"}]},
            "'arguments' is text that is not JSON",
        ),
        (
            {"role": "assistant", "tool_calls": [{"name": "f", "arguments": [1]}]},
            "'arguments' must be an object, but is a list",
        ),
        ({"role": "assistant", "function_call": {"name": "f"}, "tool_calls": [{"name": "f"}]}, "are both there"),
    ],
)
def test_messages_that_cannot_be_read_are_named(message: Any, fault: str) -> None:
    with pytest.raises(DataError) as error:
        read(message)
    assert str(error.value).startswith("the field 'messages', message 2: ")
    assert fault in str(error.value)


def test_the_answers_of_several_calls_may_stand_in_one_list() -> None:
    two = calling((None, "A-1"), (None, "A-2"))
    other = {"role": "assistant", "tool_calls": [{"function": {"name": name, "arguments": {}}} for name in ("a", "b")]}
    listed = [{"name": "b", "arguments": {}, "results": {"s": 2}}, {"name": "a", "arguments": {}, "results": "1"}]
    for asked, said, right in (
        (two, ["lost", "delivered"], ["lost", "delivered"]),
        (two, [{"s": 1}, None], ['{"s": 1}', "null"]),
        (two, [{"id": 1, "name": "x", "result": 3}, 4], ['{"id": 1, "name": "x", "result": 3}', "4"]),
        (other, listed, ["1", '{"s": 2}']),
    ):
        for content in (said, json.dumps(said)):
            assert [message.content for message in read(asked, answer(content))[2:]] == right  # type: ignore[arg-type]


@pytest.mark.parametrize("said", [["one"], ["1", "2", "3"], {"a": 1, "b": 2}, "lost, delivered"])
def test_one_answer_is_not_that_of_several_calls(said: Any) -> None:
    with pytest.raises(DataError, match=r"message 2: call 2 \(get_order\) has no answer"):
        read(calling((None, "A-1"), (None, "A-2")), answer(said))


def test_function_call_may_be_a_list() -> None:
    calls = [{"name": "get_order", "arguments": {"id": order}} for order in ("A-1", "A-2")]
    found = read_dialogue([ASKED, {"role": "assistant", "function_call": calls}])[1]
    assert [dict(one.call.arguments) for one in found.calls] == [{"id": "A-1"}, {"id": "A-2"}]
    with pytest.raises(DataError, match="the field 'function_call', call 2: the field 'name' is missing"):
        read_dialogue([ASKED, {"role": "assistant", "function_call": [calls[0], {}]}])
