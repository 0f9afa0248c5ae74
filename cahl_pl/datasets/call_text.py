"""Calls written as Python-like text, `[name(key=value, ...), ...]`: read without running anything."""

from __future__ import annotations

import ast
import math
import warnings
from typing import Any

from cahl_pl.errors import DataError
from cahl_pl.types import ToolCall

_CLOSING = {"(": ")", "[": "]", "{": "}"}
_NAMES = {"true": True, "false": False, "null": None}


def parse_calls(text: str) -> list[ToolCall]:
    """Return the calls of a text.

    Names of tools and parameters may contain anything but brackets, quotes, commas and `=`: data sets have names with
    spaces, dots and slashes, which are not Python. Values are Python literals, or the JSON words true, false and null.

    Raises:
        DataError: the text is not a list of such calls.
    """
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")):
        raise DataError("calls must stand in brackets, [name(key=value)]")
    return [_call(part) for part in _split(text[1:-1]) if part.strip()]


def _call(text: str) -> ToolCall:
    text = text.strip()
    start = _last_bracket(text)
    name, rest = text[:start], text[start + 1 :]
    if start < 0 or not name.strip() or not rest.endswith(")"):
        raise DataError(f"{_show(text)} is not a call, name(key=value)")
    arguments: dict[str, Any] = {}
    for part in _split(rest[:-1]):
        key, equals, value = part.partition("=")
        key = key.strip()
        if not part.strip():
            continue
        if not equals or not key or any(quote in key for quote in "\"'"):
            raise DataError(f"the argument {_show(part)} of {name.strip()} has no name")
        if key in arguments:
            raise DataError(f"the argument {key!r} of {name.strip()} appears twice")
        arguments[key] = literal(value)
    return ToolCall(name.strip(), arguments)


def _last_bracket(text: str) -> int:
    """Return where the last outermost round bracket opens: names may contain some, `Feed (Videos) V2(user=1)`."""
    start, depth, at, valued = -1, 0, 0, False
    while at < len(text):
        if text[at] in "\"'" and depth and valued:  # elsewhere it is an apostrophe in a name
            at = _end_of_string(text, at)
        elif text[at] == "=":
            valued = depth > 0
        elif text[at] in _CLOSING:
            if depth == 0:
                start, valued = (at if text[at] == "(" else start), False
            depth += 1
        elif text[at] in ")]}":
            depth -= 1
        at += 1
    return start


def literal(text: str) -> Any:
    """Return the JSON value of a Python literal; a tuple becomes a list.

    Raises:
        DataError: the text is not a literal, or its value has no counterpart in JSON.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # for escapes such as "\d", which stay as they are
            return _json_value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        raise DataError(f"the value {_show(text)} is not a literal that JSON has") from None


def _json_value(node: ast.expr) -> Any:
    """Return the value of a literal's syntax tree. Raises ValueError for anything else."""
    if isinstance(node, ast.List | ast.Tuple):
        return [_json_value(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        keys = [None if key is None else _json_value(key) for key in node.keys]
        if not all(isinstance(key, str) for key in keys):
            raise ValueError("a key that is not text")
        if len(set(keys)) < len(keys):
            raise ValueError("a key appears twice")
        return dict(zip(keys, map(_json_value, node.values), strict=True))
    if isinstance(node, ast.Name) and node.id in _NAMES:
        return _NAMES[node.id]
    value = ast.literal_eval(node)
    if isinstance(value, str):
        value.encode()  # half a surrogate pair raises
    elif isinstance(value, int):
        str(value)  # raises from 4,301 digits on, which hexadecimal literals may have and JSON may not
    elif not (value is None or (isinstance(value, float) and math.isfinite(value))):
        raise ValueError("not a JSON value")
    return value


def _split(text: str) -> list[str]:
    """Return the parts between commas outside brackets and quotes.

    Raises:
        DataError: brackets or quotes are not closed.
    """
    parts: list[str] = []
    open_: list[str] = []  # the brackets that close the open ones
    start = at = 0
    while at < len(text):
        character = text[at]
        if character in "\"'" and (open_ or "=" in text[start:at]):  # elsewhere it is an apostrophe in a name
            at = _end_of_string(text, at)
        elif character in _CLOSING:
            open_.append(_CLOSING[character])
        elif open_ and character == open_[-1]:
            open_.pop()
        elif character in ")]}":
            raise DataError(f"a bracket is closed that was not opened, in {_show(text)}")
        elif character == "," and not open_:
            parts.append(text[start:at])
            start = at + 1
        at += 1
    if open_:
        raise DataError(f"a bracket is not closed, in {_show(text)}")
    return [*parts, text[start:]]


def _end_of_string(text: str, start: int) -> int:
    """Return the place of the closing quote."""
    at = start + 1
    while at < len(text) and text[at] != text[start]:
        at += 2 if text[at] == "\\" else 1
    if at >= len(text):
        raise DataError(f"a quote is not closed, in {_show(text)}")
    return at


def _show(text: str) -> str:
    return repr(text.strip()[:60])
