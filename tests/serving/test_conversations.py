"""Conversations over HTTP: call by call to the end, whatever the client keeps and whichever server it meets."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from cahl_pl.datasets.tool_forms import read_tools
from cahl_pl.environments import Environment, McpEnvironment, Session
from cahl_pl.parsing import format_call, format_plan, parse_plan
from cahl_pl.prompts import PromptConfig
from cahl_pl.rollout.config import InferenceConfig
from cahl_pl.serving.episode import NO_PLAN, NO_RESULT
from cahl_pl.types import Feedback, SubTask, ToolCall

from .conftest import ANSWER, TEXT, TOOLS, WEATHER, called, result, user


def without_reasoning(message):
    return {key: value for key, value in message.items() if key != "reasoning_content"}


def with_other_ids(messages):
    """The conversation of a client that gives calls ids of its own."""
    text = json.dumps(messages)
    for number, call in enumerate(c for m in messages for c in m.get("tool_calls", ())):
        text = text.replace(call["id"], f"mine-{number}")
    return json.loads(text)


CLIENTS = {
    "keeps all": lambda messages: messages,
    "drops reasoning": lambda messages: [without_reasoning(m) for m in messages],
    "renames ids": lambda messages: with_other_ids([without_reasoning(m) for m in messages]),
}


@pytest.mark.parametrize("how", CLIENTS)
@pytest.mark.parametrize("restarted", [False, True])
def test_a_plan_is_carried_out_call_by_call(start, how, restarted):
    keep, server = CLIENTS[how], start()
    messages = [user()]
    first, why = server.ask(messages)
    assert why == "tool_calls"
    assert first["content"] is None
    assert parse_plan(first["reasoning_content"]).subtasks == (WEATHER, TEXT)
    assert called(first) == [("get_weather", {"city": "Gage"})]
    server = start() if restarted else server
    second, why = server.ask(keep([*messages, first, result(first, "sunny")]))
    assert called(second) == [("send_text", {"to": "Noko", "message": "sunny"})]
    assert ("reasoning_content" in second) == (restarted and how != "keeps all")  # the plan was made again
    server = start() if restarted else server
    third, why = server.ask(keep([*messages, first, result(first, "sunny"), second, result(second, '"sent"')]))
    assert why == "stop"
    assert called(third) == []
    assert third["content"] == "weather in a city: sunny\nsend a text: sent"
    if not restarted:
        assert len(server.engine.prompts) == 3  # one plan, two calls: nothing was sampled twice


def test_the_next_request_sees_the_calls_of_the_one_before(served):
    first, _ = served.ask([user()])
    second, _ = served.ask([user(), first, result(first, "sunny")])
    done = [
        user(),
        first,
        result(first, "sunny"),
        second,
        result(second, "sent"),
        {"role": "assistant", "content": "Done."},
    ]
    served.engine.plan = (ANSWER,)
    answer, why = served.ask([*done, user("Thank you!")])
    assert (answer["content"], why) == ("Hello!", "stop")
    role, prompt = served.engine.prompts[-2]
    assert role == "planner"
    assert '"to": "Noko", "message": "sunny"' in prompt
    assert "Done." in prompt


def test_answers_between_calls_are_said_once(served):
    served.engine.plan = (ANSWER, WEATHER, ANSWER)
    first, why = served.ask([user()])
    assert (first["content"], why, len(called(first))) == ("Hello!", "tool_calls", 1)
    last, why = served.ask([user(), first, result(first, "sunny")])
    assert (last["content"], why) == ("Hello!", "stop")


def test_calls_that_no_schema_allows_are_answered_here(served):
    served.engine.plan = (WEATHER, SubTask("send a text", "send_text", {"to": "Noko", "message": "hi"}))
    served.engine.outputs = [format_call(ToolCall("get_weather", {"town": "Gage"}))]
    message, _ = served.ask([user()])
    assert [name for name, _ in called(message)] == ["send_text"]
    refused = """{"error": "missing required parameter 'city' of get_weather"}"""
    assert refused in served.engine.prompts[-1][1]
    message, _ = served.ask([user(), message, result(message, "sent")])
    assert message["content"] == f"weather in a city: {refused}\nsend a text: sent"


@pytest.mark.parametrize("stream", [False, True])
def test_a_reply_says_something_or_nothing_but_can_be_sent_back(served, stream):
    def ask(messages):
        if not stream:
            return served.ask(messages)[0]
        _, _, body = served.post({"model": "cahl", "messages": messages, "tools": TOOLS, "stream": True})
        events = [json.loads(one[6:]) for one in body.decode().split("\n\n") if one.startswith("data: {")]
        said = [choice["delta"]["content"] for e in events for choice in e["choices"] if "content" in choice["delta"]]
        calls = [c for e in events for choice in e["choices"] for c in choice["delta"].get("tool_calls", ())]
        return {"role": "assistant", "content": "".join(said) if said else None} | ({"tool_calls": calls} if calls else {})

    served.engine.plan = (WEATHER,)
    served.engine.outputs = ["no call that anybody could read"]
    first = ask([user()])
    assert first["content"] == NO_RESULT
    second = ask([user(), first, user("And now?")])
    assert second["content"] is None
    third = ask([user(), first, user("And now?"), second, result(second, "")])
    assert third["content"] == ""
    fourth = ask([user(), first, user("And now?"), second, result(second, ""), third, user("And now?")])
    assert [name for name, _ in called(fourth)] == ["get_weather"]


def test_arguments_come_in_their_declared_types(served):
    served.engine.plan = (SubTask("add", "add", {"a": "7"}),)
    message, _ = served.ask([user()])
    assert called(message) == [("add", {"a": 7})]
    message, _ = served.ask([user(), message, result(message, "8")])
    assert message["content"] == "8"


def test_calls_of_another_hand_are_dialogue(served):
    other = {
        "role": "assistant",
        "content": None,
        "tool_calls": [call("x1", "send_text", {"to": "Zone", "message": "hi"})],
    }
    message, _ = served.ask([user(), other, result(other, "sent")])
    assert called(message) == [("get_weather", {"city": "Gage"})]  # planned anew, for what has been done already
    _, prompt = next(asked for asked in reversed(served.engine.prompts) if asked[0] == "planner")
    assert '"to": "Zone"' in prompt
    message, _ = served.ask(
        [user(), other, result(other, "sent"), {"role": "assistant", "content": "And now?"}, user("Go on.")]
    )
    assert called(message) == [("get_weather", {"city": "Gage"})]


def call(identity, name, arguments):
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}


def test_calls_in_the_form_of_the_family_reach_the_client_as_calls(start):
    """And where a server that was started again samples another call, the client's own stands there in the same form."""
    template = Path(__file__).parents[2] / "tools" / "quality" / "hermes.jinja"
    prompts = PromptConfig(tool_format="native", chat_template=str(template))
    form = '<tool_call>\n{"name": "%s", "arguments": %s}\n</tool_call>'
    gage, rada = (form % ("get_weather", json.dumps({"city": city})) for city in ("Gage", "Rada"))
    server = start(prompts=prompts)
    first, why = server.ask([user()])
    assert (called(first), why) == ([("get_weather", {"city": "Gage"})], "tool_calls")
    server = start(prompts=prompts)
    server.engine.outputs = [rada, form % ("send_text", '{"to": "Noko", "message": "sunny"}')]
    second, _ = server.ask([user(), first, result(first, "sunny")], temperature=1.0)
    assert called(second) == [("send_text", {"to": "Noko", "message": "sunny"})]
    assert gage in server.engine.prompts[-1][1]
    assert rada not in server.engine.prompts[-1][1]


