"""Texts that show nothing."""

from __future__ import annotations

import pytest

from cahl_pl.schema.blanks import is_blank


@pytest.mark.parametrize(
    "text", ["", " \t\n", "\u00a0\u2003", "\u200b\u200c\ufeff", "\u2060\u00ad", "\u3164 \u2800", "\x00\x1b", "\ufe0f"]
)
def test_a_text_without_ink_is_blank(text: str) -> None:
    assert is_blank(text)


@pytest.mark.parametrize("text", ["a", "\u200b1", "?", "🙂", "東", "\u3164x", "\u0301e", "-"])
def test_a_text_with_ink_is_none(text: str) -> None:
    assert not is_blank(text)
