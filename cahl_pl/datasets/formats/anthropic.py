"""Rows of Anthropic's Messages API: content in blocks, `tool_use` of the assistant, `tool_result` of the user."""

from __future__ import annotations

from typing import Any

from cahl_pl.datasets.call_fields import check_fields
from cahl_pl.datasets.call_objects import Call
from cahl_pl.datasets.failed_answers import is_flagged
from cahl_pl.datasets.formats.base import Dialogue, dialogue_format
from cahl_pl.datasets.messages import Said, read_answer, read_content
from cahl_pl.datasets.missing_tools import missing_tools
from cahl_pl.datasets.rows import get_field
from cahl_pl.datasets.tool_forms import read_tools
from cahl_pl.errors import DataError
from cahl_pl.types import ToolCall

_BLOCKS = ("tool_use", "tool_result")
_LEFT_OUT = ("thinking", "redacted_thinking")


def is_one(row: dict[str, Any]) -> bool:
    """Return whether a row has messages, and a separate system text, blocks of calls, or tools with `input_schema`."""
    messages, tools = row.get("messages"), row.get("tools")
    if not isinstance(messages, list) or "gold" in row or "outcome" in row:
        return False
    blocks = [block for one in messages if isinstance(one, dict) for block in _blocks(one)]
    if any(isinstance(block, dict) and block.get("type") in _BLOCKS for block in blocks):
        return True
    declared = isinstance(tools, list) and any(isinstance(tool, dict) and "input_schema" in tool for tool in tools)
    plain = not any(isinstance(one, dict) and ("tool_calls" in one or one.get("role") == "system") for one in messages)
    return plain and (declared or "system" in row)


def _blocks(message: dict[str, Any]) -> list[Any]:
    content = message.get("content")
    return content if isinstance(content, list) else []


def read(row: dict[str, Any]) -> Dialogue:
    """Return the dialogue of a row.

    Raises:
        DataError: naming the field at fault.
    """
    if row.get("tools") is None:
        raise DataError(missing_tools(row, ": without the tools that were offered nothing can be called"))
    said: list[Said] = []
    if row.get("system") is not None:
        said.append(Said("system", read_content(row["system"])))
    for number, message in enumerate(get_field(row, "messages", list), start=1):
        try:
            said += _turns(message, number)
        except DataError as error:
            raise DataError(f"the field 'messages', message {number}: {error}") from None
    return Dialogue(said, read_tools(row["tools"]), rows=row["messages"])


def _turns(message: Any, number: int) -> list[Said]:
    role = get_field(message, "role", str)
    if role not in ("user", "assistant"):
        raise DataError(f"the role {role!r} must be user or assistant; the system's text stands in the field 'system'")
    other = next((field for field in ("tool_calls", "function_call") if message.get(field)), None)
    if other is not None:
        raise DataError(f"the field {other!r} is none of Anthropic's messages, whose calls are blocks of type 'tool_use'")
    check_fields(message, role == "assistant")
    if isinstance(message.get("content"), str):
        return [Said("user" if role == "user" else "assistant", message["content"], number=number)]
    calls, answers, texts = [], [], []
    for place, block in enumerate(get_field(message, "content", list), start=1):
        kind = get_field(block, "type", str)
        if kind == "tool_use" and role == "assistant":
            call = ToolCall(get_field(block, "name", str), get_field(block, "input", dict))
            calls.append(Call(call, get_field(block, "id", str)))
        elif kind == "tool_result" and role == "user":
            content = block.get("content")  # missing or null: the tool returned nothing
            failed = is_flagged(block)
            said, is_json = ("", False) if content is None and not failed else read_answer(content, failed)
            identity = get_field(block, "tool_use_id", str)
            answers.append(Said("tool", said, answers=identity, number=number, is_json=is_json))
        elif kind == "text":
            texts.append(get_field(block, "text", str))
        elif kind not in _LEFT_OUT:
            raise DataError(
                f"the field 'content', block {place}: a block of type {kind!r} of the {role} cannot be read"
            )
    text = "\n".join(texts)
    if role == "assistant":
        return [Said("assistant", text, tuple(calls), number=number)]
    return [*answers, *([Said("user", text, number=number)] if text or not answers else [])]


FORMAT = dialogue_format(is_one, read)
