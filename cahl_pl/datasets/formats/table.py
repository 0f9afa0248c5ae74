"""Formats recognized by the form of their rows: `convert-data` reads them by name, JSON lines files directly."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Final

from cahl_pl.datasets.formats import (
    anthropic,
    gemini,
    glaive,
    hammer,
    nestful,
    openai_chat,
    openai_responses,
    sharegpt,
    tau_bench,
    toolalpaca,
)
from cahl_pl.datasets.formats.api_bank import api_bank_task
from cahl_pl.datasets.formats.base import Format, single_format, usual
from cahl_pl.datasets.formats.rlla import rlla_task
from cahl_pl.datasets.formats.toolace import toolace_tasks
from cahl_pl.datasets.formats.xlam import xlam_task
from cahl_pl.types import Task


def _is_toolace(row: dict[str, Any]) -> bool:
    system = row.get("system")
    return isinstance(system, str) and "<tools>" not in system and "tools" not in row and sharegpt.is_one(row)


FORMATS: Final[Mapping[str, Format]] = {
    "xlam": single_format(lambda row: {"query", "tools", "answers"} <= row.keys(), xlam_task),
    "hammer": hammer.FORMAT,
    "rlla": single_format(lambda row: {"instruction", "output"} <= row.keys() or "reward_model" in row, rlla_task),
    "toolace": Format(_is_toolace, toolace_tasks),
    "hermes": sharegpt.TAGGED,
    "sharegpt": sharegpt.FORMAT,  # before openai: some of its rows have messages
    "anthropic": anthropic.FORMAT,
    "gemini": gemini.FORMAT,
    "openai": openai_chat.FORMAT,
    "openai-responses": openai_responses.FORMAT,
    "glaive": glaive.FORMAT,
    "toolalpaca": toolalpaca.FORMAT,
    "tau-bench": tau_bench.FORMAT,
    "nestful": nestful.FORMAT,
    "api-bank": single_format(lambda row: {"system", "user", "answer"} <= row.keys(), api_bank_task),
}
"""Name -> format. A row belongs to the first format whose form it has."""

OWN_FIELDS: Final = (
    "id", "messages", "tools", "gold", "alternatives", "foreseen", "ordered", "answer", "state", "outcome", "tags",
)  # fmt: skip
"""Fields of this project's own rows."""

_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "xlam": ("query", "tools", "answers"),
    "rlla": ("instruction", "input", "output"),
    "sharegpt": ("conversations", "system", "tools"),
    "openai-responses": ("input", "output", "instructions", "tools"),
    "glaive": ("system", "chat"),
    "toolalpaca": ("Instructions", "Golden_Answers", "Function_Description"),
    "seal-tools": ("query", "calling"),
    "api-bank": ("system", "user", "answer"),
    "jsonl": OWN_FIELDS,
}


def is_own(row: dict[str, Any]) -> bool:
    """Return whether a row is meant to be in this project's own format."""
    return any(field in row for field in ("gold", "ordered", "outcome", "state", "tags"))


def form_of(row: Any) -> str | None:
    """Return the name of the format whose form a row has; None for this project's own format, and if no format is known."""
    if not isinstance(row, dict) or is_own(row):
        return None
    given = usual(row)
    return next((name for name, one in FORMATS.items() if one.is_one(given)), None)


def read_one(row: dict[str, Any], form: str, name: str) -> Task | None:
    """Return the one task of a row; None if its format has several per row."""
    one = FORMATS[form].one
    return None if one is None else one(row, name)


def nearest(row: dict[str, Any]) -> str | None:
    """Return the format whose fields are most like a row's; None if none is similar."""

    def likeness(fields: tuple[str, ...]) -> float:
        known = [field.lower() for field in fields]
        met = [key for key in row if difflib.get_close_matches(key.lower(), known, 1, 0.85)]
        # nearly every form has tools: they alone say nothing
        return len(met) / max(len(row), len(fields)) if any(key.lower() != "tools" for key in met) else 0.0

    turns = row.get("conversations", row.get("conversation"))
    if isinstance(turns, list) and any(isinstance(one, dict) and "from" in one for one in turns):
        return "hermes" if any(tag in str(turns) for tag in ("<tools>", "<tool_call>")) else "sharegpt"
    best = max(_FIELDS, key=lambda name: likeness(_FIELDS[name]))
    return best if likeness(_FIELDS[best]) >= 0.3 else None
