"""Calls in the text of a turn, between tags: Hermes' and Qwen's `<tool_call>`, Glaive's `<functioncall>`."""

from __future__ import annotations

import re
from typing import Any, Final

from cahl_pl.datasets.call_text import literal
from cahl_pl.datasets.messages import Call, Said, read_function
from cahl_pl.datasets.rows import parse_json
from cahl_pl.datasets.tool_forms import read_tools
from cahl_pl.errors import DataError
from cahl_pl.types import ToolSpec

_CALL: Final = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
_ANSWER: Final = re.compile(r"<tool_response>(.*?)</tool_response>", re.DOTALL)
_TOOLS: Final = re.compile(r"<tools>(.*?)</tools>", re.DOTALL)
_THOUGHT: Final = re.compile(r"<think>.*?</think>\s*", re.DOTALL)


def read_value(text: str) -> Any:
    """Return the value of a JSON text, or of Python's notation of one, which data sets mix.

    Raises:
        DataError: it is neither.
    """
    try:
        return parse_json(text)
    except DataError as error:
        try:
            return literal(text)
        except DataError:
            raise error from None


def tagged_turn(text: str, number: int) -> Said:
    """Return an assistant's turn, its calls taken out of their tags; thoughts are left out.

    Raises:
        DataError: a call cannot be read, or a tag is not closed.
    """
    text = _THOUGHT.sub("", text)
    calls: list[Call] = []
    for body in _CALL.findall(text):
        calls += calls_of(read_value(body))
    rest = _CALL.sub("", text).strip()
    if "<tool_call>" in rest:
        raise DataError("a <tool_call> is not closed")
    return Said("assistant", rest, tuple(calls), number=number)


def calls_of(value: Any) -> list[Call]:
    """Return the calls of a value: one, or a list of them.

    Raises:
        DataError: it is neither.
    """
    return [Call(read_function(item)) for item in (value if isinstance(value, list) else [value])]


def tagged_answers(text: str, number: int) -> list[Said]:
    """Return the answers of tools in a turn, one for each `<tool_response>`; the whole text where there is no such tag."""
    found = _ANSWER.findall(text)
    return [Said("tool", body.strip(), number=number) for body in found] or [Said("tool", text, number=number)]


def holds_answers(text: str) -> bool:
    """Whether a user's turn is the answers of tools, as Qwen's templates have them."""
    return text.lstrip().startswith("<tool_response>")


def tagged_tools(system: str) -> tuple[ToolSpec, ...] | None:
    """Return the tools in a system text, between `<tools>` tags: a JSON list, or one object a line. None without such tags.

    Raises:
        DataError: they cannot be read.
    """
    # the prose before the list may speak of "<tools></tools> XML tags"
    body = next((found for found in _TOOLS.findall(system) if found.strip()), None)
    if body is None:
        return None
    lines = [line for line in body.strip().split("\n") if line.strip()]
    try:
        value = read_value(body.strip())
        listed = value if isinstance(value, list) else [value]
    except DataError:
        listed = [read_value(line) for line in lines]
    return read_tools(listed, "<tools>")


def without_tools(system: str) -> str:
    """Return a system text up to its list of tools, which this project's prompts write themselves."""
    return system.partition("<tools>")[0].strip() if _TOOLS.search(system) else system
