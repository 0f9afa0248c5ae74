from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cahl_pl.datasets import DataError, JsonlDataset
from cahl_pl.datasets.jsonl import NAMED_ROWS, row_to_task, task_to_row
from cahl_pl.errors import ConfigError
from cahl_pl.types import NO_RESULT, GoldCall, Message, Outcome, Task, ToolSpec

ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a"],
        },
    },
}


def row(name: str = "t", gold: Any = ({"name": "add", "arguments": {"a": 2, "b": 3}},), **other: Any) -> dict[str, Any]:
    return {"id": name, "messages": [{"role": "user", "content": "2+3?"}], "tools": [ADD], "gold": list(gold)} | other


def write(folder: Path, *rows: Any) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows))
    return path


def test_a_row_becomes_a_task() -> None:
    full = row(
        gold=[
            {"name": "add", "arguments": {"a": 2, "b": 3}, "result": 5},
            {"name": "add", "arguments": {"a": 5}, "references": {"a": "$1"}},
        ],
        ordered=True,
        answer="five",
        state={"x": 1},
        tags={"topic": "sums"},
    )
    task = Task(
        "t",
        (Message("user", "2+3?"),),
        (ToolSpec("add", "Add.", ADD["function"]["parameters"]),),  # type: ignore[index]
        (GoldCall("add", {"a": 2, "b": 3}, 5), GoldCall("add", {"a": 5}, NO_RESULT, {"a": "$1"})),
        ordered=True,
        answer="five",
        state={"x": 1},
        tags={"kind": "nested", "topic": "sums"},
    )
    assert row_to_task(full) == task
    assert task_to_row(task) == full | {"tags": {"kind": "nested", "topic": "sums"}}
    assert row_to_task(task_to_row(task)) == task


def test_what_may_be_left_out() -> None:
    task = row_to_task(row(gold=[], tools=[{"type": "function", "function": {"name": "ping"}}]))
    assert task.tools == (ToolSpec("ping", "", {"type": "object", "properties": {}}),)
    assert (task.gold, task.ordered, task.answer, task.state, task.tags) == ((), False, None, None, {"kind": "none"})


def test_calls_of_earlier_turns_are_written_as_text() -> None:
    history = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "2+3, and 1+1?"},
        {
            "role": "assistant",
            "content": "Let me see.",
            "tool_calls": [
                {"type": "function", "function": {"name": "add", "arguments": '{"a": 2, "b": 3}'}},
                {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 1}}},
            ],
        },
        {"role": "tool", "content": "5"},
        {"role": "tool", "content": "2"},
    ]
    assert row_to_task(row(messages=history)).messages[2:] == (
        Message(
            "assistant",
            'Let me see.\n<tool_call>\n{"name": "add", "parameters": {"a": 2, "b": 3}}\n'
            '{"name": "add", "parameters": {"a": 1, "b": 1}}\n</tool_call>',
        ),
        Message("tool", "5"),
        Message("tool", "2"),
    )


