"""Requests without reference calls: from one text or a file, with tools of several kinds, to the terminal and the file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from cahl_pl.cli import main
from cahl_pl.commands import console
from cahl_pl.datasets import DataError, Requests
from cahl_pl.environments import RecordedEnvironment
from cahl_pl.errors import ConfigError
from cahl_pl.parsing import parse_action
from cahl_pl.runs.records import record
from cahl_pl.types import Message, Plan, Step, SubTask, ToolCall, Trajectory

ROOT = Path(__file__).resolve().parents[2]
TOOLS = '''
def now(zone: str, state: dict) -> str:
    """Tell the time.

    Args:
        zone: The time zone.
    """
    return state.get("time", "12:00") + " " + zone


def beep() -> str:
    """Make a sound."""
    return "beep"
'''
SCHEMA = {"name": "ring", "description": "Ring.", "parameters": {"type": "object", "properties": {}}}
OFFER = [{"type": "function", "function": SCHEMA}]


@pytest.fixture
def tools(tmp_path):
    path = tmp_path / "my_tools.py"
    path.write_text(TOOLS)
    return str(path)


@pytest.fixture
def write(tmp_path):
    """Writes a file of lines: values as JSON, text as it is."""

    def lines(*values, name="requests.jsonl"):
        path = tmp_path / name
        path.write_text("".join((v if isinstance(v, str) else json.dumps(v)) + "\n" for v in values))
        return str(path)

    return lines


def ask(requests, index, name, **arguments):
    return requests.environment.start(requests[index]).call(ToolCall(name, arguments))


def test_a_text_is_one_request_and_the_functions_answer(tools):
    requests = Requests("What time is it: now?", tools)
    (task,) = requests
    assert (task.id, task.messages) == ("request-1", (Message("user", "What time is it: now?"),))
    assert [tool.name for tool in task.tools] == ["now", "beep"]
    assert (task.gold, task.tags) == ((), {"kind": "request"})
    assert ask(requests, 0, "now", zone="UTC").text == '"12:00 UTC"'


def test_lines_of_a_file_may_be_text_or_say_more(tools, write):
    dialogue = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    source = write(
        '"What time is it?"',
        {"request": "Beep!", "id": "noise", "tools": ["beep"]},
        "",
        {"messages": dialogue, "state": {"time": "9:30"}},
    )
    requests = Requests(source, tools)
    assert [task.id for task in requests] == ["request-1", "noise", "request-3"]
    assert [task.request for task in requests] == ["What time is it?", "Beep!", "c"]
    assert [tool.name for tool in requests[1].tools] == ["beep"]
    assert len(requests[2].messages) == 3
    assert ask(requests, 2, "now", zone="UTC").text == '"9:30 UTC"'


def test_a_text_file_is_a_request_a_line(tools, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "requests.txt").write_text("\ufeffMail Bob: we are late\n\n- first do a\n")
    assert [task.request for task in Requests("requests.txt", tools)] == ["Mail Bob: we are late", "- first do a"]
    (tmp_path / "requests.csv").write_text("a,b\n")
    with pytest.raises(DataError, match=r"^requests\.csv: this is a file; requests stand in \.txt, \.jsonl or \.json"):
        Requests("requests.csv", tools)
    assert Requests("Delete old.json", tools)[0].request == "Delete old.json"  # no such file: it is text
    assert Requests("notes.txt", tools)[0].request == "notes.txt"


def test_tools_that_are_only_described_are_acknowledged(write):
    for requests in (
        Requests("Ring!", write(OFFER, name="tools.json")),
        Requests(write({"request": "Ring!", "tools": OFFER})),
    ):
        assert requests[0].tools[0].name == "ring"
        assert ask(requests, 0, "ring").text == '{"status": "ok"}'
        assert ask(requests, 0, "rang").error == "unknown_tool"


def test_another_environment_may_answer(tools, write):
    environment = RecordedEnvironment()
    requests = Requests(write({"request": "Ring!", "tools": OFFER}), tools, environment)
    assert requests.environment is environment


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('"half', "not JSON"),
        ("7", "a request must be text or an object, not an integer"),
        ('" "', "the request is empty; write what is to be done"),
        ('{"request": 5}', "the field 'request' must be text"),
        ('{"id": "x"}', "give either the field 'request' or the field 'messages'"),
        ('{"request": "x", "messages": []}', "give either the field 'request' or the field 'messages'"),
        ('{"messages": []}', "the field 'messages' must end with a user's message or a tool's answer"),
        (
            '{"request": "x", "gold": []}',
            "a request has no field 'gold', only .*; tasks with known calls belong in data.test",
        ),
        ('{"request": "x", "id": "request-1"}', "the id 'request-1' appears twice"),
        ('{"request": "x", "tools": ["bop"]}', "no function is named 'bop'; there are: now, beep"),
        (
            json.dumps({"request": "x", "tools": OFFER}),
            "my_tools.py has no function 'ring'; list its functions by name",
        ),
    ],
)
def test_a_bad_line_is_named(tools, write, line, reason):
    source = write('"Good."', line)
    with pytest.raises(DataError, match=rf"^{source}, line 2: .*{reason}") as raised:
        Requests(source, tools)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("source", "tools_", "kind", "reason"),
    [
        (" ", None, DataError, "^the request: there are no tools; give data.requests.init_args.tools a Python file"),
        ("", "my_tools.py", DataError, "^the request: the request is empty; write what is to be done"),
        ("none.jsonl", "my_tools.py", DataError, "^none.jsonl: there is no such file"),
        ("empty.jsonl", "my_tools.py", DataError, "^empty.jsonl: there is no request in the file; write one a line"),
        ("x", "none.py", ConfigError, "^there is no file 'none.py' of Python tools"),
        ("x", "no.such.module", ConfigError, "^the module 'no.such.module' of Python tools cannot be imported"),
        ("x", "none.json", DataError, "^none.json: the tools cannot be read .*; correct the path"),
        ("x", "bad.json", DataError, "^bad.json: not JSON.*; give a list of tools as in OpenAI's chat API"),
        (
            "x",
            "flat.json",
            DataError,
            "^flat.json: the field 'tools', tool 1: the field 'name' is missing; give a list",
        ),
    ],
)
def test_what_cannot_be_used_is_one_sentence(tools, write, tmp_path, monkeypatch, source, tools_, kind, reason):
    monkeypatch.chdir(tmp_path)
    write(name="empty.jsonl")
    write("[", name="bad.json")
    write([{"type": "function"}], name="flat.json")
    with pytest.raises(kind, match=reason) as raised:
        Requests(source, tools_)
    assert "\n" not in str(raised.value)


def test_a_record_claims_neither_success_nor_failure(tools):
    (task,) = Requests("Beep!", tools)
    answer = "<answer>Beep.</answer>"
    step = Step(SubTask("say it", None), answer, parse_action(answer))
    shown = record(Trajectory(task, "", Plan((step.subtask,)), (step,)))
    assert shown["success"] is None
    assert "gold" not in shown
    assert shown["steps"][0]["answer"] == "Beep."


@pytest.fixture
def predict(tiny_model, tmp_path, tools, monkeypatch):
    """Runs `predict` of the quickstart with the tiny model, as from a shell."""
    monkeypatch.chdir(ROOT)

    def run(source, *arguments):
        values = {
            "model.policy.model": tiny_model,
            "data.requests.class_path": "cahl_pl.datasets.Requests",
            "data.requests.init_args.source": source,
            "data.requests.init_args.tools": tools,
            "data.rollout.planner.max_new_tokens": 6,
            "data.rollout.executor.max_new_tokens": 6,
            "trainer.logger": "false",
            "trainer.default_root_dir": tmp_path,
        }
        command = ["predict", "-c", "configs/quickstart.yaml", *(f"--{key}={value}" for key, value in values.items())]
        monkeypatch.setattr(sys, "argv", ["cahl_pl"])
        main([*command, *arguments])
        return [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]

    return run


def test_predict_runs_requests_in_place_of_the_test_sets(predict, capsys):
    (episode,) = predict("Remind me: beep \x1b[2J", "--data.inference.replans=1")
    assert (episode["request"], episode["success"]) == ("Remind me: beep \x1b[2J", None)
    shown = capsys.readouterr().out
    assert "\nrequest  Remind me: beep \\x1b[2J\nplan     unreadable: there must be one <plan>" in shown
    assert shown.count("request  ") == 1


def test_requests_of_a_larger_batch_are_printed_when_it_is_done(predict, write, capsys):
    source = write(*(f'"Beep {n} times."' for n in range(7)))
    assert len(predict(source)) == 7
    shown = capsys.readouterr().out
    assert [f"request  Beep {n} times." in shown for n in range(7)] == [True] * 7
    assert shown.count("request  ") == 7


def test_a_bad_request_stops_the_command_in_one_sentence(tools, monkeypatch, capfd):
    monkeypatch.chdir(ROOT)
    arguments = [
        "--data.requests=cahl_pl.datasets.Requests",
        "--data.requests.source=none.jsonl",
        f"--data.requests.tools={tools}",
    ]
    monkeypatch.setattr(sys, "argv", ["cahl_pl", "predict", "-c", "configs/quickstart.yaml", *arguments])
    with pytest.raises(SystemExit) as stopped:
        console()
    assert stopped.value.code == 2
    error = capfd.readouterr().err
    assert error[error.index("error: ") :].startswith("error: none.jsonl: there is no such file")
