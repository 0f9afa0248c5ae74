"""Text: spelling, which needs no state."""

from __future__ import annotations

from cahl_pl.toolworld.kinds import Count, Word
from cahl_pl.toolworld.registry import ToolError, tool

TEXT = ("text", "word", "string")


@tool(
    names=("reverse", "reverse_text", "get_reverse"),
    parameters={"text": TEXT},
    descriptions=("reverse a text", "the reverse of a word", "letters in reverse"),
    asks=("the reverse of {text}", "{text} in reverse"),
    orders=("reverse {text}", "spell {text} in reverse"),
)
def reverse(text: Word) -> Word:
    """Letters of a text in reverse."""
    return text[::-1]


@tool(
    names=("capitals", "to_capitals", "get_capitals"),
    parameters={"text": TEXT},
    descriptions=("write in capitals", "a text in capitals", "turn letters into capitals"),
    asks=("{text} in capitals", "{text} in all capitals"),
    orders=("write {text} in capitals", "put {text} in capitals", "spell {text} in capitals"),
)
def capitals(text: Word) -> Word:
    """Text in capital letters."""
    return text.upper()


@tool(
    names=("length", "get_length", "length_of"),
    parameters={"text": TEXT},
    descriptions=("length of a text", "the length of a word", "find the length"),
    asks=("the length of {text}", "the total length of {text}"),
    orders=("measure the length of {text}", "work out the length of {text}"),
)
def length(text: Word) -> Count:
    """Number of characters of a text."""
    return len(text)


@tool(
    names=("first_letter", "get_first_letter", "first_letter_of"),
    parameters={"text": TEXT},
    descriptions=("first letter of a text", "the first letter", "find the first letter"),
    asks=("the first letter of {text}", "the very first letter of {text}", "the first letter in {text}"),
)
def first_letter(text: Word) -> Word:
    """First letter of a text."""
    if not text:
        raise ToolError("empty text")
    return text[0]


@tool(
    names=("last_letter", "get_last_letter", "last_letter_of"),
    parameters={"text": TEXT},
    descriptions=("last letter of a text", "the last letter", "find the last letter"),
    asks=("the last letter of {text}", "the very last letter of {text}", "the last letter in {text}"),
    unseen=True,
)
def last_letter(text: Word) -> Word:
    """Last letter of a text."""
    if not text:
        raise ToolError("empty text")
    return text[-1]
