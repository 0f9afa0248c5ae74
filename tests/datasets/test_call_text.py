from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cahl_pl.datasets.call_text import literal, parse_calls
from cahl_pl.errors import DataError
from cahl_pl.types import ToolCall

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("ab,()=[]{}'\"\\ "),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab'\""), inner, max_size=3),
    max_leaves=6,
)


def test_calls_are_read() -> None:
    market = """Market Trends API(trend_type="A, (B)", country='u\\'s')"""
    text = f""" [{market}, a.b/c-d(), Today's(user-id=[1, {{"k": true}}], from=-2.5)]"""
    assert parse_calls(text) == [
        ToolCall("Market Trends API", {"trend_type": "A, (B)", "country": "u's"}),
        ToolCall("a.b/c-d", {}),
        ToolCall("Today's", {"user-id": [1, {"k": True}], "from": -2.5}),
    ]
    assert parse_calls("[]") == []


def test_names_may_hold_brackets() -> None:
    text = """[User Feed (Video Posts) V2(user_id="12345"), f(a)(x="(", y=[")"]), (old) g()]"""
    assert parse_calls(text) == [
        ToolCall("User Feed (Video Posts) V2", {"user_id": "12345"}),
        ToolCall("f(a)", {"x": "(", "y": [")"]}),
        ToolCall("(old) g", {}),
    ]


def test_json_words_and_tuples() -> None:
    assert literal("[true, false, null, True, None, (1, 2), 'a' 'b']") == [True, False, None, True, None, [1, 2], "ab"]
    assert literal('"C:\\dir"') == "C:\\dir"  # no escape, and no warning


@given(JSON)
def test_every_json_value_is_read_back(value: object) -> None:
    assert parse_calls(f"[f(x={value!r}, y=1)]") == [ToolCall("f", {"x": value, "y": 1})]


@pytest.mark.parametrize(
    "value",
    [
        "__import__('os')",
        "x",
        "f()",
        "1 + 1",
        "{1}",
        "b'a'",
        "1j",
        "1e999",
        "{1: 2}",
        "f'{x}'",
        "...",
        "'\\ud800'",
        "[*a]",
        "{**a}",
        "",
    ],
)
def test_what_is_no_json_value_is_refused(value: str) -> None:
    with pytest.raises(DataError, match="is not a literal that JSON has"):
        literal(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("f(x=1)", "must stand in brackets"),
        ("[f]", "'f' is not a call"),
        ("[(x=1)]", "is not a call"),
        ("[f(1)]", "the argument '1' of f has no name"),
        ("[f(x=1, x=2)]", "the argument 'x' of f appears twice"),
        ("[f(x=(1]", "a bracket is closed that was not opened|a bracket is not closed"),
        ("[f(x='a)]", "a quote is not closed"),
        ("[f(x=1))]", "a bracket is closed that was not opened"),
        ("[f(x=" + "[" * 5000 + "]" * 5000 + ")]", "is not a literal"),
    ],
)
def test_broken_calls_are_named(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_calls(text)


@given(st.text("fx=()[]{}'\",\\ 1", max_size=30))
def test_hostile_text_raises_nothing_else(text: str) -> None:
    with contextlib.suppress(DataError):
        parse_calls(f"[{text}]")


def test_numbers_that_json_cannot_write_are_refused() -> None:
    assert literal("0xff") == 255
    with pytest.raises(DataError, match="is not a literal that JSON has"):
        parse_calls(f"[f(x=0x{'f' * 9000})]")
