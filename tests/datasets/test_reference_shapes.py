"""What is meant as a reference by its tool's name or a field's, and what is not."""

from __future__ import annotations

import pytest

from cahl_pl.datasets.dialogues import dialogue_tasks
from cahl_pl.datasets.gold_calls import read_gold
from cahl_pl.datasets.messages import read_dialogue
from cahl_pl.datasets.reference_shapes import named_reference
from cahl_pl.errors import DataError
from cahl_pl.types import ToolSpec

EARLIER = [("search", {"flight": "SK21", "price": 5}), ("book", {"id": 3})]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("$search.flight", "$1.flight"),
        ("${search.flight}", "$1.flight"),
        ("{{search.flight}}", "$1.flight"),
        ("search.flight", "$1.flight"),
        ("search()['flight']", "$1.flight"),
        ("{{search}}", "$1"),
        ("$book", "$2"),
        ("book()", "$2"),
        ("$[0].flight", "$1.flight"),
        ("$.flight", "$1.flight"),
        ("$first.flight", "$1.flight"),
        ("call_1.flight", "$1.flight"),
        ("result.flight", "$1.flight"),
        ("@1.flight", "$1.flight"),
        ("$1/flight", "$1.flight"),
        ("$-1.flight", "$1.flight"),
        ("$99999.flight", "$1.flight"),
        ("$1\u200b.flight", "$1.flight"),
        ("\uff041.flight", "$1.flight"),
        ("$prev.id", "$2.id"),
    ],
)
def test_a_tool_or_a_field_of_its_result_in_the_place_of_a_number(text, meant):
    assert named_reference(text, EARLIER) == meant


@pytest.mark.parametrize(
    "text",
    [
        *("$5", "$1.50", "$9/flight", "$5/month", "$1.50/flight", "search", "search engine", "flight", "SK21", "#book"),
        *("a.flight", "file.flight.txt", "https://x.y/flight", "user@search.com", "result", "result: good", "price: 5"),
        *("", "-1", "$HOME/bin", "$.name", '{"a": 1}', "$1", "$1.flight", "flight of search", "# 1.flight", "12:30", "@book"),
    ],
)
def test_other_text_and_references_as_they_are_written_here(text):
    assert named_reference(text, EARLIER) is None


@pytest.mark.parametrize(("value", "fault"), [("$1.flight", True), (["$1[0]"], True), ("$1", False), ("$1.50", False)])
def test_a_dialogues_calls_hold_values_and_no_references_with_a_path(value, fault):
    call = {"type": "function", "function": {"name": "book", "arguments": {"flight": value}}}
    calling = {"role": "assistant", "content": None, "tool_calls": [call]}
    said = read_dialogue([{"role": "user", "content": "Book it."}, calling])
    tool = ToolSpec("book", "book", {"type": "object", "properties": {"flight": {}}})
    (task,) = dialogue_tasks(said, (tool,), "a")
    if fault:
        assert isinstance(task, DataError)
        assert "message 2: the argument 'flight' of book is \"$1" in str(task)
        assert "write the value that was given" in str(task)
    else:
        assert task.gold[0].arguments == {"flight": value}


def test_a_row_with_one_is_told_what_to_write():
    properties = {"to": {"type": "string"}, "flight": {"type": "string"}}
    tools = [ToolSpec(name, name, {"type": "object", "properties": properties}) for name in ("search", "book")]

    def rows(**more):
        book = {"name": "book", "arguments": {"flight": "$search.flight"}, **more}
        return [{"name": "search", "arguments": {"to": "Oslo"}, "result": {"flight": "SK21"}}, book]

    with pytest.raises(DataError, match=r'\$search\.flight.* did you mean "\$1\.flight"\?'):
        read_gold(rows(), tools)
    assert read_gold(rows(references={"flight": None}), tools)[1].arguments == {"flight": "$search.flight"}
