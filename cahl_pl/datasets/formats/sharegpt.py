"""ShareGPT's turns, `{"from", "value"}`: with `function_call` and `observation`, or with calls in tags (Hermes, Qwen)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from cahl_pl.datasets.call_fields import check_fields
from cahl_pl.datasets.call_objects import Call
from cahl_pl.datasets.declared_values import read_value
from cahl_pl.datasets.failed_answers import is_flagged
from cahl_pl.datasets.formats.base import Dialogue, dialogue_format
from cahl_pl.datasets.formats.tagged import (
    calls_of,
    flattened,
    holds_answers,
    holds_tags,
    listed_tools,
    tagged_answers,
    tagged_tools,
    tagged_turn,
    without_tools,
)
from cahl_pl.datasets.messages import Said, is_learnt, is_role_of_sharegpt, read_answer, read_calls
from cahl_pl.datasets.missing_tools import missing_tools
from cahl_pl.datasets.notations import take_calls
from cahl_pl.datasets.rows import get_field
from cahl_pl.datasets.tool_forms import read_tools
from cahl_pl.errors import DataError

_SPEAKERS: Final = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "function_call": "call",
    "tool_call": "call",
    "observation": "tool",
    "tool": "tool",
    "tool_response": "tool",
    "function_response": "tool",
    "tool_result": "tool",
    "tool_output": "tool",
    "function_result": "tool",
    "function": "tool",
    "ipython": "tool",
}

def _kind(speaker: Any) -> str | None:
    """Return the role of a speaker; `function-call` and `Human` mean `function_call` and `human`."""
    return _SPEAKERS.get(str(speaker).strip().lower().replace("-", "_"))


def is_one(row: dict[str, Any]) -> bool:
    """Return whether `conversations` are such turns, or messages have such speakers as roles."""
    return _is_shared(row) or _has_own_roles(row)


def _is_shared(row: dict[str, Any]) -> bool:
    turns = _turns(row)
    return bool(turns) and all(isinstance(turn, dict) and "from" in turn and "value" in turn for turn in turns)


def _has_own_roles(row: dict[str, Any]) -> bool:
    messages = row.get("messages")
    roles = [one.get("role") for one in messages if isinstance(one, dict)] if isinstance(messages, list) else []
    return "gold" not in row and any(map(is_role_of_sharegpt, roles))


def _turns(row: dict[str, Any]) -> list[Any]:
    turns = row.get("conversations", row.get("conversation"))
    return turns if isinstance(turns, list) else []


def is_tagged(row: dict[str, Any]) -> bool:
    """Return whether turns, in `messages` or of `from` and `value`, have calls or tools in tags, and the row no gold."""
    if "gold" in row or "outcome" in row:
        return False
    shared = _is_shared(row)
    turns, speaker, text = (_turns(row), "from", "value") if shared else (row.get("messages"), "role", "content")
    if not isinstance(turns, list):
        return False
    said = [
        (_kind(one.get(speaker)), one[text])
        for one in turns
        if isinstance(one, dict) and isinstance(one.get(text), str)
    ]
    if any(who == "assistant" and holds_tags(words) for who, words in said):
        return True
    answered = bool(said) and len(said) == len(turns) and said[-1][0] == "assistant"
    return answered and any(who == "system" and "<tools>" in words for who, words in said)


def read(row: dict[str, Any]) -> Dialogue:
    """Return the dialogue of a row; tools are in `tools`, or between `<tools>` tags of the system text.

    Raises:
        DataError: naming the field at fault.
    """
    if "messages" in row and not _is_shared(row):  # as chat programs write them
        return _dialogue(row, "messages", "role", "content")
    field = "conversations" if "conversations" in row else "conversation"
    return _dialogue(row, field, "from", "value")


def _dialogue(row: dict[str, Any], field: str, speaker: str, text: str) -> Dialogue:
    said: list[Said] = []
    system = row.get("system")
    if isinstance(system, str) and system.strip():
        said.append(Said("system", system))
    for number, turn in enumerate(get_field(row, field, list), start=1):
        try:
            calls = next((one.calls for one in reversed(said) if one.role == "assistant"), ())
            said += [one._replace(learnt=is_learnt(turn)) for one in _said(turn, number, speaker, text, calls)]
        except DataError as error:
            raise DataError(f"the field {field!r}, turn {number}: {error}") from None
    tools = None if row.get("tools") in (None, "") else read_tools(row["tools"])
    if said and said[0].role == "system":
        try:
            if tools is None:
                tools = tagged_tools(said[0].text)
            if tools is None:
                tools = listed_tools(said[0].text)
        except DataError as error:
            raise DataError(f"the system text: {error}") from None
        said[0] = said[0]._replace(text=without_tools(said[0].text))
        said = said if said[0].text else said[1:]
    if tools is None:
        raise DataError(missing_tools(row, ", and the system text holds none between <tools> and </tools>"))
    return Dialogue(said, tools, field, row[field])


def _said(turn: Any, number: int, speaker: str, text: str, calls: Sequence[Call]) -> list[Said]:
    name = get_field(turn, speaker, str)
    kind = _kind(name)
    given = read_calls(turn)
    answered = kind == "tool" and text in turn
    if given and turn.get(text) is None:
        content, is_json = "", False
    else:
        content, is_json = read_answer(turn[text], is_flagged(turn)) if answered else (get_field(turn, text, str), False)
    if given and kind not in ("assistant", "call"):
        raise DataError(f"only an assistant has tool_calls, not {speaker!r} of {name!r}")
    check_fields(turn, kind in ("assistant", "call"))
    if kind is None:
        raise DataError(f"{speaker!r} must be one of {', '.join(_SPEAKERS)}, not {name!r}")
    if kind == "system" and number > 1:
        raise DataError("a system text can only come first")
    if given:
        return [_with_fields(content, given, number)]
    if kind == "call":
        if holds_tags(content):
            return [tagged_turn(content, number)]
        rest, found = take_calls(content)
        calls = found or _calls(content)
        return [Said("assistant", rest if found else "", tuple(calls), number=number, no_call=not calls)]
    if kind == "assistant":
        return [tagged_turn(content, number)]
    if kind == "tool" or (kind == "user" and holds_answers(content)):
        answers = [one._replace(is_json=is_json or one.is_json) for one in tagged_answers(content, number, calls)]
        return [_as_named(answers[0], turn, calls)] if kind == "tool" and len(answers) == 1 else answers
    return [Said("system" if kind == "system" else "user", content, number=number)]


def _with_fields(text: str, calls: tuple[Call, ...], number: int) -> Said:
    """Return a turn whose calls are in fields as in OpenAI's messages; its text may repeat them."""
    said = tagged_turn(text, number) if holds_tags(text) else Said("assistant", text, number=number)
    if said.calls and [one.call for one in said.calls] != [one.call for one in calls]:
        raise DataError("the calls in the text are others than those in the field 'tool_calls': leave one of them out")
    return said._replace(calls=calls, no_call=False)


def _as_named(answer: Said, turn: dict[str, Any], calls: Sequence[Call]) -> Said:
    """Return a tool's answer with the id of its call and the tool's name, if its turn has OpenAI's fields for them."""
    given, name = turn.get("tool_call_id"), turn.get("name")
    if answer.answers is None and isinstance(given, str) and given and any(one.id is not None for one in calls):
        answer = answer._replace(answers=given)
    return answer._replace(name=name) if answer.name is None and isinstance(name, str) else answer


def _calls(text: str) -> list[Call]:
    """Return the calls of a turn that consists of calls: JSON, or as Glaive writes them."""
    try:
        return calls_of(read_value(text))
    except DataError:
        if "'{" not in text:
            raise
        return [Call(flattened(text))]


FORMAT = dialogue_format(is_one, read)
TAGGED = dialogue_format(is_tagged, read)
