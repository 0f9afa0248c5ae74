"""API-Bank: reading rows, both ways of matching, sequences, and the gold of the real rows."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from cahl_pl.benchmarks import APIBank
from cahl_pl.benchmarks.api_bank import SEQUENCES
from cahl_pl.datasets import DataError
from cahl_pl.errors import ConfigError
from cahl_pl.parsing import parse_action
from cahl_pl.schema import check_tool
from cahl_pl.types import NO_RESULT, Message, ToolCall

SYSTEM = (
    "Hello.\n\n**Available Tools**\nIn your response, you can use the following tools:\n{}\n\n"
    "**Steps for Each Turn**\n1. Think"
)
NAMED = (
    "1. Name: Add\nDescription: Adds\nnumbers.\n"
    "Parameters: {'a': {'type': 'int', 'description': \"The first's.\"}, 'b': {'type': 'str'}}"
)
BARE = (
    "1. Find: Finds a name.\nParameters: {}\n"
    "2. Mail: Sends.\nParameters: {'to': {'type': 'str', 'description': 'Who.'}}"
)
ASK = "<user> Based on our conversation above, please only make one tool call to solve my need.</user>\n"
HISTORY = "***Dialogue Records History**\n<user>Hi</user>\n<response>Yes?</response>\n\n" + ASK
OBS = '<tool_call>\n{"name": "Find", "parameters": {}}\n</tool_call>\n<obs> [\'Ann\'] </obs>\n'
ADD = {"name": "Add", "parameters": {"a": 1, "b": "x y"}}


def row(system, user, answer, **other):
    return {"system": SYSTEM.format(system), "user": user, "answer": answer, "other": other}


@pytest.fixture
def folder(tmp_path):
    find, mail = {"name": "Find", "parameters": {}}, {"name": "Mail", "parameters": {"to": "Ann"}}
    request = "**Dialogue Records History**\n<user>Mail her.</user>\n"
    levels = {
        1: [row(NAMED, HISTORY, [ADD])],
        2: [row(NAMED, HISTORY, ADD), row(NAMED, HISTORY, ADD)],
        3: [
            row(BARE, request + ASK, [find], sample_id=7, api_id=1),
            row(BARE, request + OBS + ASK, [mail], sample_id=7, api_id=3),
        ],
    }
    for level, rows in levels.items():
        (tmp_path / f"level-{level}-api_processed.json").write_text(json.dumps(rows))
    return tmp_path


def call(name="Add", **arguments):
    return ToolCall(name, arguments)


def verdicts(writing, folder, written, **options):
    bench = APIBank(folder, levels=[1], **options)
    (one,) = bench.run([0], writing(lambda task: written))
    return one["success"]


def test_a_row_is_read(folder):
    task = APIBank(folder).task(0)
    assert task.messages == (
        Message("user", "Hi"),
        Message("assistant", "Yes?"),
        Message("user", "Based on our conversation above, please only make one tool call to solve my need."),
    )
    (tool,) = task.tools
    assert (tool.name, tool.description) == ("Add", "Adds\nnumbers.")
    assert tool.parameters["properties"] == {
        "a": {"type": "integer", "description": "The first's."},
        "b": {"type": "string", "description": ""},
    }
    assert task.gold[0].call == call(a=1, b="x y")


def test_level_3_tools_and_turns_are_read(folder):
    task = APIBank(folder, levels=[3]).task(1)
    assert [(tool.name, tool.description) for tool in task.tools] == [("Find", "Finds a name."), ("Mail", "Sends.")]
    assert [message.role for message in task.messages] == ["user", "assistant", "tool", "user"]
    assert task.messages[2].content == "['Ann']"


@pytest.mark.parametrize(
    ("written", "strict", "toolrl"),
    [
        ([call(a=1, b="x y")], True, True),
        ([call(a=1.0, b="x y ")], True, False),  # white space around a text: only `==` minds
        ([call(a="1", b="x y")], False, False),
        ([call(a=1)], False, False),
        ([call(a=1, b="x y"), call(a=2, b="x y")], False, True),
        ([call(a=1, b="x y"), "done"], True, True),
        ([call("Sub", a=1, b="x y")], False, False),
        (["done"], False, False),
        ("no plan", False, False),
    ],
)
def test_matching(writing, folder, written, strict, toolrl):
    assert verdicts(writing, folder, written) is strict
    assert verdicts(writing, folder, written, match="toolrl") is toolrl


@pytest.mark.parametrize(
    ("payload", "right"),
    [('{"a": 1, "b": "x y"}', True), ('{"a": 2, "b": "x y"}', False), ("[" * 9999, False), ("[1]", False)],
)
def test_toolrl_takes_bare_arguments_for_the_gold_tool(writing, folder, payload, right):
    bench = APIBank(folder, levels=[1], match="toolrl")
    (episode,) = writing(lambda task: [call()])([bench.task(0)], bench.environment)
    text = f"<tool_call>{payload}</tool_call>"
    episode = replace(episode, steps=(replace(episode.steps[0], text=text, action=parse_action(text)),))
    assert bench.check(0, episode)["success"] is right


def test_levels_are_pooled_by_rows(writing, folder):
    bench = APIBank(folder, levels=[1, 2])
    records = bench.run([0, 1, 2], writing(lambda task: [call(a=1, b="x y")] if task.id == "level-1-0" else ["no"]))
    assert bench.score(records) == {"overall": 1 / 3, "level-1": 1.0, "level-2": 0.0}
    assert bench.denominators(records) == {"overall": 3, "level-1": 1, "level-2": 2}
    assert bench.remarks(records) == ["not run, and no part of the overall score: level 3"]


def test_sequences_run_on_recorded_answers_and_stand_apart(writing, folder):
    bench = APIBank(folder, levels=[3], sequences=True)
    assert list(bench.ids) == ["level-3-0", "level-3-1", "level-3-sample-7"]
    evaluate = writing(lambda task: [call("Find"), call("Mail", to="Bob")])
    records = bench.run([2, 0, 1], evaluate)
    sequence = records[0]
    assert sequence["group"] == SEQUENCES
    assert evaluate.tasks[-1].messages == (Message("user", "Mail her."),)
    found, mailed = sequence["episodes"][0]["steps"]
    assert (found["feedback"], mailed["error"]) == ("\"['Ann']\"", "unmatched")
    assert bench.score(records) == {
        "overall": 0.0,
        SEQUENCES: 0.0,
        "level-3": 0.0,
        f"{SEQUENCES}/calls": 0.5,  # Find is right, Mail is not
    }
    assert bench.denominators(records) == {"overall": 2, "level-3": 2, SEQUENCES: 1, f"{SEQUENCES}/calls": 2}


def test_a_share_has_all_levels(folder):
    assert list(APIBank(folder, max_tasks=3).ids) == ["level-1-0", "level-2-0", "level-3-0"]


def test_wrong_options_and_rows_are_named(folder):
    with pytest.raises(ConfigError, match="levels 1, 2 and 3"):
        APIBank(folder, levels=[4])
    with pytest.raises(ConfigError, match="sequences"):
        APIBank(folder, levels=[1], sequences=True)
    path = folder / "level-1-api_processed.json"
    path.write_text(json.dumps([{**row(NAMED, HISTORY, [ADD]), "system": "nothing"}]))
    with pytest.raises(DataError, match=r"level-1-api_processed\.json, row 1 .*'system' lists no tools"):
        APIBank(folder)
    path.unlink()
    with pytest.raises(DataError, match="no such file"):
        APIBank(folder)


@pytest.mark.parametrize("match", ["strict", "toolrl"])
def test_gold_is_right_on_all_real_rows(data_dir, writing, match):
    bench = APIBank(data_dir / "apibank", match=match, sequences=True)
    records = bench.run(range(len(bench)), writing(lambda task: [gold.call for gold in task.gold]))
    assert set(bench.score(records).values()) == {1.0}
    assert bench.denominators(records) == {
        "overall": 597,
        "level-1": 399,
        "level-2": 67,
        "level-3": 131,
        SEQUENCES: 50,
        f"{SEQUENCES}/calls": 131,
    }


def test_real_tools_are_valid_schemas_and_sequences_have_their_answers(data_dir):
    bench = APIBank(data_dir / "apibank", levels=[3], sequences=True)
    samples = [bench.task(i) for i in range(len(bench)) if bench.group(i) == SEQUENCES]
    for task in samples:
        for tool in task.tools:
            check_tool(tool, task.id)
        assert [gold.result is NO_RESULT for gold in task.gold] == [False] * (len(task.gold) - 1) + [True]
    assert {len(task.gold) for task in samples} == {2, 3, 4, 5}
