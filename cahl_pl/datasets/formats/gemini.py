"""Rows of Gemini's API, as used for tuning on Vertex AI: `contents` of `parts` such as `functionCall`, `functionResponse`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cahl_pl.datasets.call_objects import Call
from cahl_pl.datasets.formats.base import Dialogue, dialogue_format
from cahl_pl.datasets.messages import Said, read_answer, read_content
from cahl_pl.datasets.missing_tools import missing_tools
from cahl_pl.datasets.rows import get_field
from cahl_pl.datasets.tool_forms import read_tools
from cahl_pl.errors import DataError
from cahl_pl.schema.wording import kind_word
from cahl_pl.types import ToolCall

_ROLES = ("user", "model", "function", "tool")
_BESIDE = frozenset({"thought", "thoughtSignature", "thought_signature"})
"""Keys of a part besides its content."""


def is_one(row: dict[str, Any]) -> bool:
    """Return whether a row has contents, each with parts."""
    contents = row.get("contents")
    return isinstance(contents, list) and bool(contents) and all(isinstance(one, dict) and "parts" in one for one in contents)


def read(row: dict[str, Any]) -> Dialogue:
    """Return the dialogue of a row; field names may be in JSON style, `systemInstruction`, or in Python style.

    Raises:
        DataError: naming the field at fault.
    """
    if row.get("tools") is None:
        raise DataError(missing_tools(row, ": without the tools that were offered nothing can be called"))
    said: list[Said] = []
    system = _either(row, "systemInstruction", "system_instruction")
    if system is not None:
        text = system if isinstance(system, str) else read_content(get_field(system, "parts", list))
        said.append(Said("system", text))
    for number, content in enumerate(get_field(row, "contents", list), start=1):
        try:
            said += _turns(content, number)
        except DataError as error:
            raise DataError(f"the field 'contents', content {number}: {error}") from None
    return Dialogue(said, read_tools(_declarations(row)), "contents")


def _either(row: Mapping[str, Any], *names: str) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)


def _declarations(row: dict[str, Any]) -> list[Any]:
    tools: list[Any] = []
    for entry in get_field(row, "tools", list):
        declared = _either(entry, "functionDeclarations", "function_declarations") if isinstance(entry, dict) else None
        tools += declared if isinstance(declared, list) else [entry]
    return tools


def _turns(content: Any, number: int) -> list[Said]:
    parts = get_field(content, "parts", list)
    role = content.get("role", "user")
    if role not in _ROLES:
        raise DataError(f"the role {role!r} must be one of {', '.join(_ROLES)}")
    calls, answers, texts = list[Call](), list[Said](), list[str]()
    for place, part in enumerate(parts, start=1):
        try:
            if not isinstance(part, dict):
                raise DataError(f"there must be an object, not {kind_word(part)}")
            call = _either(part, "functionCall", "function_call")
            answer = _either(part, "functionResponse", "function_response")
            if call is not None and role == "model":
                calls.append(_call(call))
            elif answer is not None and role != "model":
                text, is_json = read_answer(get_field(answer, "response", object))
                answers.append(Said("tool", text, (), _id(answer), get_field(answer, "name", str), number, is_json=is_json))
            elif part.keys() <= {"text", *_BESIDE}:
                texts += [get_field(part, "text", str)] * (part.get("thought") is not True)
            else:
                kind = next((key for key in part if key not in _BESIDE), None)
                raise DataError(f"it is {kind!r} of the {role}, and only text, calls and what functions answered are read")
        except DataError as error:
            raise DataError(f"part {place}: {error}") from None
    text = "\n".join(texts)
    if role == "model":
        return [Said("assistant", text, tuple(calls), number=number)]
    return [*answers, *([Said("user", text, number=number)] if text or not answers else [])]


def _call(value: Any) -> Call:
    name, arguments = get_field(value, "name", str), value.get("args")
    lost = next((key for key in value if key not in ("name", "args", "id")), None)
    if lost is not None:
        raise DataError(f"there is no field {lost!r} of a functionCall; what it is given stands in 'args'")
    return Call(ToolCall(name, {} if arguments is None else get_field(value, "args", dict)), _id(value))


def _id(value: Mapping[str, Any]) -> str | None:
    identity = value.get("id")
    return identity if isinstance(identity, str) and identity else None


FORMAT = dialogue_format(is_one, read)
