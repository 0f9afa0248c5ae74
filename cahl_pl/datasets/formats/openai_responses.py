"""Items of OpenAI's Responses API: messages, `function_call` and `function_call_output` in one list."""

from __future__ import annotations

from typing import Any

from cahl_pl.datasets.call_objects import Call, read_function
from cahl_pl.datasets.failed_answers import is_flagged
from cahl_pl.datasets.formats.base import Dialogue, dialogue_format
from cahl_pl.datasets.messages import Said, read_answer, read_said
from cahl_pl.datasets.missing_tools import missing_tools
from cahl_pl.datasets.rows import get_field
from cahl_pl.datasets.tool_forms import read_tools
from cahl_pl.errors import DataError
from cahl_pl.schema.wording import kind_word

_ITEMS = ("function_call", "function_call_output")
_LEFT_OUT = ("reasoning", "item_reference")
"""Items that are not turns of a dialogue: encrypted thoughts, and references to items stored elsewhere."""


def is_one(row: dict[str, Any]) -> bool:
    """Return whether `input` or `output` contains such items."""
    items = _items(row)
    return bool(items) and all(isinstance(item, dict) and ("role" in item or "type" in item) for item in items)


def _items(row: dict[str, Any]) -> list[Any]:
    given = row.get("input")
    first = [{"role": "user", "content": given}] if isinstance(given, str) else given
    more = row.get("output", [])
    return [*first, *more] if isinstance(first, list) and isinstance(more, list) else []


def read(row: dict[str, Any]) -> Dialogue:
    """Return the dialogue of a row: `instructions`, `input`, and the model's `output`.

    Raises:
        DataError: naming the field at fault.
    """
    if row.get("tools") is None:
        raise DataError(missing_tools(row, ": without the tools that were offered nothing can be called"))
    said: list[Said] = []
    if row.get("instructions") is not None:
        said.append(Said("system", get_field(row, "instructions", str)))
    for number, item in enumerate(_items(row), start=1):
        try:
            _add(said, item, number)
        except DataError as error:
            raise DataError(f"the field 'input', item {number}: {error}") from None
    return Dialogue(said, read_tools(row["tools"]), "input", _items(row))


def _add(said: list[Said], item: Any, number: int) -> None:
    if not isinstance(item, dict):
        raise DataError(f"an item must be an object, not {kind_word(item)}")
    kind = item.get("type", "message")
    if kind in _LEFT_OUT:
        return
    if kind == "function_call":
        call = Call(read_function(item), get_field(item, "call_id", str))
        last = said[-1] if said else None
        if last is not None and last.role == "assistant":  # parallel calls are separate items
            said[-1] = last._replace(calls=(*last.calls, call))
        else:
            said.append(Said("assistant", "", (call,), number=number))
    elif kind == "function_call_output":
        if "output" not in item:
            raise DataError("the field 'output' is missing")
        text, is_json = read_answer(item["output"], is_flagged(item))
        said.append(Said("tool", text, answers=get_field(item, "call_id", str), number=number, is_json=is_json))
    elif kind == "message":
        said.append(read_said(item, number))
    elif isinstance(kind, str) and kind.endswith(("_call", "_call_output", "mcp_list_tools", "mcp_approval_request")):
        raise DataError(
            f"the item {kind!r} is of a tool that its provider runs itself or that takes free text, of which no call can be "
            "learnt; those that are read are message, function_call, function_call_output: leave the row out, or write them so"
        )
    else:
        raise DataError(f"there is no item of type {kind!r}; those that are read are message, {', '.join(_ITEMS)}")


FORMAT = dialogue_format(is_one, read)
