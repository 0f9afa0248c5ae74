"""Rows for other trainings than this one, which hold no calls that could be learnt."""

from __future__ import annotations

from typing import Any, Final

_DOCS: Final = "docs/your-data.md says how rows are written"
_PAIRS: Final = (("chosen", "rejected"), ("preferred_output", "non_preferred_output"))
_RATINGS: Final = ("label", "kto_tag")
_WITH_TOOLS: Final = ("tools", "functions", "system", "messages", "conversations", "gold", "reward_model")


def other_kind(row: Any) -> str | None:
    """Return what a row is if it is one of another training, and what to do; None for any other."""
    if not isinstance(row, dict) or "gold" in row:
        return None
    unwanted = next((field for field in _RATINGS if row.get(field) is False), None)
    if unwanted is not None:
        return (
            f"the row is rated as one that is not wanted ({unwanted!r} is false, as for KTO), and would be learnt as one that "
            "is: leave it out"
        )
    for chosen, rejected in _PAIRS:
        if chosen in row and rejected in row:
            return (
                f"the row is a pair of preferences ({chosen!r} and {rejected!r}, as for DPO), of which no call can be learnt: "
                f"write the messages with the turn of {chosen!r} as the last one, and leave {rejected!r} out"
            )
    if "contents" in row and "messages" not in row:
        return f"the row is one of Gemini's API ('contents'), which is not read: write its turns as OpenAI's messages; {_DOCS}"
    if any(field in row for field in _WITH_TOOLS):
        return None
    if {"prompt", "completion"} <= row.keys():
        kind = "a rated completion, as for KTO," if "label" in row else "a prompt and its completion"
        return f"the row is {kind} without the tools that were offered: {_DOCS}"
    instruction = row.get("instruction")
    asked = {"instruction", "output"} <= row.keys() and isinstance(instruction, str)
    if asked and not any(mark in str(instruction) for mark in ("**Available Tools**", "[BEGIN OF AVAILABLE TOOLS]")):
        return f"the row is an instruction and its answer, as Alpaca's, without the tools that were offered: {_DOCS}"
    if row.keys() <= {"text", "meta", "metadata", "id", "source"} and isinstance(row.get("text"), str):
        return f"the row is bare text, as for pretraining: {_DOCS}"
    if row.keys() == {"error"} or {"message", "documentation_url"} <= row.keys():
        said = str(row.get("error", row.get("message")))[:60]
        return f"the row is a server's error ({said!r}) that was saved in the place of the data: download the file again"
    return None
