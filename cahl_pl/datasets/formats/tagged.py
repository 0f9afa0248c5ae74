"""Calls in the text of a turn, between tags: Hermes' and Qwen's `<tool_call>`, Glaive's `<functioncall>`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final

from cahl_pl.datasets.call_objects import Call, read_function
from cahl_pl.datasets.declared_values import read_value
from cahl_pl.datasets.messages import Said
from cahl_pl.datasets.notations import tag_body
from cahl_pl.datasets.tool_forms import read_tools
from cahl_pl.errors import DataError
from cahl_pl.types import ToolCall, ToolSpec

_CALL: Final = re.compile(r"<\s*tool[\s_-]?call\s*>(.*?)<\s*/\s*tool[\s_-]?call\s*>", re.DOTALL | re.IGNORECASE)
_CALLS: Final = re.compile(r"<\s*tool[\s_-]?calls\s*>(.*?)<\s*/\s*tool[\s_-]?calls\s*>", re.DOTALL | re.IGNORECASE)
_OPEN: Final = re.compile(r"<\s*tool[\s_-]?call\s*>", re.IGNORECASE)
_FUNCTION_CALL: Final = re.compile(r"<\s*function[\s_-]?call\s*>", re.IGNORECASE)
_TAG: Final = re.compile(r"<\s*(?:tool[\s_-]?calls?|function[\s_-]?call)\s*>", re.IGNORECASE)
_QUOTED: Final = re.compile(r"(['\"]arguments['\"]\s*:\s*)'(.*)'(\s*\}\s*)$", re.DOTALL)
_ANSWER: Final = re.compile(r"<tool_response>(.*?)</tool_response>", re.DOTALL)
_ENVELOPE: Final = frozenset({"tool_call_id", "name", "content", "role", "id"})
_LISTED: Final = re.compile(
    r"(?:Specifically, )?you have access to the following APIs:\s*(\[.*\])\s*$", re.DOTALL | re.IGNORECASE
)
_FUNCTIONS: Final = re.compile(
    r"[^.\n]*\bfunctions\.? *(?:Use them if required)? *[-:]\s*(\{.*\}|\[\s*\{.*\])\s*$", re.DOTALL | re.IGNORECASE
)
_TOOLS: Final = re.compile(r"<tools>(.*?)</tools>", re.DOTALL)
# instructions for calls in the templates of Hermes, Qwen and APIGen: this project's prompts have their own, different ones
_HOW_TO_CALL: Final = re.compile(
    r"(?:Use the following pydantic model|For each function call,? return|The output MUST strictly adhere).*</tool_call>",
    re.DOTALL,
)
_THOUGHT: Final = re.compile(r"<think>.*?</think>\s*", re.DOTALL)


def holds_tags(text: str) -> bool:
    """Return whether a text contains a call tag that is read here."""
    return _TAG.search(text) is not None


def tagged_turn(text: str, number: int) -> Said:
    """Return an assistant's turn, its calls extracted from their tags; thoughts are left out.

    A tag may be in any case and contain blanks; `<tool_calls>` contains a list.

    Raises:
        DataError: a call cannot be read, or a tag is not closed.
    """
    text = _THOUGHT.sub("", text)
    calls: list[Call] = []
    for body in _CALL.findall(text):
        found = tag_body(body.strip())
        calls += calls_of(read_value(body.strip())) if found is None else found
    rest = _CALL.sub("", text)
    for body in _CALLS.findall(rest):
        calls += calls_of(_listed(body.strip())) if body.strip() else []  # empty: around <tool_call> tags
    rest = _CALLS.sub("", rest).strip()
    if _OPEN.search(rest):
        raise DataError("a <tool_call> is not closed")
    rest, *bodies = _FUNCTION_CALL.split(rest)
    calls += [Call(flattened(body)) for body in bodies]
    rest = rest.strip()
    return Said("assistant", rest, tuple(calls), number=number, no_call=bool(text.strip()) and not (rest or calls))


def _listed(body: str) -> Any:
    """Return the value between `<tool_calls>` tags: a list, or one object per line, as MiniMax writes them."""
    lines = [line for line in body.splitlines() if line.strip()]
    if len(lines) > 1 and all(line.strip().startswith("{") and line.strip().endswith("}") for line in lines):
        return [read_value(line.strip()) for line in lines]
    return read_value(body)


def flattened(body: str) -> ToolCall:
    """Return Glaive's call, `{"name": ..., "arguments": '{"x": "it's"}'}`, which is neither JSON nor Python."""
    body = re.sub(r"<\s*/\s*function[\s_-]?call\s*>\s*$", "", body.strip(), flags=re.IGNORECASE)
    quoted = _QUOTED.search(body)
    if quoted:
        body = body[: quoted.start()] + quoted[1] + json.dumps(quoted[2].replace("\\'", "'")) + quoted[3]
    return read_function(read_value(body.strip()))


