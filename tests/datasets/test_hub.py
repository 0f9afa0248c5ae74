from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from cahl_pl.datasets.hub import hub_rows
from cahl_pl.errors import DataError


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Puts a library in place of `datasets` that has two rows, then fails; what it was asked for."""
    asked: list[tuple[Any, ...]] = []

    def load_dataset(name: str, split: str, streaming: bool) -> Iterator[dict[str, int]]:
        asked.append((name, split, streaming))
        yield {"n": 0}
        yield {"n": 1}
        if split == "broken":
            raise OSError("connection lost\nlong story")

    library = ModuleType("datasets")
    library.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", library)
    return asked


def test_rows_are_streamed(asked: list[tuple[Any, ...]]) -> None:
    rows = list(hub_rows("hub:owner/name"))
    assert [(row.index, row.value, row.fault) for row in rows] == [(0, {"n": 0}, None), (1, {"n": 1}, None)]
    assert rows[1].where == "hub:owner/name, row 2"
    next(hub_rows("hub:owner/name:test"))
    assert asked == [("owner/name", "train", True), ("owner/name", "test", True)]


def test_failures_are_one_sentence(asked: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        DataError, match=r"^hub:o/n:broken: cannot be read at row 3 \(connection lost\); correct the name"
    ):
        list(hub_rows("hub:o/n:broken"))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r'datasets is not installed: pip install "cahl-pl\[hub\]", or give a local'):
        list(hub_rows("hub:o/n"))


def test_structs_lose_the_keys_of_other_rows_and_json_keeps_its_nulls(monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` gives every struct the keys of all rows; a list of them is a list, or an object with `feature`."""

    class Json:
        pass

    struct = {"name": "string", "arguments": {"a": "int", "b": "int"}}

    class List(list[Any]):
        feature = struct

    types = {"calls": [struct], "more": List(), "free": Json(), "top": {"x": "int"}}

    class Rows:
        features = types

        def __iter__(self) -> Iterator[dict[str, Any]]:
            call = {"name": "f", "arguments": {"a": 1, "b": None}}
            yield {"calls": [call], "more": [call], "free": {"result": None}, "top": None}

    library = ModuleType("datasets")
    library.load_dataset = lambda *_, **__: Rows()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", library)
    (row,) = hub_rows("hub:owner/name")
    call = {"name": "f", "arguments": {"a": 1}}
    assert row.value == {"calls": [call], "more": [call], "free": {"result": None}, "top": None}
