"""Numbers with their nouns."""

from __future__ import annotations

import pytest

from cahl_pl.plurals import counted


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((0, "row"), "0 rows"),
        ((1, "row"), "1 row"),
        ((1500, "row"), "1,500 rows"),
        ((1, "reply", "replies"), "1 reply"),
        ((2, "reply", "replies"), "2 replies"),
    ],
)
def test_one_is_singular_and_all_others_are_plural(arguments, text):
    assert counted(*arguments) == text
