"""Tools of MCP servers: a small server of the tests, one that lies, and a real one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("mcp", reason="MCP servers need the package mcp")

from cahl_pl.datasets import JsonlDataset
from cahl_pl.datasets.requests import Requests
from cahl_pl.environments import McpEnvironment, McpTools
from cahl_pl.environments.mcp_connection import _read
from cahl_pl.environments.mcp_tools import _started
from cahl_pl.errors import ConfigError, SchemaError
from cahl_pl.types import Feedback, Message, Task, ToolCall

HERE = Path(__file__).parent
USER = (Message("user", "q"),)


@pytest.fixture
def write(tmp_path: Path):
    """Write a file of servers, and end them after the test."""

    def make(**servers) -> str:
        path = tmp_path / "servers.json"
        path.write_text(json.dumps({"mcpServers": servers}))
        return str(path)

    before = set(_live())
    yield make
    for connection in _live() - before:
        connection.close()
    _started.clear()


def _live() -> set:
    from cahl_pl.environments import mcp_connection

    return set(mcp_connection._live)


def toys(tmp_path: Path, port: int = 0) -> dict:
    return {"command": sys.executable, "args": [str(HERE / "mcp_toys.py"), str(port), str(tmp_path / "pids")]}


def liar(how: str = "") -> dict:
    return {"command": sys.executable, "args": [str(HERE / "mcp_liar.py"), how]}


def pids(tmp_path: Path) -> list[int]:
    return [int(line) for line in (tmp_path / "pids").read_text().split()]


def session_of(environment: McpEnvironment):
    return environment.start(Task("t", USER, environment.tools.specs))


def ask(session, name: str, **arguments) -> Feedback:
    return session.call(ToolCall(name, arguments))


def test_a_program_answers_calls(write, tmp_path: Path) -> None:
    environment = McpEnvironment(write(toys=toys(tmp_path)), call_seconds=20, max_characters=100)
    specs = {spec.name: spec for spec in environment.tools.specs}
    assert list(specs) == ["add", "note", "build", "say", "picture", "fail", "hang", "die"]
    assert specs["add"].description == "Add two numbers."
    assert specs["add"].parameters["required"] == ["a", "b"]
    session = session_of(environment)
    assert ask(session, "add", a="1", b=2) == Feedback("3")
    assert ask(session, "say", text="7") == Feedback('"7"')
    assert ask(session, "say", text="hi") == Feedback('"hi"')
    assert json.loads(ask(session, "build", part={"name": "nut"}).text) == {"name": "nut", "count": 2}
    assert json.loads(ask(session, "note", text="a").text) == ["a"]
    assert ask(session, "picture").text == '"[image: image/png]"'
    long = ask(session, "say", text="x", times=1_000_000)
    assert (len(long.text), long.text[-3:], long.error) == (100, "...", None)
    failed = ask(session, "fail", why="no stock")
    assert (json.loads(failed.text), failed.error) == ({"error": "Error executing tool fail: no stock"}, "tool")
    assert ask(session, "add", a=1).error == "missing"
    assert ask(session, "nothing").error == "unknown_tool"
    assert len(pids(tmp_path)) == 1


def test_a_program_that_ends_or_hangs_costs_the_call_alone(write, tmp_path: Path) -> None:
    environment = McpEnvironment(write(toys=toys(tmp_path)), call_seconds=20)
    session = session_of(environment)
    ended = ask(session, "die")
    assert ended.error == "tool"
    assert "its server was lost and has been started again" in ended.text
    assert ask(session, "add", a=1, b=2) == Feedback("3")
    assert len(pids(tmp_path)) == 2
    os.kill(pids(tmp_path)[-1], signal.SIGKILL)
    assert ask(session, "add", a=1, b=2).error == "tool"
    assert ask(session, "add", a=1, b=2) == Feedback("3")
    assert len(pids(tmp_path)) == 3
    environment.call_seconds = 0.5
    began = time.monotonic()
    late = ask(session, "hang", seconds=60)
    assert late.error == "tool"
    assert "the tool took longer than 0.5 s" in late.text
    assert time.monotonic() - began < 45
    environment.call_seconds = 20
    assert ask(session, "add", a=1, b=2) == Feedback("3")


LIES = {
    "no JSON": "longer than 1 s",
    "no message": "longer than 1 s",
    "wrong result": "the server failed",
    "wrong part": "the server failed",
    "list": "",
    "error": "so it is",
    "stranger": "longer than 1 s",
    "bytes": "longer than 1 s",
    "silence": "longer than 1 s",
}


def test_lies_are_told_to_the_policy(write) -> None:
    environment = McpEnvironment(write(liar=liar()), call_seconds=1.0)
    session = session_of(environment)
    for how, message in LIES.items():
        answer = ask(session, "lie", how=how)
        assert (how, answer.error) == (how, "tool")
        assert message in json.loads(answer.text)["error"], how
        assert len(answer.text) < 400
        assert ask(session, "lie", how="good") == Feedback('"truth"'), how
    environment.call_seconds = 30
    assert ask(session, "lie", how="huge").text == '"' + "x" * 1996 + "..."


def test_noise_beside_the_messages_is_passed_over(write) -> None:
    session = session_of(McpEnvironment(write(liar=liar("noise"))))
    assert ask(session, "lie", how="good") == Feedback('"truth"')


def test_a_tool_with_a_wrong_schema_is_left_out_and_told(write) -> None:
    with pytest.warns(
        UserWarning, match="not offered as tools: MCP server 'liar', tool 'bad': parameters are not valid"
    ):
        tools = McpTools(write(liar=liar("bad tool")))
    assert [spec.name for spec in tools.specs] == ["lie"]


def test_schemas_of_older_drafts_and_behind_a_reference_are_read() -> None:
    pair = {"items": [{"type": "number"}, {"type": "string"}], "additionalItems": False}
    schema = {"$ref": "#/$defs/In", "$defs": {"In": {"properties": {"items": pair}, "required": ["items"]}}}
    spec = _read(SimpleNamespace(name="f", description=None, input_schema=schema), "x")
    wanted = {"prefixItems": pair["items"], "items": False}
    assert (spec.parameters["type"], spec.parameters["properties"]) == ("object", {"items": wanted})
    assert spec.parameters["required"] == ["items"]
    deep: Any = {}
    for _ in range(5000):
        deep = {"items": deep}
    with pytest.raises(SchemaError, match="x, tool 'f': parameters are not valid JSON Schema: nested too deeply"):
        _read(SimpleNamespace(name="f", description=None, input_schema={"type": "object", "not": deep}), "x")


def test_a_server_that_is_not_there_is_one_sentence(write) -> None:
    began = time.monotonic()
    with pytest.raises(
        ConfigError, match=r"the MCP server 'liar' \(.*mcp_liar.py silence\) cannot be reached \(no answer in 2 s"
    ):
        McpEnvironment(write(liar=liar("silence")), start_seconds=2)
    assert time.monotonic() - began < 30
    with pytest.raises(ConfigError, match=r"server 'x' .* cannot be reached .*No such file.*see that the program runs"):
        McpEnvironment(write(x={"command": "no-such-program"}))
    broken = {"command": sys.executable, "args": ["-c", "raise SystemExit('the key is missing')"]}
    with pytest.raises(ConfigError, match="it said: the key is missing") as error:
        McpEnvironment(write(x=broken), start_seconds=20)
    assert "\n" not in str(error.value)
    with pytest.raises(
        ConfigError, match=r"the MCP server 'x' \(http.*\) cannot be reached .*: start it, or correct the url$"
    ):
        McpEnvironment(write(x={"url": f"http://127.0.0.1:{free_port()}/mcp"}), start_seconds=2)


def test_a_task_with_other_tools_and_two_servers_with_the_same_tool(write, tmp_path: Path) -> None:
    path = write(one=liar(), two=liar("noise"))
    with pytest.raises(ConfigError, match="the servers 'one' and 'two' both have a tool 'lie'"):
        McpTools(path)
    environment = McpEnvironment(write(one=toys(tmp_path)))
    other = Task("t7", USER, McpTools(write(one=liar())).specs)
    with pytest.raises(
        ConfigError, match=r"task 't7' offers tools that no MCP server has: \['lie'\]; they have: add, note"
    ):
        environment.start(other)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_server_over_http_is_waited_for(write, tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, *toys(tmp_path, port)["args"]]
    path = write(toys={"url": f"http://127.0.0.1:{port}/mcp", "headers": {"Authorization": "Bearer x"}})
    running = subprocess.Popen(command)
    try:
        environment = McpEnvironment(path, call_seconds=10, start_seconds=60)
        session = session_of(environment)
        assert ask(session, "add", a=1, b=2) == Feedback("3")
        running.kill()
        running.wait()
        running = subprocess.Popen(command)
        assert ask(session, "add", a=1, b=2).error in (None, "tool")
        assert ask(session, "add", a=2, b=2) == Feedback("4")
    finally:
        running.kill()
        running.wait()
    environment.tools.connections["add"].start_seconds = 2
    with pytest.raises(ConfigError, match=r"cannot be reached again .* then resume with --ckpt_path last$"):
        ask(session, "add", a=1, b=2)


def test_rows_and_requests_take_their_tools_from_servers(write, tmp_path: Path) -> None:
    path = write(toys=toys(tmp_path))
    rows = tmp_path / "rows.jsonl"
    gold = [{"name": "add", "arguments": {"a": 1, "b": 2}}]
    rows.write_text(json.dumps({"id": "1", "messages": [{"role": "user", "content": "1 + 2?"}], "gold": gold}) + "\n")
    dataset = JsonlDataset(rows, tools=path)
    assert [tool.name for tool in dataset[0].tools][:2] == ["add", "note"]
    requests = Requests("1 + 2?", tools=path)
    assert ask(requests.environment.start(requests[0]), "add", a=1, b=2) == Feedback("3")
    assert len(pids(tmp_path)) == 1


@pytest.mark.skipif(
    shutil.which("mcp-server-time", path=str(Path(sys.executable).parent)) is None, reason="needs mcp-server-time"
)
def test_a_real_server(write) -> None:
    program = str(Path(sys.executable).parent / "mcp-server-time")
    environment = McpEnvironment(write(time={"command": program, "args": ["--local-timezone", "UTC"]}))
    assert [spec.name for spec in environment.tools.specs] == ["get_current_time", "convert_time"]
    session = session_of(environment)
    answer = ask(session, "convert_time", source_timezone="UTC", time="12:00", target_timezone="Asia/Tokyo")
    assert json.loads(answer.text)["time_difference"] == "+9.0h"
    assert ask(session, "get_current_time", timezone="Nowhere/Else").error == "tool"