CALL = {"name": "add", "arguments": {"a": 1}}


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("[1]", "there must be an object with the field 'id', not a list"),
        ('{"id": ', "not JSON: Expecting value at character 7"),
        ({"id": 1}, "the field 'id' must be text, but is an integer"),
        (row(golds=[]), "there is no field 'golds'; did you mean 'gold'? The fields are id, messages"),
        ({k: v for k, v in row().items() if k != "gold"}, "the field 'gold' is missing"),
        (row(gold=[{"name": "add"}]), "the field 'gold', call 1: the field 'arguments' is missing"),
        (row(gold=[CALL | {"reference": {}}]), "the field 'gold', call 1: there is no field 'reference'"),
        (
            row(gold=[CALL, CALL | {"references": {"a": "$2"}}]),
            "call 2: the reference of 'a' must be the number of an e",
        ),
        (
            row(gold=[CALL, CALL | {"references": {"b": "$1"}}]),
            "call 2: the field 'references' names 'b', which the call does not have; it has to be among the arguments",
        ),
        (row(messages=[]), "the field 'messages' must end with a user's message or a tool's answer"),
        (row(messages=[{"role": "assistant", "content": "x"}]), "must end with a user's message or a tool's answer"),
        (row(messages=[{"role": "bot", "content": "x"}]), "message 1: the role 'bot' must be one of system, user"),
        (
            row(messages=[{"role": "user", "content": [1]}]),
            "the field 'content', part 1 is an integer: only parts of text",
        ),
        (
            row(
                messages=[
                    {"role": "user", "content": "x", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
                ]
            ),
            "message 1: only an assistant has tool_calls",
        ),
        (
            row(messages=[{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "x"}}]}]),
            "message 1: the field 'tool_calls', call 1: the field 'arguments' is text that is not JSON: Expecting value",
        ),
        (
            {k: v for k, v in row().items() if k != "tools"},
            "the field 'tools' is missing; a module of Python functions",
        ),
        (row(tools=["add"]), "the field 'tools', tool 1: no function is named 'add'; there are: none"),
        (row(tools=[{"type": "function"}]), "the field 'tools', tool 1: the field 'name' is missing"),
        (
            row(
                tools=[
                    {
                        "function": {
                            "name": "add",
                            "parameters": {"type": "object", "properties": {"a": {"type": "ints"}}},
                        }
                    }
                ]
            ),
            "tool 1: the field 'parameters': properties.a.type: there is no type 'ints'; did you mean \"integer\"?",
        ),
        (
            row(tools=[{"function": {"name": "f", "parameters": {"type": "object", "pattern": "a{99999999999}"}}}]),
            "tool 1: schema, tool 'f': parameters are not valid JSON Schema: ",
        ),
        (row(state={"a": json.loads("[" * 600 + "]" * 600)}), "its values are nested more than 100 deep"),
        (row(tags={"n": 1}), "the field 'tags' must hold text only"),
        (row(ordered="yes"), "the field 'ordered' must be true or false"),
    ],
)
def test_malformed_rows_are_named_with_file_line_and_field(tmp_path: Path, broken: Any, message: str) -> None:
    path = write(tmp_path, row("good"), "", broken)
    loaded = JsonlDataset(path)
    ((name, reason),) = loaded.report.dropped
    assert (len(loaded), name) == (1, "line 3")
    assert reason.startswith(f"{path}, line 3: ")
    assert message in reason
    with pytest.raises(DataError, match="correct the row, or load with strict=False"):
        JsonlDataset(path, strict=True)


def test_tasks_are_read_again_when_they_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    # A byte order mark, blank lines, characters of several bytes, and U+2028, at which str.splitlines() would split.
    lines = [
        "\ufeff" + json.dumps(row("a")),
        "",
        json.dumps(row("b", answer="\u00e9\u2028x"), ensure_ascii=False),
        "bad",
    ]
    path.write_bytes(("\r\n".join([*lines, json.dumps(row("c"))])).encode())
    loaded = JsonlDataset(path)
    assert len(loaded) == 3
    assert [loaded[i].id for i in (2, 0, 1, -1)] == ["c", "a", "b", "c"]
    assert loaded[1].answer == "\u00e9\u2028x"
    assert loaded[0] == row_to_task(row("a"))
    with pytest.raises(IndexError):
        loaded[3]
    assert loaded[0].tools[0] is loaded[2].tools[0]  # rows share equal tools, and their compiled schemas


def test_contradictions_and_ids_are_judged_as_in_other_loaders(tmp_path: Path) -> None:
    odd = row("odd", gold=[{"name": "add", "arguments": {"a": "x"}}])
    path = write(tmp_path, row("good"), odd, row("good"))
    loaded = JsonlDataset(path)
    assert loaded.report.kept == ["good"]
    assert loaded.report.relaxed == [("odd", "gold call 1: parameter 'a' of add: 'x' is not of type 'integer'")]
    assert loaded.report.dropped == [("line 3", f"{path}, line 3: the id 'good' appears twice")]
    assert loaded[1].tools[0].parameters["properties"]["a"] == {}
    assert len(JsonlDataset(path, on_contradiction="drop")) == 1


def test_the_report_counts_all_rows_and_names_the_first(tmp_path: Path) -> None:
    many = NAMED_ROWS + 7
    path = write(
        tmp_path,
        *(row(f"t{i}") for i in range(many)),
        *(["{}"] * many),
        row("odd", gold=[{"name": "add", "arguments": {}}]),
    )
    report = JsonlDataset(path).report
    assert report.counts == (many, 1, many)
    assert (len(report.kept), len(report.relaxed), len(report.dropped)) == (NAMED_ROWS, 1, NAMED_ROWS)
    assert str(report).startswith(f"{path}: {many} rows kept, 1 with a relaxed schema, {many} dropped\n")
    assert str(report).endswith("    and 104 more dropped, alike")


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    path = write(tmp_path, [row()])
    with pytest.raises(DataError, match=r"one JSON object a line is needed, .*convert-data jsonl INPUT OUTPUT"):
        JsonlDataset(path)
    with pytest.raises(DataError, match=r"no row can be used; the first fault: .*line 1: "):
        JsonlDataset(write(tmp_path, {}))
    loaded = JsonlDataset(write(tmp_path, row()))
    with path.open("a") as file:
        file.write("\n")
    with pytest.raises(DataError, match="the file has changed since it was opened"):
        loaded[0]
    os.remove(path)
    with pytest.raises(DataError, match=r"rows\.jsonl: cannot be read any more \(No such file or directory\)"):
        loaded[0]


