from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cahl_pl.datasets.formats.api_bank import (
    TOOL_SEARCHER,
    api_bank_sequence,
    api_bank_task,
    dialogue_rows,
    dialogue_tasks,
    group_samples,
    read_declared_tools,
    with_references,
)
from cahl_pl.datasets.loading import judge
from cahl_pl.datasets.rows import FileRow, read_rows
from cahl_pl.errors import DataError
from cahl_pl.types import NO_RESULT, GoldCall, Message, Task

ONE = "level-1-given-desc"
ASK = "<user> Based on our conversation above, please only make one tool call to solve my need.</user>"
SYSTEM = (
    "Intro.\n\n**Available Tools**\nIn your response, you can use the following tools:\n"
    "1. Name: GetToken\nDescription: Get: the token.\nParameters: {'user': {'type': 'str', 'description': \"User's name.\"}}\n"
    "2. Add: Add it.\nParameters: {'token': {'type': 'str', 'description': 'Token.'}, 'n': {'type': 'list(str)'}}\n\n"
    "**Steps for Each Turn**\n1. Think"
)


def row(user: str, answer: Any, **other: Any) -> dict[str, Any]:
    return {
        "system": SYSTEM,
        "user": f"**Dialogue Records History**\n{user}\n\n{ASK}\n",
        "answer": answer,
        "other": other,
    }


GET = {"name": "GetToken", "parameters": {"user": "bob"}}
ADD = {"name": "Add", "parameters": {"token": "t0k", "n": "1"}}
FIRST = row("<user>Add 1 for bob</user>", [GET], sample_id=4, api_id=1)
OBSERVED = "{'api_name': 'GetToken', 'input': {}, 'output': {'token': 't0k', 'ok': None}, 'exception': None}"
SECOND = row(
    f"<user>Add 1 for bob</user>\n<tool_call>\n{json.dumps(GET)}\n</tool_call>\n<obs> {OBSERVED} </obs>",
    [ADD],
    sample_id=4,
    api_id=3,
)


def test_a_row_becomes_a_task() -> None:
    task = api_bank_task(FIRST, "level-1-0")
    assert (task.id, task.tags, task.ordered) == ("level-1-0", {"kind": "single"}, False)
    assert task.messages == (Message("user", "Add 1 for bob"), Message("user", ASK[7:-7]))
    assert task.gold == (GoldCall("GetToken", {"user": "bob"}),)
    assert [(tool.name, tool.description) for tool in task.tools] == [
        ("GetToken", "Get: the token."),
        ("Add", "Add it."),
    ]
    assert task.tools[0].parameters == {
        "type": "object",
        "properties": {"user": {"type": "string", "description": "User's name."}},
    }
    assert task.tools[1].parameters["properties"] == {"token": {"type": "string", "description": "Token."}, "n": {}}


