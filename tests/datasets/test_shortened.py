"""Dialogues of which `JsonlDataset` takes the last turn alone: so is said, with the command that takes them all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cahl_pl.commands import console
from cahl_pl.datasets import JsonlDataset
from cahl_pl.datasets.convert import convert, read_source
from cahl_pl.errors import DataError

TOOL = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}


def ask(city: str) -> list[dict[str, Any]]:
    call = {"id": city, "type": "function", "function": {"name": "weather", "arguments": json.dumps({"city": city})}}
    return [
        {"role": "user", "content": f"Rain in {city}?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": city, "content": "rain"},
    ]


LONG = {"messages": [*ask("Oslo"), {"role": "assistant", "content": "Yes."}, *ask("Rome")], "tools": [TOOL]}
SHORT = {"messages": ask("Oslo"), "tools": [TOOL]}
SHARED = {
    "conversations": [
        {"from": "human", "value": "Rain?"},
        {"from": "gpt", "value": "Where?"},
        {"from": "human", "value": "Oslo."},
        {"from": "function_call", "value": json.dumps({"name": "weather", "arguments": {"city": "Oslo"}})},
    ],
    "tools": json.dumps([TOOL]),
}
OWN = {"id": "a", "messages": [*ask("Oslo"), {"role": "user", "content": "And Rome?"}], "tools": [TOOL], "gold": []}


def test_rows_whose_earlier_turns_make_no_task_are_told(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, [LONG, SHORT, SHARED, LONG, OWN])))
    report = JsonlDataset(path).report
    assert report.counts == (5, 0, 0)
    assert report.shortened == {"openai": 2, "sharegpt": 1}
    said = "of a dialogue whose last turn alone is a task: python -m cahl_pl convert-data {} INPUT OUTPUT makes one of each"
    assert [f"  2 rows {said.format('openai')}", f"  1 row {said.format('sharegpt')}"] == [
        line.removesuffix(" turn of the assistant") for line in report.summary()
    ]


def test_what_was_converted_is_whole(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(LONG))
    convert(read_source("openai", tmp_path / "rows.jsonl"), "rows", tmp_path / "tasks.jsonl")
    report = JsonlDataset(tmp_path / "tasks.jsonl").report
    assert (report.counts, report.summary()) == ((2, 0, 0), [])


def test_check_data_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(LONG))
    console(["check-data", str(path)])
    assert "  1 row of a dialogue whose last turn alone is a task" in capsys.readouterr().out
    console(["check-data", str(path), "--json"])
    assert json.loads(capsys.readouterr().out)["last_turn_only"] == 1


@pytest.mark.parametrize(("row", "form"), [(LONG, "openai"), (SHARED, "sharegpt"), (OWN, "jsonl")])
def test_the_converter_of_a_list_is_that_of_its_rows(tmp_path: Path, row: dict[str, Any], form: str) -> None:
    (tmp_path / "rows.json").write_text(json.dumps([row]))
    with pytest.raises(DataError, match=f"one JSON object a line is needed, .* convert-data {form} INPUT OUTPUT writes lines"):
        JsonlDataset(tmp_path / "rows.json")
