"""Gold text that is not of its declared format is a mistake of the row, and told without a configuration."""

from __future__ import annotations

from typing import Any

import pytest

from cahl_pl.datasets.task_parts import fit_tools
from cahl_pl.datasets.text_formats import FORMATS, wrong_format
from cahl_pl.errors import DataError
from cahl_pl.types import GoldCall, Message, Task, ToolSpec


def of(name: str) -> dict[str, Any]:
    return {"type": "string", "format": name}


@pytest.mark.parametrize("name", FORMATS)
def test_examples_are_right_and_words_are_not(name: str) -> None:
    assert wrong_format(FORMATS[name][1], of(name), {}, "x") is None
    assert wrong_format("tomorrow", of(name), {}, "x") == f"x: 'tomorrow' is no {name}, such as {FORMATS[name][1]}"


@pytest.mark.parametrize(
    ("value", "schema", "said"),
    [
        ("2026-05-03 14:30", of("date-time"), None),  # as tools take it
        ("2026-13-03", of("date"), "x: '2026-13-03' is no date"),
        ("", of("date"), "x: '' is no date"),
        ("soon", of("email"), None),
        ("soon", {"type": "string"}, None),
        (5, of("date"), None),  # a fault of its type
        (None, {"type": ["string", "null"], "format": "date"}, None),
        ("soon", {"type": ["string", "null"], "format": "date"}, "x: 'soon' is no date"),
        ("soon", {"anyOf": [of("date"), {"type": "null"}]}, "x: 'soon' is no date"),
        ("soon", {"anyOf": [of("date"), {"type": "string"}]}, None),
        ("14:30", {"anyOf": [of("date"), of("time")]}, None),
        (["2026-05-03", "soon"], {"type": "array", "items": of("date")}, "x[1]: 'soon' is no date"),
        (
            {"at": {"day": "soon"}},
            {"properties": {"at": {"properties": {"day": of("date")}}}},
            "x.at.day: 'soon' is no",
        ),
        ("soon", {"$ref": "#/$defs/day"}, "x: 'soon' is no date"),
        ("soon", True, None),
    ],
)
def test_where_texts_stand(value: Any, schema: Any, said: str | None) -> None:
    found = wrong_format(value, schema, {"$defs": {"day": of("date")}}, "x")
    assert found is None if said is None else str(found).startswith(said)


def test_a_row_is_refused_and_not_relaxed() -> None:
    tool = ToolSpec("book", "", {"type": "object", "properties": {"day": of("date")}})
    task = Task("t", (Message("user", "q"),), (tool,), (GoldCall("book", {"day": "tomorrow"}),))
    said = "gold call 1: book, day: 'tomorrow' is no date, such as 2026-05-03; correct the value or the schema"
    with pytest.raises(DataError) as raised:
        fit_tools(task)
    assert str(raised.value) == said
