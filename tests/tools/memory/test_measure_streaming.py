from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tools.memory import measure_streaming


def test_no_two_rows_share_an_id_or_a_tool() -> None:
    rows = [json.loads(line) for line in measure_streaming.rows(3)]
    assert [row["id"] for row in rows] == ["row-0", "row-1", "row-2"]
    described = [tool["function"]["description"] for row in rows for tool in row["tools"]]
    assert len(described) > 3
    assert all(
        f"(row-{number})" in tool["function"]["description"] for number in (0, 1, 2) for tool in rows[number]["tools"]
    )


def test_memory_is_sampled_after_each_tenth_of_the_rows() -> None:
    curve: Any = measure_streaming.Curve(20)
    sampled = []
    for _ in range(30):  # rows that are drawn later are read again, and do not count
        curve.next_row()
        sampled.append(len(curve.mib))
    assert sampled == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, *[10] * 9]
    assert all(value > 0 for value in curve.mib)


def test_converting_prints_its_curve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text("".join(measure_streaming.rows(20)))
    measure_streaming.step("convert", source, tmp_path / "out.jsonl", 20)
    figures: Any = json.loads(capsys.readouterr().out)
    assert figures["step"] == "convert"
    assert len(figures["curve"]) == 10
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 20