def calls_of(value: Any) -> list[Call]:
    """Return the calls of a value: one, or a list of them; the id of each is in `id` or `tool_call_id`.

    Raises:
        DataError: it is neither.
    """
    calls = []
    for item in value if isinstance(value, list) else [value]:
        given = (item.get("id") or item.get("tool_call_id")) if isinstance(item, dict) else None
        calls.append(Call(read_function(item), str(given) if isinstance(given, str | int) else None))
    return calls


def tagged_answers(text: str, number: int, calls: Sequence[Call] = ()) -> list[Said]:
    """Return the answers of tools in a turn, one for each `<tool_response>`; the whole text if there is no such tag.

    An answer may name its call next to its `content`, in `tool_call_id`, `id` or `name`.

    Args:
        text: the turn.
        number: its place, from 1.
        calls: the calls answered. Ids of answers count only if calls have ids.
    """
    bodies = [body.strip() for body in _ANSWER.findall(text)] or [text]
    return [_answer(body, number, calls) for body in bodies]


def _answer(text: str, number: int, calls: Sequence[Call]) -> Said:
    try:
        value = read_value(text.strip())
    except DataError:
        return Said("tool", text, number=number)
    ids = {one.id for one in calls if one.id is not None}
    if not isinstance(value, dict) or "content" not in value or not value.keys() <= _ENVELOPE:
        return Said("tool", text, number=number)
    given = value.get("tool_call_id", value.get("id") if str(value.get("id")) in ids else None)
    name = value.get("name")
    if "id" in value and given is None and name is None:  # the answer itself is an object with an id
        return Said("tool", text, number=number)
    content = value["content"]
    is_json = not isinstance(content, str)
    said = json.dumps(content, ensure_ascii=False) if is_json else content
    # if the calls have no ids, a name, or there being one call, identifies the call
    of_no_call = not ids and (name is not None or len(calls) == 1)
    answers = None if given is None or of_no_call else str(given)
    return Said("tool", said, (), answers, name if isinstance(name, str) else None, number, is_json=is_json)


def holds_answers(text: str) -> bool:
    """Return whether a user's turn consists of tools' answers, as in Qwen's templates."""
    return text.lstrip().startswith("<tool_response>")


def tagged_tools(system: str) -> tuple[ToolSpec, ...] | None:
    """Return the tools in a system text, between `<tools>` tags: a JSON list, or one object per line. None without such tags.

    Raises:
        DataError: they cannot be read.
    """
    # the prose before the list may mention "<tools></tools> XML tags"
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


def listed_tools(system: str) -> tuple[ToolSpec, ...] | None:
    """Return the tools at the end of a system text: a list, often in Python's notation (ToolBench), or objects (Glaive).

    None if there are none.

    Raises:
        DataError: they cannot be read.
    """
    if found := _LISTED.search(system):
        return read_tools(read_value(found[1]), "tools")
    found = _FUNCTIONS.search(system)
    return None if found is None else read_tools(objects_in(found[1]), "tools", lenient=True)


def objects_in(text: str) -> list[Any]:
    """Return the JSON objects in a text, in order, and the items of JSON lists.

    Raises:
        DataError: one of them cannot be read.
    """
    found: list[Any] = []
    at, decoder = 0, json.JSONDecoder()
    while (start := min((i for i in (text.find("{", at), text.find("[", at)) if i >= 0), default=-1)) >= 0:
        try:
            value, at = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            raise DataError(f"no function can be read at {text[start : start + 40]!r}") from None
        found += value if isinstance(value, list) else [value]
    return found


def without_tools(system: str) -> str:
    """Return a system text without its tools and the instructions for calling them: this project's prompts have both."""
    found = next((block for block in _TOOLS.finditer(system) if block[1].strip()), None)
    if found is None:
        return _FUNCTIONS.sub("", _LISTED.sub("", system)).strip()
    before, after = system[: found.start()].rstrip(), _HOW_TO_CALL.sub("", system[found.end() :]).strip()
    return "\n".join(part for part in (before.strip(), after) if part)
