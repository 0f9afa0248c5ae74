"""Plan and execute against a server, without a model here: what is printed, what is written, what is refused."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import yaml

from cahl_pl.commands import console
from cahl_pl.policy.policy import Policy

PLAN = '<plan>\n{"task": "weather", "tool": "get_weather", "parameters": {"city": "Gage"}}\n</plan>'
CALL = '<tool_call>{"name": "get_weather", "parameters": {"city": "Gage"}}</tool_call>'
TOOLS = '''"""A tool."""


def get_weather(city: str) -> str:
    """weather in a city

    Args:
        city: Name of the city.
    """
    return "sunny"
'''


@pytest.fixture
def served(serve):
    """A server that always plans and calls the same; `models` are the names that it knows."""
    made = SimpleNamespace(models=["planner", "executor"], asked=[])

    def answer(path, headers, body):
        if body is None:
            return 200, {"data": [{"id": name} for name in made.models]}
        made.asked.append(body["model"])
        if body["model"] not in made.models:
            return 404, {}
        return 200, {"choices": [{"text": PLAN if "plan" in body["model"] else CALL, "finish_reason": "stop"}]}

    made.url = serve(answer)
    return made


@pytest.fixture
def ask(served, tiny_model, tmp_path, monkeypatch):
    """Runs the verb."""
    monkeypatch.setattr(Policy, "load", lambda *args: pytest.fail("weights were loaded"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_tools.py").write_text(TOOLS)
    config = {
        "model": {"policy": {"model": str(tiny_model)}},
        "data": {
            "train": {"class_path": "cahl_pl.toolworld.ToolWorld", "init_args": {"size": 4}},
            "test": {
                n: {"class_path": "cahl_pl.toolworld.ToolWorld", "init_args": {"size": 3}} for n in ("one", "two")
            },
            "environment": {"class_path": "cahl_pl.environments.RecordedEnvironment"},
            "eval_batch_size": 2,
        },
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))

    def run(*arguments):
        console(["ask", "--base-url", served.url, "--retries", "0", "-c", "config.yaml", *arguments])
        return [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]

    return run


def test_a_request_is_planned_and_carried_out(ask, served, capsys):
    (episode,) = ask("--requests", "What is the weather in Gage?", "--tools", "my_tools.py")
    assert served.asked == ["planner", "executor"]
    assert episode["steps"][0]["call"] == {"name": "get_weather", "parameters": {"city": "Gage"}}
    assert episode["steps"][0]["feedback"] == '"sunny"'
    out = capsys.readouterr().out
    assert 'call     get_weather {"city": "Gage"}\nresult   "sunny"\n' in out
    assert "succeeded" not in out


def test_test_sets_are_judged_one_by_one(ask, capsys):
    assert len(ask()) == 6
    assert "one: 0 of 3 succeeded (0.0 %)\ntwo: 0 of 3 succeeded (0.0 %)\n" in capsys.readouterr().out


def test_names_that_the_server_does_not_know_are_refused(ask, capsys):
    with pytest.raises(SystemExit) as raised:
        ask("--planner", "my-planner")
    assert raised.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: the server http://127.0.0.1:")
    assert error.endswith("it has the models planner, executor\n")


def test_another_tokenizer_is_looked_for_where_it_is_said_to_be(ask, capsys):
    with pytest.raises(SystemExit):
        ask("--tokenizer", "./nowhere")
    assert "'./nowhere', which does not exist" in capsys.readouterr().err
