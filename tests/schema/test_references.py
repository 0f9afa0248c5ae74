"""References are read, found at any depth, and looked up in results."""

from __future__ import annotations

import pytest

from cahl_pl.schema.references import Reference, look_up, read_reference, references_in, replace_references

RESULT = {"city": "Oslo", "items": [{"id": 7}, {"id": 8}], "two words": [[1, 2]], "text": '{"a": [5]}'}


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("$1", Reference(1, ())),
        ("$12.city", Reference(12, ("city",))),
        ("$2.items[0].id", Reference(2, ("items", 0, "id"))),
        ('$1["two words"][0][1]', Reference(1, ("two words", 0, 1))),
        ("$1[3]", Reference(1, (3,))),
        ("$1.50", None),
        ("$0", None),
        ("$01", None),
        ("$10000", None),
        ("costs $1", None),
        ("$1 ", None),
        ("$1.", None),
        ("$1..a", None),
        ("$1[-1]", None),
        ("$1.a b", None),
        ("$", None),
        (1, None),
        (None, None),
    ],
)
def test_what_is_a_reference(text, reference):
    assert read_reference(text) == reference


def test_references_stand_at_any_depth():
    value = {"a": ["$1", {"b": "$2.x", "c": "text $3"}], "d": 1}
    assert set(references_in(value)) == {Reference(1, ()), Reference(2, ("x",))}
    put = replace_references(value, lambda reference, text: (reference.call, text))
    assert put == {"a": [(1, "$1"), {"b": (2, "$2.x"), "c": "text $3"}], "d": 1}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ((), RESULT),
        (("city",), "Oslo"),
        (("items", 1, "id"), 8),
        (("two words", 0, 1), 2),
        (("text", "a", 0), 5),  # an answer that is JSON text
    ],
)
def test_values_are_looked_up(path, value):
    assert look_up(RESULT, path) == value


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        (("town",), "the result has no field 'town'; its fields are: city, items, two words, text"),
        (("items", 2), r".items has 2 elements, and no \[2\] counted from 0"),
        (("items", "id"), ".items is a list, which has no .id"),
        ((0,), r"the result is an object, which has no \[0\]"),
        (("city", "x"), ".city is a single value, which has no .x"),
    ],
)
def test_what_is_not_there_is_named(path, fault):
    with pytest.raises(LookupError, match=fault):
        look_up(RESULT, path)


def test_which_reference_leads_to_which():
    whole, part = Reference(1, ()), Reference(1, ("a", 0))
    assert whole.leads_to(part)
    assert not part.leads_to(whole)
    assert not Reference(2, ()).leads_to(part)
