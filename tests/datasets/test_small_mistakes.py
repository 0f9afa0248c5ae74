"""A mistake in one row beside good ones; the mistakes themselves: tests/tools/quality/test_show_mistakes.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from cahl_pl.commands import console
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
