"""Rows for other kinds of training, which contain no calls to learn."""

from __future__ import annotations

import json
from typing import Any, Final

_DOCS: Final = "docs/your-data.md says how rows are written"
_PAIRS: Final = (
    ("chosen", "rejected"), ("chosen_response", "rejected_response"), ("chosen_messages", "rejected_messages"),
    ("preferred_output", "non_preferred_output"),
)  # fmt: skip
_RATINGS: Final = (
    "label", "kto_tag", "correct", "is_correct", "success", "is_success", "accepted", "passed", "desirable", "is_desirable",
)  # fmt: skip
_UNWANTED: Final = frozenset({"false", "0", "no", "bad", "wrong", "incorrect", "rejected", "undesirable", "negative"})
"""Words for a bad rating, in lower case."""
_WITH_TOOLS: Final = ("tools", "functions", "system", "messages", "conversations", "gold", "reward_model")


def other_kind(row: Any) -> str | None:
    """Return what a row is if it is for another kind of training, and what to do; None for any other."""
    if not isinstance(row, dict) or "gold" in row:
        return None
    unwanted = next((field for field in _RATINGS if _is_unwanted(row.get(field))), None)
    if unwanted is not None:
        return (
            f"the row is rated as one that is not wanted ({unwanted!r} is {json.dumps(row[unwanted])}, as for KTO), and would "
            "be learnt as one that is: leave it out, or that field where it means something else"
        )
    for chosen, rejected in _PAIRS:
        if chosen in row and rejected in row:
            return (
                f"the row is a pair of preferences ({chosen!r} and {rejected!r}, as for DPO), of which no call can be learnt: "
                f"write the messages with the turn of {chosen!r} as the last one, and leave {rejected!r} out"
            )
    foreign = _foreign_api(row)
    if foreign is not None:
        return f"the row is one of {foreign}, which is not read: write its turns as OpenAI's messages; {_DOCS}"
    if isinstance(row.get("question"), list) and ("function" in row or "involved_classes" in row):
        return "the row is one of BFCL ('question'), a test set: docs/benchmarks.md says how it is run"
    steps = row.get("steps")
    if isinstance(steps, list) and "query" in row and "messages" not in row:
        return f"the row is one of ActionStudio ('steps'), which is not read: write its steps as messages; {_DOCS}"
    logs = [one for one in (row, row.get("response")) if isinstance(one, dict)]
    if any("message" in choice for one in logs for choice in _listed(one.get("choices"))):
        return f"the row is a request and what an API answered ('choices'): write the answer behind its messages; {_DOCS}"
    if isinstance(row.get("body"), dict) and "messages" in row["body"]:
        return f"the row is a request to an API ('body'), and holds no right calls: write both as messages; {_DOCS}"
    instruction = row.get("instruction")
    asked = {"instruction", "output"} <= row.keys() and isinstance(instruction, str)
    if asked and not any(mark in str(instruction) for mark in ("**Available Tools**", "[BEGIN OF AVAILABLE TOOLS]")):
        beside = "" if row.get("tools") else ", without the tools that were offered"
        return f"the row is an instruction and its answer, as Alpaca's{beside}: write it as messages; {_DOCS}"
    if any(field in row for field in _WITH_TOOLS):
        return None
    if {"prompt", "completion"} <= row.keys():
        kind = "a rated completion, as for KTO," if "label" in row else "a prompt and its completion"
        return f"the row is {kind} without the tools that were offered: {_DOCS}"
    if row.keys() <= {"text", "meta", "metadata", "id", "source"} and isinstance(row.get("text"), str):
        return f"the row is bare text, as for pretraining: {_DOCS}"
    if row.keys() == {"error"} or {"message", "documentation_url"} <= row.keys():
        said = str(row.get("error", row.get("message")))[:60]
        return f"the row is a server's error ({said!r}) that was saved in the place of the data: download the file again"
    return None


def _is_unwanted(rating: Any) -> bool:
    """Return whether a rating is false, 0 or a word for it: a row that is rated wrong is never learnt."""
    if isinstance(rating, str):
        return rating.strip().lower() in _UNWANTED
    return isinstance(rating, bool | int | float) and rating <= 0


def _foreign_api(row: dict[str, Any]) -> str | None:
    """Return the API that a row is a request to, and the field that shows it, if no reader knows the API."""
    if "toolConfig" in row or str(row.get("schemaVersion")).startswith("bedrock"):
        return f"Bedrock's Converse API ({'toolConfig' if 'toolConfig' in row else 'schemaVersion'!r})"
    said = row.get("chat_history")
    if isinstance(said, list) and any(isinstance(one, dict) and "message" in one and "role" in one for one in said):
        return "Cohere's first API ('chat_history')"
    messages = row.get("messages")
    turns = [one for one in messages if isinstance(one, dict)] if isinstance(messages, list) else []
    if any("role" not in one and one.get("type") in ("human", "ai") for one in turns):
        return "LangChain's messages ('type' in the place of 'role', which its convert_to_openai_messages mends)"
    parts = [part for one in turns for field in ("content", "parts") for part in _listed(one.get(field))]
    kinds = [part.get("type") for part in parts]
    sdk = next((kind for kind in kinds if isinstance(kind, str) and kind.startswith(("tool-", "dynamic-tool"))), None)
    if sdk is not None or any("parts" in one and "content" not in one for one in turns if not _is_gemini(one)):
        return f"Vercel's AI SDK ({sdk or 'parts'!r})"
    for kind, api in (("toolUse", "Bedrock's Converse API"), ("toolResult", "Bedrock's Converse API"),
                      ("functionCall", "Gemini's API"), ("functionResponse", "Gemini's API")):  # fmt: skip
        if any(kind in part for part in parts):
            return f"{api} ({kind!r})"
    return None


def _is_gemini(turn: dict[str, Any]) -> bool:
    parts = _listed(turn.get("parts"))
    return any(part.keys() & {"functionCall", "functionResponse"} or part.keys() == {"text"} for part in parts)


def _listed(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