def test_level_two_differs_in_header_and_answer() -> None:
    level_two = FIRST | {"user": "*" + FIRST["user"], "answer": GET}
    assert api_bank_task(level_two, "x") == api_bank_task(FIRST, "x")


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({}, "the field 'answer' is missing"),
        (FIRST | {"answer": "x"}, "the field 'answer' must be a list"),
        (FIRST | {"answer": [{"name": "f"}]}, "the field 'answer': the field 'parameters' is missing"),
        (FIRST | {"system": "x"}, "the field 'system': there is no section"),
        (
            FIRST | {"system": SYSTEM.replace("{'user'", "{user")},
            "the parameters of tool 'GetToken': the value .* is not a literal",
        ),
        (FIRST | {"user": "hello"}, "the field 'user': no turn of the dialogue starts at 'hello'"),
    ],
)
def test_malformed_rows_name_the_field(broken: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        api_bank_task(broken, "x")


def rows(*values: Any) -> list[FileRow]:
    return [FileRow(i, f"f, row {i}", value, None) for i, value in enumerate(values)]


def test_rows_of_a_sample_become_a_sequence() -> None:
    other = row("<user>Hi</user>", [GET], sample_id=5)
    groups = list(group_samples(rows(FIRST, SECOND, other, row("<user>Hi</user>", [GET]), 3)))
    assert [len(group.value) for group in groups] == [2, 1, 1, 1]
    assert [group.where for group in groups] == ["f, row 0", "f, row 2", "f, row 3", "f, row 4"]
    task = api_bank_sequence(groups[0].value, "level-3")
    assert (task.id, task.ordered, task.tags) == ("level-3-sample-4", True, {"kind": "nested"})
    assert task.messages == (Message("user", "Add 1 for bob"),)  # not: only one call
    assert task.gold == (
        GoldCall("GetToken", {"user": "bob"}, {"token": "t0k", "ok": None}),
        GoldCall("Add", {"token": "t0k", "n": "1"}, NO_RESULT, {"token": "$1"}),
    )
    with pytest.raises(DataError, match="of 2 calls, 0 results are recorded before the last"):
        api_bank_sequence([FIRST, FIRST], "x")
    with pytest.raises(DataError, match="the field 'other' has no 'sample_id'"):
        api_bank_sequence([groups[2].value[0]], "x")
    broken = [*rows(FIRST), FileRow(1, "f, row 1", None, "not JSON")]
    assert [group.fault for group in group_samples(broken)] == [None, "f, row 1: not JSON"]


def test_a_number_that_is_written_as_text_is_a_reference_too() -> None:
    """Level 3 writes the arguments of later calls as text, and its recorded results as numbers."""
    gold = [
        GoldCall("Geocoding", {"address": "New York"}, {"latitude": 40.7128, "name": "x"}),
        GoldCall("Near", {"latitude": "40.7128", "distance": "1000"}, NO_RESULT),
    ]
    found = with_references(gold, [Message("user", "Restaurants within 1000 m of New York?")])
    assert [dict(call.references) for call in found] == [{}, {"latitude": "$1"}]


def test_references_are_values_that_only_a_result_holds() -> None:
    gold = [
        GoldCall("f", {"x": "a"}, {"list": [{"id": 7}, "Bob", True]}),
        GoldCall("g", {"id": 7, "name": "Bob", "yes": True, "other": "z"}, 7),
        GoldCall("h", {"id": 7.0, "l": ["Bob"]}),
    ]
    found = with_references(gold, [Message("user", "call BOB")])
    assert [call.references for call in found] == [{}, {"id": "$1"}, {"id": "$2"}]
    assert [call.arguments for call in found] == [call.arguments for call in gold]


def api(name: str, result: Any, exception: Any = None, **parameters: Any) -> dict[str, Any]:
    return {
        "role": "API",
        "api_name": name,
        "param_dict": parameters,
        "result": {"output": result, "exception": exception},
    }


def user(text: str) -> dict[str, str]:
    return {"role": "User", "text": text}


def ai(text: str) -> dict[str, str]:
    return {"role": "AI", "text": text}


def test_each_turn_of_the_user_becomes_a_task(tmp_path: Path) -> None:
    lines = [
        user("Add 1"),
        ai("Who are you?"),
        user("bob"),
        ai("Wait."),
        api("GetToken", {"token": "t0k"}, user="bob"),
        ai("So."),
        api("Add", None, "full", token="t0k", n="1"),
        user("Bye"),
    ]
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "one.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "rows.json").write_text(json.dumps([FIRST]))
    (tmp_path / "two.jsonl").write_text("")
    tools = read_declared_tools([tmp_path / "rows.json"])
    assert list(tools) == ["ToolSearcher", "GetToken", "Add"]
    one, two = dialogue_rows(tmp_path)
    first, second, third = dialogue_tasks(one.value, tools, num_distractors=0)
    assert isinstance(first, Task)
    assert isinstance(second, Task)
    assert (first.id, first.gold, first.answer, first.tags) == ("d/one-line-1", (), "Who are you?", {"kind": "none"})
    assert first.messages == (Message("user", "Add 1"),)
    assert (second.id, second.ordered, second.answer, second.tags) == ("d/one-line-3", True, None, {"kind": "nested"})
    assert [message.role for message in second.messages] == ["user", "assistant", "user"]
    assert second.gold == (
        GoldCall("GetToken", {"user": "bob"}, {"token": "t0k"}),
        GoldCall("Add", {"token": "t0k", "n": "1"}, {"error": "full"}, {"token": "$1"}),
    )
    assert {tool.name for tool in second.tools} == {"GetToken", "Add"}
    assert isinstance(third, DataError)
    assert str(third) == "line 8: nothing follows this turn of the user"
    with pytest.raises(DataError, match="the dialogue is empty"):
        list(dialogue_tasks(two.value, tools))
    with pytest.raises(DataError, match="line 1: the role must be User, AI or API, not 'Bot'"):
        list(dialogue_tasks(["x", [{"role": "Bot"}]], tools))
    with pytest.raises(DataError, match="there is no such folder"):
        list(dialogue_rows(tmp_path / "none"))


def test_calls_of_earlier_turns_stand_in_the_dialogue() -> None:
    lines = [user("a"), api("Add", "done", n="1"), ai("Done."), user("b"), ai("Yes.")]
    _, task = dialogue_tasks(["x", lines], {"Add": TOOL_SEARCHER}, num_distractors=0)
    assert isinstance(task, Task)
    assert task.messages == (
        Message("user", "a"),
        Message("assistant", '<tool_call>\n{"name": "Add", "parameters": {"n": "1"}}\n</tool_call>'),
        Message("tool", "done"),
        Message("assistant", "Done."),
        Message("user", "b"),
    )


@pytest.mark.parametrize(("level", "rows_", "relaxed", "dropped"), [(1, 399, 24, 8), (2, 67, 3, 6), (3, 131, 5, 0)])
def test_real_rows(data_dir: Path, level: int, rows_: int, relaxed: int, dropped: int) -> None:
    path = data_dir / "apibank" / f"level-{level}-api_processed.json"
    verdicts = list(judge(read_rows(path), lambda value, index: (api_bank_task(value, str(index)),)))
    assert len(verdicts) == rows_
    faults = [verdict.reason for verdict in verdicts if verdict.task is None]
    assert len(faults) == dropped
    assert all("has no parameter" in fault or "no tool is named" in fault for fault in faults)
    assert sum(bool(verdict.reason) for verdict in verdicts) == relaxed + dropped


def test_real_sequences(data_dir: Path) -> None:
    groups = group_samples(read_rows(data_dir / "apibank" / "level-3-api_processed.json"))
    tasks = [verdict.task for verdict in judge(groups, lambda value, _: (api_bank_sequence(value, "level-3"),))]
    assert len(tasks) == 50
    assert Counter(len(task.gold) for task in tasks if task) == {2: 34, 3: 6, 4: 5, 5: 5}  # 131 calls
    assert Counter(task.tags["kind"] for task in tasks if task) == {"multiple": 14, "nested": 36}


def test_real_dialogues(data_dir: Path) -> None:
    folder = data_dir / "apibank"
    tools = read_declared_tools(sorted(folder.glob("level-*.json")))
    verdicts = list(judge(dialogue_rows(folder / "dialogues"), lambda value, _: dialogue_tasks(value, tools)))
    tasks = [verdict.task for verdict in verdicts if verdict.task is not None]
    # 748 + 116 turns of users, and an empty file
    faults = [verdict.reason for verdict in verdicts if "gold call" in verdict.reason and verdict.task is None]
    assert (len(verdicts), len(tasks), len(faults)) == (748 + 116 + 1, 851, 8)
    assert all("has no parameter" in fault or "no tool is named" in fault for fault in faults)
    assert sum(len(task.gold) for task in tasks) == 389 + 119 - 8  # all calls but these
    assert all(gold.result is not NO_RESULT for task in tasks for gold in task.gold if gold.name != "DeleteAccount")
    dropped = [verdict.reason for verdict in verdicts if verdict.task is None and verdict.reason not in faults]
    reasons = [reason.partition("dialogues/")[2] for reason in dropped]
    assert reasons == [
        f"{name}.jsonl: {reason}"
        for name, reason in [
            (
                f"{ONE}/DeleteAccount-ModifyPassword-GetUserToken-level-2-5",
                "line 8: nothing follows this turn of the user",
            ),
            (f"{ONE}/ModifyMeeting-level-1-3", "line 13: nothing follows this turn of the user"),
            (f"{ONE}/QueryScene-level-1-1", "line 5: nothing follows this turn of the user"),
            (f"{ONE}/SearchEngine-level-1-1", "the dialogue is empty"),
            (f"{ONE}/SearchEngine-level-1-2", "line 7: nothing follows this turn of the user"),
            ("level-2-toolsearcher/AddReminder-level-3-1", "line 11: nothing follows this turn of the user"),
        ]
    ]
