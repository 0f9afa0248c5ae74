"""Mistakes that people make: each is one sentence with its place and what to do, and the exit status of a failure."""

from __future__ import annotations

import re

import pytest

from tools.quality import mistakes_in_classes, mistakes_in_commands, mistakes_in_rows, show_mistakes

ROWS, COMMANDS = mistakes_in_rows.MISTAKES, (*mistakes_in_commands.MISTAKES, *mistakes_in_classes.MISTAKES)


def test_there_are_enough_of_them_and_no_two_of_one_name() -> None:
    names = [one.name for one in (*ROWS, *COMMANDS)]
    assert len(names) == len(set(names)) >= 64


def test_what_they_are_made_of_is_right() -> None:
    good = mistakes_in_rows.Mistake("none", mistakes_in_rows.row(), "1 row kept")
    assert show_mistakes.of_rows(good)[1:] == ("rows.jsonl: 1 row kept, 0 with a relaxed schema, 0 dropped", 0, False)


@pytest.mark.parametrize("mistake", ROWS, ids=[one.name for one in ROWS])
def test_a_mistake_in_a_file_is_one_sentence_with_its_place(mistake: mistakes_in_rows.Mistake) -> None:
    told = show_mistakes.of_rows(mistake)
    assert told.right, told


@pytest.mark.parametrize("mistake", COMMANDS, ids=[one.name for one in COMMANDS])
def test_a_mistake_in_a_command_is_one_sentence(mistake: mistakes_in_commands.Mistake) -> None:
    told = show_mistakes.of_command(mistake)
    assert told.right, told


def test_the_table_counts_what_is_wrong(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    first = ROWS[0]
    monkeypatch.setattr(mistakes_in_rows, "MISTAKES", (first, first._replace(name="b | c", said="something else")))
    monkeypatch.setattr(mistakes_in_commands, "MISTAKES", ())
    monkeypatch.setattr(mistakes_in_classes, "MISTAKES", ())
    with pytest.raises(SystemExit, match="1"):
        show_mistakes.main(["--whole"])
    out, err = capsys.readouterr()
    assert re.findall(r"\| (\d.*) \|$", out, re.MULTILINE) == ["2", "2 WRONG"]
    assert err == "\n2 mistakes, 1 not told as they should be\n"