def test_a_python_module_stands_in_for_tools(tmp_path: Path) -> None:
    module = tmp_path / "my_tools.py"
    module.write_text(
        'def add(a: int) -> int:\n    """Add.\n\n    Args:\n        a: one\n    """\n    return a\n\n\n'
        'def neg(a: int) -> int:\n    """Negate.\n\n    Args:\n        a: one\n    """\n    return -a\n'
    )
    bare = {key: value for key, value in row("bare", gold=[CALL]).items() if key != "tools"}
    path = write(
        tmp_path, bare, row("own", gold=[CALL]), row("named", gold=[CALL], tools=["add"]), row("no", tools=["mul"])
    )
    loaded = JsonlDataset(path, tools=str(module))
    assert [[tool.name for tool in loaded[i].tools] for i in range(3)] == [["add", "neg"], ["add"], ["add"]]
    assert loaded[0].tools[0].description == "Add."
    assert "no function is named 'mul'; there are: add, neg" in loaded.report.dropped[0][1]
    with pytest.raises(ConfigError, match=r"there is no file 'none\.py'"):
        JsonlDataset(path, tools="none.py")


def untraced(**other: Any) -> dict[str, Any]:
    return {key: value for key, value in row().items() if key != "gold"} | other


@pytest.mark.parametrize(
    ("given", "outcome"),
    [
        ({"results": [5, {"a": None}]}, Outcome((5, {"a": None}))),
        ({"results": [], "state": {"x": {"y": 1}}}, Outcome((), {"x": {"y": 1}})),
        ({"results": [5], "state": {}}, Outcome((5,), {})),
        ({"results": []}, Outcome()),
    ],
)
def test_an_outcome_is_read_and_written(given: dict[str, Any], outcome: Outcome) -> None:
    traced = row_to_task(row(outcome=given))
    assert (traced.outcome, len(traced.gold), traced.tags) == (outcome, 1, {"kind": "single"})
    task = row_to_task(untraced(outcome=given))
    assert (task.outcome, task.gold, task.tags) == (outcome, (), {"kind": "outcome"})
    for one in (traced, task):
        assert task_to_row(one)["outcome"] == given
        assert row_to_task(json.loads(json.dumps(task_to_row(one)))) == one


def test_the_parts_of_an_outcome_may_be_left_out() -> None:
    assert row_to_task(untraced(outcome={"state": {"x": 1}})).outcome == Outcome((), {"x": 1})
    assert row_to_task(untraced(outcome={"results": None, "state": None})).outcome == Outcome()
    assert row_to_task(untraced(outcome={"results": [1]}, gold=None)).tags == {"kind": "outcome"}
    assert row_to_task(untraced(outcome={"results": [1]}, tags={"kind": "mine"})).tags == {"kind": "mine"}
    assert row_to_task(row(outcome=None)).outcome is None
    assert "outcome" not in task_to_row(row_to_task(row()))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (untraced(), "the field 'gold' is missing"),
        (untraced(outcome=None), "the field 'gold' is missing"),
        (
            untraced(outcome={"result": [5]}),
            "the field 'outcome' has no part 'result'; its parts are results and state",
        ),
        (untraced(outcome=[5]), "the field 'outcome' must be an object"),
        (untraced(outcome={"results": 5}), "the field 'results' must be a list"),
        (untraced(outcome={"state": [1]}), "the field 'state' must be an object"),
        (
            row(outcome={"results": [5]}, gold=[{"name": "add"}]),
            "the field 'gold', call 1: the field 'arguments' is mi",
        ),
    ],
)
def test_a_malformed_outcome_is_named(broken: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write(tmp_path, row("good"), untraced(id="free", outcome={"results": [5]}), broken)
    loaded = JsonlDataset(path)
    assert [loaded[i].tags["kind"] for i in range(len(loaded))] == ["single", "outcome"]
    ((_, reason),) = loaded.report.dropped
    assert reason.startswith(f"{path}, line 3: ")
    assert message in reason
