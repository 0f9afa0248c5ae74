"""OpenAI's fine-tuning rows: `{"messages": [...], "tools": [...]}`, the answer being the assistant's last turn."""

from __future__ import annotations

from typing import Any

from cahl_pl.datasets.formats.base import Dialogue, dialogue_format
from cahl_pl.datasets.messages import is_role_of_sharegpt, read_dialogue
from cahl_pl.datasets.missing_tools import missing_tools
from cahl_pl.datasets.rows import get_field
from cahl_pl.datasets.tool_forms import read_tools
from cahl_pl.errors import DataError


def is_one(row: dict[str, Any]) -> bool:
    """Return whether a row has OpenAI's messages, an assistant turn among them, and no gold."""
    messages = row.get("messages")
    if not isinstance(messages, list) or "gold" in row or "outcome" in row or "system" in row:
        return False
    said = all(isinstance(one, dict) and "role" in one for one in messages)
    roles = [one["role"] for one in messages] if said else []
    return "assistant" in roles and not any(map(is_role_of_sharegpt, roles))


def read(row: dict[str, Any]) -> Dialogue:
    """Return the dialogue of a row; `functions` was the name of `tools` until 2023.

    Raises:
        DataError: naming the field at fault.
    """
    field = "functions" if row.get("tools") is None and row.get("functions") is not None else "tools"
    if row.get(field) is None:
        raise DataError(missing_tools(row, ": without the tools that were offered nothing can be called"))
    messages = get_field(row, "messages", list)
    return Dialogue(read_dialogue(messages), read_tools(row[field], field), rows=messages)


FORMAT = dialogue_format(is_one, read)
