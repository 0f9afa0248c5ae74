"""Message about a row without a field of tools: many data sets have them elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cahl_pl.datasets.tool_forms import PARAMETERS
from cahl_pl.schema.references import read_text


def missing_tools(row: Mapping[str, Any], otherwise: str) -> str:
    """Return a sentence that the tools are missing, and where they are if another field of the row has some.

    Args:
        row: the row.
        otherwise: end of the sentence if no field does.
    """
    place = _elsewhere(row)
    hint = otherwise if place is None else f": {place!r} holds tools, which are read in 'tools' alone: write them there"
    return f"the field 'tools' is missing{hint}"


def _elsewhere(row: Mapping[str, Any]) -> str | None:
    for key, value in row.items():
        read = _read(value)
        if _declares(read):
            return str(key)
        if isinstance(read, dict):
            inner = next((one for one, other in read.items() if _declares(_read(other))), None)
            if inner is not None:
                return f"{key}.{inner}"
    return None


def _read(value: Any) -> Any:
    return read_text(value) if isinstance(value, str) and value.lstrip()[:1] in ("{", "[") else value


def _declares(value: Any) -> bool:
    """Return whether a value is a list of tools, or of their JSON texts."""
    tools = list(map(_read, value)) if isinstance(value, list) else []
    return bool(tools) and all(isinstance(one, dict) and _is_tool(one) for one in tools)


def _is_tool(value: Mapping[str, Any]) -> bool:
    function = value.get("function", value)
    return isinstance(function, Mapping) and "name" in function and any(key in function for key in PARAMETERS)
