"""The process of BFCL's code: what may be evaluated there, its limits, and what a lost process costs."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from cahl_pl.benchmarks.bfcl.checker import Backends, BackendSession, Checker, call_text
from cahl_pl.benchmarks.bfcl.data import load_entries, package_folder
from cahl_pl.errors import ConfigError
from cahl_pl.types import Message, Task, ToolCall


@pytest.fixture(scope="module")
def folder():
    return package_folder(None)


@pytest.fixture
def checker(folder):
    made = Checker(folder, seconds=60, memory_mib=512)
    yield made
    made.close()


@pytest.fixture(scope="module")
def entry(folder):
    """Files: document/final_report.pdf and more."""
    return load_entries(folder, "multi_turn_base")[0]


@pytest.fixture
def session(checker, entry):
    made = BackendSession(checker, entry)
    return Backends({"t": made}).start(Task("t", (Message("user", "q"),), entry.tools()))


@pytest.mark.parametrize(
    ("name", "arguments", "text"),
    [
        ("cd", {"folder": "it's"}, 'cd(folder="it\'s")'),
        ("cd", {"folder": "'); exit("}, 'cd(folder="\'); exit(")'),
        ("cd", {"a": [1, None, True, {"k": 1.5}]}, "cd(a=[1, None, True, {'k': 1.5}])"),
        ("exec", {"source": "1"}, None),
        ("cd(", {}, None),
        ("cd", {"a=1, b": 1}, None),
        ("cd", {"class": 1}, None),
        ("cd", {"": 1}, None),
    ],
)
def test_only_declared_functions_and_json_values_are_evaluated(name, arguments, text):
    assert call_text(ToolCall(name, arguments), {"cd", "cd("}) == text


def test_calls_change_a_state_that_later_calls_see(session, checker):
    assert session.call(ToolCall("cd", {"folder": "document"})).error is None
    listed = session.call(ToolCall("ls", {}))
    assert "final_report.pdf" in listed.text
    failed = session.call(ToolCall("cd", {"folder": "nowhere"}))
    assert (failed.error, "nowhere" in failed.text) == ("tool", True)
    wrong = session.call(ToolCall("cd", {"place": "document"}))
    assert (wrong.error, "unexpected keyword argument" in wrong.text) == ("missing", True)
    assert session.call(ToolCall("open", {"file": "/etc/passwd"})).error == "unknown_tool"
    assert session.call(ToolCall("cd", {"folder='x') or (": 1})).error == "missing"
    assert session.calls == ["cd(folder='document')", "ls()", "cd(folder='nowhere')", "cd(place='document')"]


def test_a_lost_process_costs_one_call(session, checker, monkeypatch):
    session.call(ToolCall("cd", {"folder": "document"}))
    os.kill(checker._process.pid, signal.SIGKILL)
    time.sleep(0.05)
    lost = session.call(ToolCall("ls", {}))
    assert (lost.error, lost.text) == ("tool", '{"error": "the process has died"}')
    assert "final_report.pdf" in session.call(ToolCall("ls", {})).text  # still in the folder
    assert (checker.lost, checker.generation) == (1, 2)


def test_a_hanging_call_is_killed(folder):
    entry = next(e for e in load_entries(folder, "multi_turn_base") if "MathAPI" in e.state["involved_classes"])
    checker = Checker(folder, seconds=5.0, memory_mib=512)
    session = BackendSession(checker, entry)
    Backends({"t": session}).start(Task("t", (Message("user", "q"),), entry.tools()))
    start = time.monotonic()
    # 10 ** 10 ** 10, in C
    hung = session.call(ToolCall("power", {"base": 10, "exponent": 10**10}))
    assert time.monotonic() - start < 60
    assert (hung.error, hung.text) == ("tool", '{"error": "no answer within 5 s"}')
    assert "5.0" in session.call(ToolCall("mean", {"numbers": [4, 6]})).text
    checker.close()


@pytest.mark.parametrize("request_", [{"op": "nothing"}, {"op": "main"}, {"op": "ast"}, []])
def test_a_request_that_fails_is_answered(checker, request_):
    assert "error" in checker.request(request_)
    assert checker.lost == 0


def test_hostile_arguments_give_a_verdict(checker, folder):
    entry = load_entries(folder, "simple_java")[1]  # a HashMap, read by regular expressions
    name = entry.functions[0]["name"]
    for value in ("new HashMap<" * 3000, {"a": [1]}, None, "\ud800", 10**290):
        arguments = {"object": "x", "useShortName": "true", "params": value}
        assert checker.check_calls(entry, [ToolCall(name, arguments)])["success"] is False
    assert checker.check_calls(entry, [])["error"].startswith("simple_function_checker:wrong_count")


def test_limits_hold(checker):
    checker.start()
    process = Path(f"/proc/{checker._process.pid}")
    limits = {line[:25].strip(): line[25:].split()[:2] for line in (process / "limits").read_text().splitlines()}
    assert limits["Max address space"] == [str(512 * 2**20)] * 2
    assert limits["Max file size"] == ["0", "0"]
    assert (process / "environ").read_bytes() == b""
    if checker.network_cut_off:
        devices = (process / "net" / "dev").read_text().splitlines()[2:]
        assert [line.split(":")[0].strip() for line in devices] == ["lo"]


def test_closing_ends_the_process(checker):
    checker.start()
    process = checker._process
    checker.close()
    assert process.poll() is not None
    checker.close()


def test_a_process_that_cannot_start_is_named(folder):
    with pytest.raises(ConfigError, match="the checkers of BFCL cannot be started"):
        Checker(folder, seconds=1, memory_mib=1).start()
