"""What clients may not, how much and how long: each has its status, and one sentence in OpenAI's form."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("starlette", reason="serving needs starlette: pip install 'cahl-pl[serve]'")

from cahl_pl.errors import ConfigError
from cahl_pl.serving.app import Limits
from cahl_pl.serving.errors import ApiError

from .conftest import TOOLS, called, result, user, wait_for

GOOD = {"model": "cahl", "messages": [user()], "tools": TOOLS}
CALL = {"id": "a", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "Hello"}, "messages"),
        ({"messages": [{"role": "system", "content": "Be kind."}]}, "messages"),
        ({"messages": [user(), {"role": "assistant", "content": "Yes?"}]}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages"),
        ({"messages": [user(" ")]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages"),
        ({"messages": [user(), {"role": "tool", "tool_call_id": "a", "content": "1"}]}, "messages"),
        ({"messages": [user(), {"role": "assistant", "tool_calls": [CALL]}, user()]}, "messages"),
        ({"tools": {}}, "tools"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tools": [TOOLS[0], TOOLS[0]]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "x", "parameters": {"type": "banana"}}}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"n": 2}, "n"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"stop": ["x", 1]}, "stop"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": {"text": "x"}}, "stop"),
        ({"logprobs": True}, "logprobs"),
        ({"guided_json": {}}, "guided_json"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 5000}, "max_completion_tokens"),
        ({"seed": "x"}, "seed"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": 1}, "stream_options"),
        ({"model": 3}, "model"),
    ],
)
def test_a_mistake_in_a_request_is_400_and_names_its_field(served, change, param):
    status, _, body = served.post({**GOOD, **change})
    error = json.loads(body)["error"]
    assert (status, error["param"], error["type"]) == (400, param, "invalid_request_error"), error
    assert error["message"]
    assert "\n" not in error["message"]
    assert served.service.busy == 0


def test_values_that_change_nothing_are_taken(served):
    harmless = {"n": 1, "stop": None, "user": "me", "parallel_tool_calls": False, "tool_choice": "auto", "store": False}
    message, _ = served.ask([{"role": "developer", "content": "Be kind."}, user()], **harmless)
    assert called(message)
    message, _ = served.ask([user()], tool_choice="none")
    assert not called(message)


@pytest.mark.parametrize(
    ("how", "status", "code"),
    [
        ({"body": b"{"}, 400, "invalid_json"),
        ({"body": b"[" * 3900}, 400, "invalid_json"),
        ({"body": b"\xff"}, 400, "invalid_json"),
        ({"body": []}, 400, "invalid_value"),
        ({"body": {**GOOD, "model": "gpt"}}, 404, "model_not_found"),
        ({"body": GOOD, "path": "/v1/nothing"}, 404, "not_found"),
        ({"body": b"", "method": "GET"}, 405, "method_not_allowed"),
        ({"body": b"", "method": "GET", "path": "/v1/models/gpt"}, 404, "model_not_found"),
        ({"body": GOOD, "headers": {"Content-Type": "text/plain"}}, 415, "unsupported_media_type"),
        ({"body": {**GOOD, "user": "x" * 4000}}, 413, "body_too_large"),
        ({"body": {**GOOD, "messages": [user("word " * 300)]}}, 400, "context_length_exceeded"),
        ({"body": {**GOOD, "messages": [user("word " * 300)], "stream": True}}, 400, "context_length_exceeded"),
    ],
)
def test_other_refusals(start, how, status, code):
    server = start(Limits(body_bytes=4000), max_prompt_tokens=1200)
    assert server.refused(how.pop("body"), **how)[:2] == (status, code)
    assert called(server.ask([user()])[0])


def test_a_key_is_asked_for_everywhere_but_for_health(start):
    server = start(key="s3cret")
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic s3cret"}):
        assert server.refused(GOOD, headers=headers)[:2] == (401, "invalid_api_key")
        assert server.refused(b"", method="GET", path="/v1/models", headers=headers)[:2] == (401, "invalid_api_key")
    good = {"Authorization": "Bearer s3cret"}
    assert server.post(GOOD, headers=good)[0] == 200
    status, _, body = server.post(b"", method="GET", path="/v1/models", headers=good)
    assert (status, json.loads(body)["data"][0]["id"]) == (200, "cahl")
    assert server.post(b"", method="GET", path="/health")[0] == 200


def test_a_full_queue_is_429_and_empties(start):
    server = start(Limits(at_once=1, queue=2))
    server.engine.gate.clear()
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(server.post, GOOD) for _ in range(3)]
        wait_for(lambda: server.service.busy == 3)
        status, headers, body = server.post(GOOD)
        assert (status, json.loads(body)["error"]["code"]) == (429, "queue_full")
        assert headers["retry-after"] == "1"
        server.engine.gate.set()
        assert [future.result()[0] for future in waiting] == [200] * 3
    wait_for(lambda: server.service.busy == 0)


@pytest.mark.parametrize("stream", [False, True])
def test_a_reply_that_takes_too_long_is_504_and_gives_its_place_back(start, stream):
    server = start(Limits(seconds=0.5, at_once=1, queue=0))
    server.engine.gate.clear()
    began = time.monotonic()
    assert server.refused({**GOOD, "stream": stream})[:2] == (504, "timeout")
    assert time.monotonic() - began < 5
    wait_for(lambda: server.service.busy == 0)
    server.engine.gate.set()
    wait_for(lambda: server.post(GOOD)[0] == 200)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_gives_its_place_back(start, stream):
    server = start(Limits(at_once=1, queue=0))
    server.engine.gate.clear()
    body = json.dumps({**GOOD, "stream": stream}).encode()
    line = socket.create_connection(("127.0.0.1", server.port))
    head = (
        "POST /v1/chat/completions HTTP/1.1",
        "Host: x",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    )
    line.sendall("\r\n".join((*head, "", "")).encode() + body)
    wait_for(lambda: server.service.busy == 1)
    line.close()
    wait_for(lambda: server.service.busy == 0)
    server.engine.gate.set()
    wait_for(lambda: called(server.ask([user()])[0]) != [])


def test_a_fault_of_one_reply_is_told_and_the_next_is_made(served, capsys):
    for fault, expected in (
        (ConfigError("the server http://x gave no answer"), (502, "engine_failed")),
        (RuntimeError("out of memory"), (500, "internal_error")),
        (ApiError(400, "no", "no"), (400, "no")),
    ):
        served.engine.fault = fault
        assert served.refused(GOOD)[:2] == expected
    served.engine.fault = None
    assert called(served.ask([user()])[0])
    assert "error: a reply failed: RuntimeError: out of memory" in capsys.readouterr().out


def test_many_clients_share_batches_and_nothing_else(start):
    server = start(Limits(at_once=16))
    server.engine.gate.clear()

    def converse(number):
        messages = [user(f"Request {number}")]
        while True:
            message, why = server.ask(messages)
            messages.append(message)
            if why != "tool_calls":
                return message["content"]
            messages.append(result(message, f"weather {number}"))

    with ThreadPoolExecutor(16) as pool:
        waiting = [pool.submit(converse, number) for number in range(16)]
        wait_for(lambda: server.service.busy == 16)
        server.engine.gate.set()
        said = [future.result() for future in waiting]
    assert said == [f"weather in a city: weather {n}\nsend a text: weather {n}" for n in range(16)]
    assert max(server.engine.batches) >= 8
    assert sum(server.engine.batches) == 48


def test_what_cannot_be_sampled_for_one_client_is_sampled_for_the_others(start, monkeypatch):
    server = start(Limits(at_once=8))
    sample = server.engine.generate_from_drafts

    def generate_from_drafts(policy, role, prompts, drafts, sampling, generator):
        if any("Request 3" in server.engine.builder.tokenizer.decode(list(prompt)) for prompt in prompts):
            server.engine.gate.wait(30)
            raise ConfigError("no grammar can be made of this")
        return sample(policy, role, prompts, drafts, sampling, generator)

    monkeypatch.setattr(server.engine, "generate_from_drafts", generate_from_drafts)
    server.engine.gate.clear()
    with ThreadPoolExecutor(8) as pool:
        asked = {"model": "cahl", "tools": TOOLS}
        waiting = [pool.submit(server.post, asked | {"messages": [user(f"Request {n}")]}) for n in range(8)]
        wait_for(lambda: server.service.busy == 8)
        server.engine.gate.set()
        statuses = [future.result()[0] for future in waiting]
    assert statuses == [200, 200, 200, 502, 200, 200, 200, 200]


def test_a_server_that_is_stopped_tells_its_clients(served):
    served.engine.gate.clear()
    with ThreadPoolExecutor(2) as pool:
        whole, stream = pool.submit(served.post, GOOD), pool.submit(served.post, {**GOOD, "stream": True})
        wait_for(lambda: served.service.busy == 2)
        loop_of(served).call_soon_threadsafe(served.service.close)
        for future in (whole, stream):
            status, _, body = future.result()
            assert (status, json.loads(body)["error"]["code"]) == (503, "shutting_down")
    assert served.refused(GOOD)[:2] == (503, "shutting_down")


def loop_of(server):
    return server.server.servers[0].get_loop()


def test_a_stream_that_waits_is_kept_alive_and_a_late_fault_is_an_event(served, monkeypatch):
    monkeypatch.setattr("cahl_pl.serving.app.KEEP_ALIVE_SECONDS", 0.05)
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    served.engine.outputs = [None]
    plan_told = threading.Event()
    generate = served.engine.generate_from_drafts

    def slowly(policy, role, *rest):
        if role == "executor":
            plan_told.wait(10)
            raise RuntimeError("late")
        return generate(policy, role, *rest)

    monkeypatch.setattr(served.engine, "generate_from_drafts", slowly)
    connection.request(
        "POST", "/v1/chat/completions", json.dumps({**GOOD, "stream": True}), {"Content-Type": "application/json"}
    )
    answer = connection.getresponse()
    lines = [answer.readline()]
    while not lines[-1].startswith(b": still"):
        lines.append(answer.readline())
    assert b"reasoning_content" in lines[0]
    plan_told.set()
    rest = answer.read().decode()
    connection.close()
    assert '"code": "internal_error"' in rest
    assert "[DONE]" not in rest


def deep(levels, inner=1):
    for _ in range(levels):
        inner = {"a": [inner]}
    return inner


@pytest.mark.parametrize("levels", [50, 200, 400])
@pytest.mark.parametrize("place", ["content", "tools", "parameters", "arguments", "result", "top"])
def test_hostile_depth_is_no_fault_of_ours(start, levels, place):
    server = start(max_prompt_tokens=200_000)
    nested = deep(levels)
    call = {"id": "a", "type": "function", "function": {"name": "add", "arguments": json.dumps(nested)}}
    function = {
        "name": "f",
        "parameters": {"type": "object", "properties": {"p": {"default": nested, "enum": [nested]}}},
    }
    body = {
        "content": {**GOOD, "messages": [{"role": "user", "content": nested}]},
        "tools": {**GOOD, "tools": [nested]},
        "parameters": {**GOOD, "tools": [{"type": "function", "function": function}]},
        "arguments": {
            **GOOD,
            "messages": [
                user(),
                {"role": "assistant", "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "a", "content": "1"},
            ],
        },
        "result": {
            **GOOD,
            "messages": [
                user(),
                {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "add", "arguments": '{"a": 1}'}}]},
                {"role": "tool", "tool_call_id": "a", "content": json.dumps(nested)},
            ],
        },
        "top": {**GOOD, "metadata": nested, "n": nested},
    }[place]
    status, _, answer = server.post(body)
    assert status in (200, 400), answer
    assert called(server.ask([user()])[0])
