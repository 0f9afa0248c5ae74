from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cahl_pl.commands import console


def main(arguments: list[str]) -> int:
    """Run the verb; its exit status."""
    try:
        console(["check-data", *arguments])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    messages = [{"role": "user", "content": "q"}]
    parameters = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
    tools = [{"function": {"name": "f", "parameters": parameters}}]
    odd = {"id": "odd", "messages": messages, "tools": tools, "gold": [{"name": "f", "arguments": {}}]}
    path.write_text(
        "\n".join(json.dumps(row) for row in [{"id": "a", "messages": messages, "tools": [], "gold": []}, odd])
    )
    return path


def test_a_file_without_dropped_rows_passes(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        f"{path}: 1 row kept, 1 with a relaxed schema, 0 dropped\n  relaxed odd: gold call 1: missing required parameter"
    )
    assert main([str(path), "--on-contradiction", "drop"]) == 1


def test_a_dropped_row_fails_and_json_tells_the_same(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with path.open("a") as file:
        file.write("\n{}")
    assert main([str(path), "--json"]) == 1
    report: Any = json.loads(capsys.readouterr().out)
    assert {key: report[key] for key in ("path", "kept", "relaxed", "dropped")} == {
        "path": str(path),
        "kept": 1,
        "relaxed": 1,
        "dropped": 1,
    }
    assert report["relaxed_rows"] == [{"id": "odd", "reason": "gold call 1: missing required parameter 'x' of f"}]
    assert report["dropped_rows"] == [{"id": "row 2", "reason": f"{path}, line 3: the field 'id' is missing"}]


def test_a_file_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none")]) == 2
    assert "there is no such file" in capsys.readouterr().err
    assert main([str(tmp_path / "none"), "--json"]) == 2
    assert "there is no such file" in json.loads(capsys.readouterr().out)["error"]
