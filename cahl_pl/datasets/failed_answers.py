"""Tool answers that report a failed call as MCP, Anthropic and others do, converted to this project's notation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cahl_pl.environments.base import is_failure
from cahl_pl.schema.references import read_text

_FLAGS: Final = ("isError", "is_error")


def is_flagged(row: Any) -> bool:
    """Return whether a tool's message or result reports a failed call: `isError` (MCP), `is_error` (Anthropic)."""
    return isinstance(row, Mapping) and any(row.get(flag) is True for flag in _FLAGS)


def as_failure(result: Any) -> Any:
    """Return a result as a failure, `{"error": why}`, if it is flagged as one, and unchanged otherwise.

    Args:
        result: a value, or JSON text of one: MCP's `{"content": [...], "isError": true}`.
    """
    value = read_text(result) if isinstance(result, str) and any(flag in result for flag in _FLAGS) else result
    return failure_of(value.get("content", value.get("error"))) if is_flagged(value) else result


def failure_of(said: Any) -> dict[str, Any]:
    """Return the failure that a tool reports by a text, by parts of text or by a value."""
    value = read_text(said) if isinstance(said, str) else said
    if isinstance(value, Mapping) and is_failure(value):
        return dict(value)
    parts = said if isinstance(said, list) else []
    if parts and all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in parts):
        return failure_of("\n".join(part["text"] for part in parts))
    return {"error": said or "the tool failed"}
