"""ToolACE (arXiv 2409.00920): dialogues whose assistant turns may be calls, written as text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, cast

from cahl_pl.datasets.call_marks import unread_call
from cahl_pl.datasets.call_text import parse_calls
from cahl_pl.datasets.failed_answers import as_failure
from cahl_pl.datasets.messages import ANSWERED, SAYS_NOTHING
from cahl_pl.datasets.rows import get_field, parse_json
from cahl_pl.datasets.task_parts import history_text, kind_of_gold, object_schema
from cahl_pl.datasets.type_names import type_schema
from cahl_pl.errors import DataError
from cahl_pl.types import NO_RESULT, GoldCall, Message, Task, ToolCall, ToolSpec

_MAX_DEPTH = 16
_MAX_BRACKETS = 100
_CALL_SHAPED = re.compile(r"[^\[\](),=]+\(\s*(?:\)|[^\[\]()=]+=)")
"""A name, then round brackets with nothing or a name and `=` in them."""


def toolace_tasks(row: Any, name: str) -> Iterator[Task | DataError]:
    """Yield the tasks of a row `{"system", "conversations": [{"from", "value"}]}`: one for each assistant turn that calls.

    A turn that answers its user in text is a task without gold: no tool is needed, or what it needs is missing.

    The system text contains the tools as a JSON list. A turn calls if it starts with a bracket that contains a call, or is
    enclosed in one, `[name(key=value), ...]`; a turn that starts with `[x]` or `[1]` is text.
    The tools' answers are stored as the results if they follow as a JSON list of the same length. Calls
    of a turn are parallel: `ordered` is False.

    Args:
        row: the row.
        name: name of the row; the tasks' ids are `<name>-turn-<turn, from 1>`.

    Raises:
        DataError: the row cannot be read, or none of its turns calls. A turn whose calls cannot be read is yielded as
            a DataError, and so is every calling turn after it, since their dialogue holds it.
    """
    tools = _tools(get_field(row, "system", str))
    names = [tool.name for tool in tools]
    turns = get_field(row, "conversations", list)
    history: list[Message] = []
    broken: int | None = None
    found = False
    for number, turn in enumerate(turns, start=1):
        try:
            speaker, text = get_field(turn, "from", str), get_field(turn, "value", str)
            if speaker not in ("user", "assistant", "tool"):
                raise DataError(f"'from' must be user, assistant or tool, not {speaker!r}")
        except DataError as error:
            raise DataError(f"the field 'conversations', turn {number}: {error}") from None
        if speaker == "assistant" and _calls_tools(text, names):
            found = True
            try:
                if broken is not None:
                    raise DataError(f"the calls of turn {broken}, which it follows, cannot be read")
                calls = parse_calls(text)
                if not history or history[-1].role not in ("user", "tool"):
                    raise DataError("calls must follow a user's message or a tool's answer")
            except DataError as error:
                broken = broken or number
                yield DataError(f"the field 'conversations', turn {number}: {error}")
                continue
            try:
                results = _results(turns[number:], calls)
            except DataError as error:
                yield DataError(f"the field 'conversations', turn {number + 1}: {error}")
                history.append(Message("assistant", history_text(calls)))
                continue
            gold = tuple(GoldCall(c.name, c.arguments, result) for c, result in zip(calls, results, strict=True))
            yield Task(f"{name}-turn-{number}", tuple(history), tools, gold, tags={"kind": kind_of_gold(gold)})
            text = history_text(calls)
        elif speaker == "assistant" and history and history[-1].role == "user" and broken is None:
            found = True
            if not text.strip():
                yield DataError(f"the field 'conversations', turn {number}: {SAYS_NOTHING}")
                history.append(Message("assistant", text))
                continue
            mark = unread_call(text, tools)
            if mark is not None:
                broken = number
                yield DataError(
                    f"the field 'conversations', turn {number}: the text holds a call in a notation that is not read ({mark}); "
                    "calls are written [name(key=value)]"
                )
                continue
            task_tags = {"kind": kind_of_gold(())}
            yield Task(f"{name}-turn-{number}", tuple(history), tools, (), answer=text.strip() or None, tags=task_tags)
        history.append(Message(cast(Literal["user", "assistant", "tool"], speaker), text))
    if not found:
        raise DataError("no turn of the assistant calls a tool or answers the user")


def _calls_tools(text: str, names: Sequence[str]) -> bool:
    """Return whether a turn consists of calls, even broken ones, and is not text such as `[1] says (so)`."""
    text = text.strip()
    if not text.startswith("[") or "(" not in text:
        return False
    inside = text[1:]
    return (
        (inside.endswith(")]") and inside.find("(") < inside.find("]"))
        or _CALL_SHAPED.match(inside) is not None
        or inside.partition("(")[0].strip() in names
    )


def _results(following: Sequence[Any], calls: Sequence[ToolCall]) -> list[Any]:
    """Return the tools' answers to the calls, in their order; `NO_RESULT` for each if the next turn does not give them.

    Answers that name their tools belong to the calls of these tools; for several calls of one tool, in order.

    Raises:
        DataError: the answers name tools other than those called.
    """
    unknown = [NO_RESULT] * len(calls)
    if not following or not isinstance(following[0], dict) or following[0].get("from") != "tool":
        return unknown
    try:
        answers = parse_json(str(following[0].get("value")))
    except DataError:
        return unknown
    if not isinstance(answers, list) or not answers:
        return unknown
    said = [_answered(answer) for answer in answers]
    given, names = [name for name, _ in said], [call.name for call in calls]
    if not any(given):
        return [answer for _, answer in said] if len(said) == len(calls) else unknown
    if sorted(map(str, given)) != sorted(names):
        raise DataError(
            f"the tools that answer are {', '.join(map(str, given))}, but those that are called {', '.join(names)}: name each "
            "answer by its call"
        )
    rest = dict[str, list[Any]]()
    for name, answer in said:
        rest.setdefault(str(name), []).append(answer)
    return [rest[name].pop(0) for name in names]


def _answered(answer: Any) -> tuple[str | None, Any]:
    """Return the tool that an answer names, if any, and its content."""
    key = next((key for key in ANSWERED if isinstance(answer, dict) and key in answer), None)
    if key is None or not answer.keys() <= {"name", key}:
        return None, as_failure(answer)
    name = answer.get("name")
    return (name if isinstance(name, str) and name else None), as_failure(answer[key])


def _tools(system: str) -> tuple[ToolSpec, ...]:
    declared = _tool_list(system)
    try:
        return tuple(_tool(tool) for tool in declared)
    except DataError as error:
        raise DataError(f"the field 'system', the tools: {error}") from None


def _tool_list(system: str) -> list[Any]:
    """Return the first JSON list of objects with names in the text, which starts at one of its first brackets."""
    at = system.find("[")
    for _ in range(_MAX_BRACKETS):  # each attempt may take as long as the whole text
        if at < 0:
            break
        try:
            end = json.JSONDecoder().raw_decode(system, at)[1]
            value = parse_json(system[at:end])
        except (ValueError, RecursionError):  # DataError is a ValueError
            value = None
        if isinstance(value, list) and value and all(isinstance(item, dict) and "name" in item for item in value):
            return value
        at = system.find("[", at + 1)
    raise DataError("the field 'system' holds no JSON list of tools")


def _tool(tool: Any) -> ToolSpec:
    declared = {"parameters": {}} if tool.get("parameters") is None else tool
    schema = json_schema(get_field(declared, "parameters", dict))
    parameters = object_schema(schema.get("properties", {}), schema.get("required", ()))
    return ToolSpec(get_field(tool, "name", str), str(tool.get("description") or ""), parameters)


def json_schema(declared: Mapping[str, Any], depth: int = 0) -> dict[str, Any]:
    """Return the JSON Schema of a declaration that is nearly one: its types are Python's names (`dict`) or free text.

    Only keywords that constrain types are kept; anything not understood does not constrain.
    """
    if depth > _MAX_DEPTH:
        return {}
    schema = type_schema(declared.get("type"))
    for key in ("description", "default"):
        if declared.get(key) not in (None, ""):
            schema[key] = declared[key]
    if isinstance(declared.get("enum"), list) and declared["enum"]:
        schema["enum"] = declared["enum"]
    if isinstance(declared.get("items"), Mapping):
        schema["items"] = json_schema(declared["items"], depth + 1)
    properties = declared.get("properties")
    if isinstance(properties, Mapping):
        schema["properties"] = {
            name: json_schema(value, depth + 1) if isinstance(value, Mapping) else {}
            for name, value in properties.items()
        }
        required = declared.get("required")
        known = [name for name in properties if name in required] if isinstance(required, list) else []
        if known:
            schema["required"] = known
    return schema
