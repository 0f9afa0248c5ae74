from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cahl_pl.datasets import DataError, LoadReport
from cahl_pl.datasets.loading import FileTasks, judge
from cahl_pl.datasets.report import Verdict
from cahl_pl.datasets.rows import FileRow, get_field
from cahl_pl.datasets.task_parts import fit_tools, history_text, kind_of_gold, object_schema
from cahl_pl.schema import find_problems
from cahl_pl.types import GoldCall, Message, Task, ToolCall, ToolSpec

TYPED = object_schema(
    {"n": {"type": "integer", "description": "how many", "maximum": 9}, "s": {"type": "string"}}, ["s"]
)


def task(*gold: GoldCall, tools: tuple[ToolSpec, ...] = (ToolSpec("f", "d", TYPED),), name: str = "t") -> Task:
    return Task(name, (Message("user", "q"),), tools, gold)


def read(row: Any, index: int) -> Task:
    return task(GoldCall("f", get_field(row, "arguments", dict)), name=get_field(row, "id", str))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    rows = [
        {"id": "good", "arguments": {"n": "3", "s": "x"}},
        {"id": "odd", "arguments": {"n": "many", "s": "x"}},
        {"id": "bad", "arguments": None},
        {"id": "good", "arguments": {"s": "x"}},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_tools_that_fit_stay_the_same_object() -> None:
    fitting = task(GoldCall("f", {"n": 3, "s": "1"}))
    assert fit_tools(fitting) == (fitting, [])
    assert fit_tools(fitting)[0] is fitting


def test_gold_stands_in_the_declared_types() -> None:
    (fitted, reasons) = fit_tools(task(GoldCall("f", {"n": "3", "s": 1})))
    assert (fitted.gold, reasons) == ((GoldCall("f", {"n": 3, "s": "1"}),), [])


def test_schemas_are_relaxed_just_where_gold_breaks_them() -> None:
    fitted, reasons = fit_tools(task(GoldCall("f", {"n": "many"})))
    assert [dict(tool.parameters) for tool in fitted.tools] == [
        {
            "type": "object",
            "properties": {"n": {"description": "how many"}, "s": {"type": "string"}},
            "required": [],
        },
    ]
    assert reasons == [
        "gold call 1: missing required parameter 's' of f",
        "gold call 1: parameter 'n' of f: 'many' is not of type 'integer'",
    ]
    assert [find_problems(gold.call, fitted.tools) for gold in fitted.gold] == [[]]
    # The shared schema that the tool came with is untouched.
    assert TYPED["properties"]["n"]["type"] == "integer"
    assert TYPED["required"] == ["s"]


def test_problems_that_only_show_after_others_are_relaxed_too() -> None:
    whole = {"type": "object", "properties": {"a": {"type": "integer"}}, "oneOf": [{"required": ["b"]}]}
    fitted, reasons = fit_tools(task(GoldCall("f", {"a": "x"}), tools=(ToolSpec("f", "", whole),)))
    assert len(reasons) == 2
    assert fitted.tools[0].parameters == {"type": "object", "properties": {"a": {}}}


STRICT = object_schema(
    {"unit": {"type": "string", "enum": ["celsius", "kelvin"]}, "n": {"type": "integer", "maximum": 9}}, ["unit"]
)


@pytest.mark.parametrize(
    ("gold", "fault"),
    [
        (GoldCall("g", {"y": 2}), "no tool is named 'g'; offered: f; correct the name, or offer the tool"),
        (GoldCall("ff", {"unit": "kelvin"}), "no tool is named 'ff'; offered: f; did you mean 'f'?"),
        (GoldCall("f", {"unit": "kelvin", "nn": 1}), "f has no parameter 'nn'; declared: unit, n; did you mean 'n'?"),
        (GoldCall("f", {"unit": "kelvin", "x": 1}), "declared: unit, n; correct the name, or declare the parameter"),
        (GoldCall("f", {"unit": "celcius"}), "is not one of ['celsius', 'kelvin']; did you mean 'celsius'?"),
        (GoldCall("f", {"unit": "kelvin", "n": 10}), "10 is greater than the maximum of 9; correct the value or the s"),
    ],
)
def test_a_typo_in_the_gold_is_a_fault(gold: GoldCall, fault: str) -> None:
    with pytest.raises(DataError, match=re.escape(fault)) as error:
        fit_tools(task(gold, tools=(ToolSpec("f", "", STRICT),)))
    assert str(error.value).startswith("gold call 1: ")


def test_gold_without_any_tool_is_a_fault() -> None:
    with pytest.raises(DataError, match="no tool is named 'f'; offered: none; correct the name, or offer the tool"):
        fit_tools(task(GoldCall("f", {}), tools=()))


def test_of_tools_of_the_same_name_the_first_stays() -> None:
    fitted, reasons = fit_tools(
        task(tools=(ToolSpec("f", "1", TYPED), ToolSpec("g", "2", TYPED), ToolSpec("f", "3", TYPED)))
    )
    assert [(tool.name, tool.description) for tool in fitted.tools] == [("f", "1"), ("g", "2")]
    assert reasons == ["tool 'f' is offered twice, the first is kept"]


def test_every_row_is_in_the_report(path: Path) -> None:
    loaded = FileTasks(path, read)
    assert [loaded[i].id for i in range(len(loaded))] == ["good", "odd"]
    assert loaded.report.kept == ["good"]
    assert loaded.report.relaxed == [("odd", "gold call 1: parameter 'n' of f: 'many' is not of type 'integer'")]
    assert loaded.report.dropped == [
        ("line 3", f"{path}, line 3: the field 'arguments' must be an object, but is null"),
        ("line 4", f"{path}, line 4: the id 'good' appears twice"),
    ]
    assert str(loaded.report).startswith(f"{path}: 1 row kept, 1 with a relaxed schema, 2 dropped\n  relaxed odd: ")


def test_contradictory_rows_can_be_dropped(path: Path) -> None:
    loaded = FileTasks(path, read, on_contradiction="drop")
    assert [loaded[i].id for i in range(len(loaded))] == ["good"]
    assert loaded.report.relaxed == []
    assert [name for name, _ in loaded.report.dropped] == ["odd", "line 3", "line 4"]
    assert loaded.report.dropped[0][1].startswith(f"{path}, line 2: gold call 1: parameter 'n'")


def test_strict_raises_on_the_first_row_that_cannot_be_read(path: Path) -> None:
    with pytest.raises(DataError) as error:
        FileTasks(path, read, strict=True)
    assert str(error.value) == (
        f"{path}, line 3: the field 'arguments' must be an object, but is null; "
        "correct the row, or load with strict=False to leave it out"
    )


def test_nothing_to_use_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("")
    with pytest.raises(DataError, match=r"rows\.jsonl: no row can be used: the file holds none; check"):
        FileTasks(path, read)
    path.write_text("1\n2\n")
    with pytest.raises(DataError, match=r"no row can be used; the first fault: .*line 1: there must be an object"):
        FileTasks(path, read)
    with pytest.raises(ValueError, match="on_contradiction must be 'relax' or 'drop', not 'ignore'"):
        FileTasks(path, read, on_contradiction="ignore")  # type: ignore[arg-type]


def test_kinds_of_gold() -> None:
    call = GoldCall("f", {})
    assert kind_of_gold([]) == "none"
    assert kind_of_gold([call]) == "single"
    assert kind_of_gold([call] * 3) == "multiple"
    assert kind_of_gold([call, GoldCall("f", {"a": "x"}, references={"a": "$1"})]) == "nested"


def test_ids_are_compared_over_all_rows_and_tasks() -> None:
    rows = [FileRow(i, f"row {i}", value, None) for i, value in enumerate(["a", "b", "a", "\ud800"])]
    verdicts = list(
        judge(rows, lambda value, _: [task(name=value), DataError("no")] if value == "b" else [task(name=value)])
    )
    assert [(v.name, v.task is None, v.reason) for v in verdicts] == [
        ("a", False, ""),
        ("b", False, ""),
        ("row 2", True, "row 1: no"),
        ("row 3", True, "row 2: the id 'a' appears twice"),
        ("\ud800", False, ""),
    ]


def test_a_report_counts_what_it_does_not_name() -> None:
    report = LoadReport("f", limit=1)
    row = FileRow(0, "w", None, None)
    for kept, reason in [(True, ""), (True, ""), (True, "odd"), (False, "bad"), (False, "bad"), (False, "bad")]:
        report.add(Verdict(row, "n", task() if kept else None, reason))
    assert (report.kept, report.relaxed, report.dropped) == (["n"], [("n", "odd")], [("n", "bad")])
    assert (report.unnamed, report.counts) == ((1, 0, 2), (2, 1, 3))
    assert str(report).splitlines() == [
        "f: 2 rows kept, 1 with a relaxed schema, 3 dropped",
        "  relaxed n: odd",
        "  dropped n: bad",
        "    and 2 more dropped, alike",
    ]


def test_rows_are_counted_by_reason_with_three_examples_of_each() -> None:
    report = LoadReport("some/file", limit=5)
    for line in range(1, 151):
        report.add(
            Verdict(FileRow(line, "", None, None), f"row {line}", None, f"some/file, line {line}: no field 'a{line}'")
        )
    for line in range(200, 202):
        reason = f"some/file, row {line} (line 7): the role 'it\\'s {line}' is unknown"
        report.add(Verdict(FileRow(line, "", None, None), f"row {line}", None, reason))
    assert str(report).splitlines() == [
        "some/file: 0 rows kept, 0 with a relaxed schema, 152 dropped",
        "  dropped row 1: some/file, line 1: no field 'a1'",
        "  dropped row 2: some/file, line 2: no field 'a2'",
        "  dropped row 3: some/file, line 3: no field 'a3'",
        "    and 147 more dropped, alike",
        "  dropped row 200: some/file, row 200 (line 7): the role 'it\\'s 200' is unknown",
        "    and 1 more dropped, alike",
    ]
    assert len(report.rows) == 6  # all that are named: five, and the first one of another kind


def test_reasons_without_end_take_no_memory() -> None:
    report = LoadReport("f", limit=1)
    for number in range(300):
        report.add(Verdict(FileRow(0, "w", None, None), "n", None, "x" * (1 + number)))
    assert (len(report.dropped), len(report.alike), report.counts[2]) == (100, 100, 300)
    assert str(report).splitlines()[-1] == "    and 200 more dropped, for other reasons"


def test_a_report_counts_one_row_as_one() -> None:
    assert str(LoadReport("f", ["a"])) == "f: 1 row kept, 0 with a relaxed schema, 0 dropped"


def test_calls_of_the_history_are_written_one_a_line() -> None:
    assert history_text([ToolCall("f", {"x": "\u00e9"}), ToolCall("g", {})]) == (
        '<tool_call>\n{"name": "f", "parameters": {"x": "\u00e9"}}\n{"name": "g", "parameters": {}}\n</tool_call>'
    )


def test_tasks_of_too_many_gold_calls_are_left_out() -> None:
    few, many = (
        replace(task(*[GoldCall("f", {"s": "x"})] * count, tools=(ToolSpec("f", "", TYPED),)), ordered=True)
        for count in (1000, 1001)
    )
    (verdict,) = judge([FileRow(0, "here", None, None)], lambda value, index: [few])
    assert verdict.task == few
    (verdict,) = judge([FileRow(0, "here", None, None)], lambda value, index: [many])
    assert (verdict.task, verdict.reason) == (None, "here: there are 1001 gold calls, and 1000 are the most")


@pytest.mark.parametrize(
    ("value", "answer", "count", "fault"),
    [
        (10**301, None, 1, "gold call 1 is none that an output can make: a number is too long"),
        (float("inf"), None, 1, "gold call 1 holds a value that JSON does not have"),
        ("x", " ", 0, "the field 'answer' is blank; leave it out"),
        ("x", "\u200b\ufeff", 0, "the field 'answer' is blank; leave it out"),
        ("x", None, 65, "there are 65 parallel gold calls, and an output holds 64 at most"),
    ],
)
def test_gold_that_no_output_can_be_is_a_fault(value: Any, answer: str | None, count: int, fault: str) -> None:
    open_tool = ToolSpec("f", "", object_schema({"v": {}}))
    made = replace(task(*[GoldCall("f", {"v": value})] * count, tools=(open_tool,)), answer=answer)
    (verdict,) = judge([FileRow(0, "here", None, None)], lambda _, index: [made])
    assert verdict.task is None
    assert verdict.reason.startswith(f"here: {fault}")


def test_gold_that_is_nested_too_deeply_is_a_fault() -> None:
    deep: Any = 1
    for _ in range(65):
        deep = [deep]
    made = task(GoldCall("f", {"v": deep}), tools=(ToolSpec("f", "", object_schema({"v": {}})),))
    (verdict,) = judge([FileRow(0, "here", None, None)], lambda _, index: [made])
    assert (verdict.task, "nested too deeply" in verdict.reason) == (None, True)