def test_what_the_client_has_done_holds_where_other_tokens_are_sampled_later(start):
    """A server that was started again samples another call at a temperature: the client's own stands in its place."""
    gage, rada = (format_call(ToolCall("get_weather", {"city": city})) for city in ("Gage", "Rada"))
    server = start()
    server.engine.outputs = [gage]
    first, _ = server.ask([user()], temperature=1.0)
    server = start()
    server.engine.outputs = [rada, format_call(ToolCall("send_text", {"to": "Noko", "message": "sunny"}))]
    message, _ = server.ask([user(), first, result(first, "sunny")], temperature=1.0)
    assert called(message) == [("send_text", {"to": "Noko", "message": "sunny"})]
    assert gage in server.engine.prompts[-1][1]
    assert rada not in server.engine.prompts[-1][1]


def test_a_failed_call_has_the_planner_asked_again(start):
    server = start(inference=InferenceConfig(replans=1))
    first, _ = server.ask([user()])
    server.engine.plan = (SubTask("add", "add", {"a": 1}),)
    failed = [user(), first, result(first, '{"error": "no such city"}')]
    second, _ = server.ask(failed)
    assert called(second) == [("add", {"a": 1})]
    assert parse_plan(second["reasoning_content"]).subtasks[0].tool == "add"
    for again in (server, start(inference=InferenceConfig(replans=1))):
        last, why = again.ask([*failed, second, result(second, "2")])
        assert (last["content"], why) == ('weather in a city: {"error": "no such city"}\nadd: 2', "stop")


def test_a_plan_that_cannot_be_read_is_said_to_be_none(served):
    served.engine.plan = "I would rather not."
    message, why = served.ask([user()])
    assert (message["content"], message["reasoning_content"], why) == (NO_PLAN, "I would rather not.", "stop")


def test_a_plan_of_more_steps_than_are_carried_out_has_its_length_as_the_reason(start):
    server = start(max_steps=1)
    message, _ = server.ask([user()])
    message, why = server.ask([user(), message, result(message, "sunny")])
    assert (message["content"], why) == ("sunny", "length")


