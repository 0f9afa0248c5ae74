"""A mistake in one row beside good ones; the mistakes themselves: tests/tools/quality/test_show_mistakes.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cahl_pl.commands import console
from cahl_pl.datasets import JsonlDataset
from cahl_pl.errors import DataError
from tools.quality.mistakes_in_rows import GOLD, row


def test_a_row_that_is_lost_beside_good_ones_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(row() + "\n" + row(id="s", gold=[GOLD | {"name": "find_wether"}]))
    with pytest.raises(SystemExit, match="1"):
        console(["check-data", str(path)])
    out = capsys.readouterr().out
    assert out.startswith(
        f"{path}: 1 row kept, 0 with a relaxed schema, 1 dropped\n  dropped s: {path}, line 2: gold call 1:"
    )


@pytest.mark.parametrize("request_text", ["", " \n", "\u200b", "\ufeff\u2060", "\u3164"])
def test_a_request_that_shows_nothing_is_a_fault(tmp_path: Path, request_text: str) -> None:
    tool = {"name": "w", "parameters": {"type": "object", "properties": {}}}
    row = {"id": "a", "messages": [{"role": "user", "content": request_text}], "tools": [tool], "gold": []}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError, match="the request is blank: the user's last message has to say what is to be done"):
        JsonlDataset(tmp_path / "rows.jsonl")
