"""Rows of a data file that changed in place between two parts of a run are noticed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cahl_pl.datasets import JsonlDataset, MaskedNames
from cahl_pl.datasets.base import changes, fingerprints
from cahl_pl.datasets.jsonl import row_to_task
from cahl_pl.datasets.loading import FileTasks

TOOL = {"name": "f", "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}}}


def row(number: int) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"Do {number}."}]
    return {
        "id": str(number),
        "messages": messages,
        "tools": [TOOL],
        "gold": [{"name": "f", "arguments": {"x": number}}],
    }


ROWS = [row(number) for number in range(5)]
EDITED = [*ROWS[:2], row(2) | {"gold": []}, *ROWS[3:]]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (ROWS, None),
        ([dict(reversed(one.items())) for one in ROWS], None),  # keys in another order
        ([*ROWS[3:], *ROWS[:3]], "has the same rows in another order"),
        (EDITED, "has rows that were edited or replaced"),
        (EDITED[::-1], "has rows that were edited or replaced"),
        ([*ROWS[:4], row(3) | {"id": "9"}], "has rows that were edited or replaced"),
        (ROWS[:4], "has 4 rows that can be used, where it had 5"),
        ([*ROWS, {"id": "x"}], None),  # a row that was never used
    ],
)
@pytest.mark.parametrize("kind", ["lines", "list", "masked"])
def test_what_became_of_the_rows_is_said(tmp_path: Path, kind: str, rows: Any, said: str | None) -> None:
    path = tmp_path / "rows.jsonl"

    def read(rows: Any) -> Any:
        path.write_text(json.dumps(rows) if kind == "list" else "".join(json.dumps(one) + "\n" for one in rows))
        tasks = FileTasks(path, lambda value, _: row_to_task(value)) if kind == "list" else JsonlDataset(path)
        return {"data.train": MaskedNames(tasks) if kind == "masked" else tasks}

    then = json.loads(json.dumps(fingerprints(read(ROWS))))
    assert list(changes(read(rows), then)) == ([] if said is None else [f"data.train ({path}) {said}"])


def test_nothing_is_said_where_nothing_is_known(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row(0)))
    assert list(changes({"data.train": JsonlDataset(path)}, {})) == []