@pytest.mark.parametrize("most", [1, 40, 200])
def test_a_reply_has_no_more_tokens_than_it_may(served, most):
    plan = len(served.engine.builder.completion(format_plan((WEATHER, TEXT))))
    status, _, body = served.post({"model": "cahl", "messages": [user()], "tools": TOOLS, "max_tokens": most})
    assert status == 200
    reply = json.loads(body)
    assert most < plan + 40
    assert reply["choices"][0]["finish_reason"] == "length"
    assert reply["usage"]["completion_tokens"] == most


@pytest.mark.parametrize("usage", [False, True])
def test_a_stream_says_what_a_whole_reply_says(served, usage):
    whole, why = served.ask([user()])
    options = {"stream": True, "stream_options": {"include_usage": usage}}
    status, headers, body = served.post({"model": "cahl", "messages": [user()], "tools": TOOLS, **options})
    assert status == 200
    assert headers["content-type"].startswith("text/event-stream")
    events = body.decode().strip().split("\n\n")
    assert events.pop() == "data: [DONE]"
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    counted = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
    assert [one["total_tokens"] > 100 for one in counted] == [True] * usage
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    assert deltas[0]["role"] == "assistant"
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == whole["reasoning_content"]
    calls = [one for delta in deltas for one in delta.get("tool_calls", ())]
    assert [one["function"] for one in calls] == [one["function"] for one in whole["tool_calls"]]
    assert calls[0]["index"] == 0
    assert [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]][-1] == why


@pytest.mark.parametrize(
    ("stop", "said"),
    [
        ("o!\nH", "Hell"),  # from one step's answer into the next one's
        (["nowhere", "lo", "ell"], "H"),
        ("Hello", ""),
        (["", "nowhere"], "Hello!\nHello!"),
        ([], "Hello!\nHello!"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_said_ends_before_a_stop_sequence(served, stop, said, stream):
    served.engine.plan = (ANSWER, ANSWER)
    if not stream:
        message, why = served.ask([user()], stop=stop)
        assert (message["content"], why) == (said, "stop")
        return
    _, _, body = served.post({"model": "cahl", "messages": [user()], "tools": TOOLS, "stop": stop, "stream": True})
    chunks = [json.loads(event.removeprefix("data: ")) for event in body.decode().strip().split("\n\n")[:-1]]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert "".join(choice["delta"].get("content", "") for choice in choices) == said
    assert choices[-1]["finish_reason"] == "stop"


def test_a_stop_sequence_changes_no_call_and_no_plan(served):
    served.engine.plan = (ANSWER, WEATHER)
    whole, cut = served.ask([user()])[0], served.ask([user()], stop=["lo", "plan", "Gage"])[0]
    assert (whole["content"], cut["content"]) == ("Hello!", "Hel")
    assert cut["reasoning_content"] == whole["reasoning_content"]
    assert called(cut) == called(whole)


class Counting(Environment):
    """Answers every call with how many there were."""

    def __init__(self):
        self.calls = []

    def start(self, task):
        made = self.calls

        class Counter(Session):
            def call(self, call):
                made.append(call.name)
                return Feedback(str(len(made)))

        return Counter()


def test_where_the_calls_are_carried_out_here_the_reply_is_the_answer(start):
    environment = Counting()
    server = start(environment=environment)
    server.pair.tools = read_tools(TOOLS)
    status, _, body = server.post({"model": "cahl", "messages": [user()], "tools": TOOLS})
    assert status == 400
    assert json.loads(body)["error"]["param"] == "tools"
    message, why = server.ask([user()], tools=[])
    assert environment.calls == ["get_weather", "send_text"]
    assert (message["content"], why) == ("weather in a city: 1\nsend a text: 2", "stop")
    assert "\ncall get_weather" in message["reasoning_content"]
    assert message["reasoning_content"].endswith("\nresult 2")


def test_the_tools_of_an_mcp_server_are_run_by_the_server(start, tmp_path):
    pytest.importorskip("mcp", reason="MCP servers need the package mcp")
    toys = Path(__file__).parents[1] / "environments" / "mcp_toys.py"
    command = {"command": sys.executable, "args": [str(toys), "0", str(tmp_path / "pids")]}
    (tmp_path / "servers.json").write_text(json.dumps({"mcpServers": {"toys": command}}))
    environment = McpEnvironment(str(tmp_path / "servers.json"))
    try:
        server = start(environment=environment)
        server.pair.tools = environment.tools.specs
        server.engine.plan = (SubTask("add", "add", {"a": 2, "b": 3}), SubTask("add", "add", {"a": "$1", "b": 10}))
        message, why = server.ask([user("Add 2, 3 and 10.")], tools=[])
        assert (message["content"], why) == ("add: 5\nadd: 15", "stop")
        assert server.refused({"model": "cahl", "messages": [user()], "tools": TOOLS})[:2] == (400, "invalid_value")
    finally:
        for connection in set(environment.tools.connections.values()):
            connection.close()
