"""The table after `validate` and `test`."""

from __future__ import annotations

from cahl_pl.runs.scores import print_scores


def test_each_value_stands_once_in_the_column_of_its_set(capsys):
    values = {"a/x": 0.25, "b/x": 1.0, "b/only": 2.0, "ab/x": 9.0, "step": 40.0}
    print_scores(["a", "b", "unused"], values)
    out = capsys.readouterr().out
    assert "checkpoint of step 40" in out
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    assert cells == [["x", "0.250", "1.000"], ["only", "", "2.000"]]


def test_nothing_measured_nothing_printed(capsys):
    print_scores(["a"], {"step": 0.0})
    assert capsys.readouterr().out == ""
