"""What is said of text that is no JSON, and where a row over several lines ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cahl_pl.datasets.rows import get_field, parse_json, read_rows
from cahl_pl.errors import DataError
from cahl_pl.schema.wording import kind_word

GOOD = '{"a": 1}\n'
PRETTY = json.dumps({"id": "x", "said": [{"role": "user", "content": "a { [ \\"}], "gold": []}, indent=2) + "\n"
LONG = "this looks like one value over several lines, from line {} to {}: write each row on one line"


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ('{"a": 1, }', "(a comma stands before the closing }: leave it out)"),
        ('{"a": [1,]}', "(a comma stands before the closing ]: leave it out)"),
        ('{"a": True}', "(True is not JSON's word: write true, or the row by json.dumps)"),
        ('{"a": None}', "(None is not JSON's word: write null, or the row by json.dumps)"),
        ('{"a": 1 /* x */}', "(JSON has no comments: leave it out)"),
        ("{a: 1}", '(keys stand in double quotes: "a")'),
        ('{"a": \u201cx\u201d}', '(\u201c is a quotation mark of prose: write ")'),
        ('{"a": "x\ty"}', r"(within text a line break is written \n, a tab \t)"),
        ('{"a": "\\d"}', r"(within text a backslash is written \\)"),
        ('{"a": "x', '(the text has no closing ")'),
        ('{"a": ', "(the text ends too early: is the line or the file cut off?)"),
        ('{"a": 1},', "(a comma: leave it out, or write all rows as one JSON list in a .json file)"),
        ('{"a": 1}\r{"a": 2}', "the lines end with carriage returns alone, as on old Macs: convert them"),
    ],
)
def test_a_sentence_says_what_to_do(text: str, remedy: str) -> None:
    with pytest.raises(DataError) as raised:
        parse_json(text)
    assert remedy in str(raised.value)


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        (GOOD + PRETTY + GOOD, {2: LONG.format(2, 11), 12: None}),
        (GOOD + PRETTY + "\n" + PRETTY, {2: LONG.format(2, 11), 13: LONG.format(13, 22)}),
        (PRETTY + GOOD, {1: LONG.format(1, 10), 11: None}),
        # also where something else is wrong with it, or it is cut off
        (GOOD + PRETTY.replace("[]", "[],") + GOOD, {2: LONG.format(2, 11), 12: None}),
        (GOOD + PRETTY[:-3] + "\n", {2: LONG.format(2, 10)}),
        (GOOD + '{"a": "line\nbreak"}\n' + GOOD, {2: LONG.format(2, 3), 4: None}),
        (GOOD + '[\n{"a": 1},\n{"a": 2}\n]\n' + GOOD, {2: LONG.format(2, 5), 6: None}),
        (GOOD + '{\n"a": [\n{"b": 1}\n]\n}\n', {2: LONG.format(2, 6)}),
        # lines that are but broken cost no other
        (GOOD + '{"a": [\n' + GOOD, {2: "the text ends too early", 3: None}),
        (GOOD + '{"a": [1\n {"a": 2}\n {"a": 3}\n', {2: "the text ends too early", 3: None, 4: None}),
    ],
)  # fmt: skip
def test_a_row_over_several_lines_is_one_fault(tmp_path: Path, text: str, faults: dict[int, str | None]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    rows = {row.line: row for row in read_rows(path)}
    assert {1} | rows.keys() == {1} | faults.keys()
    for line, said in faults.items():
        fault = rows[line].fault
        assert (fault is None) if said is None else said in str(fault)
    good = [row for row in rows.values() if row.fault is None]
    assert all(
        text.encode()[row.offset :].splitlines()[0].strip() == json.dumps(row.value).encode()
        for row in good
        if row.offset
    )


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("x", "text"),
        (1, "an integer"),
        (1.5, "a number"),
        (True, "true"),
        (None, "null"),
        ([], "a list"),
        ({}, "an object"),
    ],
)
def test_values_are_called_by_the_words_of_json(value: object, word: str) -> None:
    assert kind_word(value) == word
    kind = dict if isinstance(value, str) else str
    with pytest.raises(DataError, match=rf"^the field 'f' must be (an object|text), but is {word}$"):
        get_field({"f": value}, "f", kind)


def test_json_in_text_is_named() -> None:
    with pytest.raises(
        DataError, match=r"must be a list, but is text that holds JSON: write the list itself, without the"
    ):
        get_field({"f": " [1]\n"}, "f", list)
    with pytest.raises(DataError, match=r"must be a list, but is text$"):
        get_field({"f": "x"}, "f", list)


def test_an_object_in_the_place_of_a_list_is_told() -> None:
    with pytest.raises(DataError, match=r"the field 'gold' must be a list, but is an object: write it in a list, \[\{"):
        get_field({"gold": {"name": "f"}}, "gold", list)
