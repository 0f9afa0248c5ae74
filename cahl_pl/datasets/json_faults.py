"""Messages about text that is not JSON: the fault, its place, and what to write instead."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

_PYTHON_WORDS: Final[Mapping[str, str]] = {"True": "true", "False": "false", "None": "null", "undefined": "null"}
_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*"')
_NEW_ROW: Final = re.compile(rb'[\[{]\s*"')
_COMMENTS: Final = ("//", "/*", "#")
_AT_A_VALUE: Final = 100


def no_json(text: str, start: int, error: json.JSONDecodeError) -> str:
    """Return what is wrong with a value that starts at `start`, with the remedy if it is known.

    Args:
        text: the text that was read.
        start: the start of the value, from which characters are counted.
        error: the decoder's error.
    """
    remedy = _remedy(text, start, error)
    return f"{error.msg.removesuffix(' at')} at character {error.pos - start}{remedy and f' ({remedy})'}"


def _remedy(text: str, start: int, error: json.JSONDecodeError) -> str:
    at = error.pos
    here, before = text[at:].lstrip()[:40], text[start:at].rstrip()[-1:]
    word = re.match(r"\w+", here)
    if text[at : at + 1] == "\0":
        return "a NUL byte, as where writing broke off: leave such bytes out, tr -d '\\000' < OLD > NEW"
    if here[:1] in ("}", "]") and before == ",":
        return f"a comma stands before the closing {here[0]}: leave it out"
    if here[:1] == "," and re.match(r"\s*[}\]]", text[at + 1 : at + _AT_A_VALUE]):  # where newer Pythons point
        return "a comma stands before a closing bracket: leave it out"
    if here.startswith(_COMMENTS):
        return "JSON has no comments: leave it out"
    if here[:1] in tuple("\u201c\u201d\u201e\u2018\u2019"):
        return f'{here[0]} is a quotation mark of prose: write "'
    if here[:1] == "'":
        return "as in Python's notation, with single quotes: write it by json.dumps"
    if word and word[0] in _PYTHON_WORDS:
        return f"{word[0]} is not JSON's word: write {_PYTHON_WORDS[word[0]]}, or the row by json.dumps"
    if error.msg.startswith("Expecting property name") and word:
        return f'keys stand in double quotes: "{word[0]}"'
    if error.msg.startswith("Invalid control character"):
        return "within text a line break is written \\n, a tab \\t"
    if error.msg.startswith(("Invalid \\escape", "Invalid \\\\escape")):
        return "within text a backslash is written \\\\"
    if error.msg.startswith("Unterminated string"):
        return 'the text has no closing "'
    if not here:
        return "the text ends too early: is the line or the file cut off?"
    return ""


def more_text(text: str, end: int) -> str:
    """Return what is wrong with text after a value that ends at `end`."""
    rest = text[end:].lstrip(" \t")
    if rest.startswith("\r"):
        return (
            "the lines end with carriage returns alone, as on old Macs: convert them, tr '\\r' '\\n' < OLD > NEW, or write "
            "one row a line"
        )
    rest = rest.lstrip()
    hint = ""
    if rest.startswith(("{", "[")):
        hint = " (is it another row? write each on a line of its own)"
    elif rest.startswith(","):
        hint = " (a comma: leave it out, or write all rows as one JSON list in a .json file)"
    return f"there is more text after the value, at character {end}{hint}"


def no_constant(name: str) -> str:
    """Return what is wrong with `NaN`, `Infinity` and `-Infinity`, which Python's json nevertheless writes."""
    return f'{name} is not JSON: write null, a number or text such as "{name}" (json.dumps writes it unless allow_nan=False)'


def out_of_range(number: str) -> str:
    """Return what is wrong with a number that is out of a float's range."""
    return f"the number {number[:40]} is out of range: write a smaller one, or text"


def twice(key: str) -> str:
    """Return what is wrong with an object that has a duplicate key."""
    return f"the key {key!r} appears twice in one object: leave one of them"


HALF_A_PAIR: Final = (
    "a \\ud... escape is half of a surrogate pair, which has no UTF-8: write the whole character, or leave it out"
)


def json_in_text(value: Any, kind: type) -> str:
    """Return what to do if JSON text was given for a list or an object, or an object for a list; else empty text."""
    if kind is list and isinstance(value, dict):
        return ": write it in a list, [{...}]"
    if kind not in (list, dict) or not isinstance(value, str):
        return ""
    start, end, what = ("[", "]", "the list") if kind is list else ("{", "}", "the object")
    if not (value.strip().startswith(start) and value.strip().endswith(end)):
        return ""
    return f" that holds JSON: write {what} itself, without the quotes around it (json.loads reads it)"


def lines_of_a_value(first: bytes, more: Callable[[], bytes]) -> int:
    """Return the number of lines of a value that is open at the end of its first line; 1 if that line is merely broken.

    Only brackets are counted, so the value may have other faults. The search ends at a line that starts a new row without
    indentation, unless the first line is a lone bracket, and at one that begins with a brace where no value can be.

    Args:
        first: the first line.
        more: returns the next line; empty at the end of the file.
    """
    depth, lines, last = _open(first), 1, first.strip()
    bare = last in (b"{", b"[")
    while depth > 0 and (line := more()):
        begins = line.lstrip().startswith(b"{")
        if (not bare and _NEW_ROW.match(line)) or (begins and not last.endswith((b",", b"[", b":", b"{"))):
            return 1
        depth, lines, last = depth + _open(line), lines + 1, line.strip() or last
    return lines


def _open(line: bytes) -> int:
    """Return how many more brackets a line opens than it closes, ignoring those within text."""
    bare = _STRING.sub(b"", line)
    return bare.count(b"{") + bare.count(b"[") - bare.count(b"}") - bare.count(b"]")
