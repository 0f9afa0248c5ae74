"""Replies in the format of OpenAI's chat API: whole, or as chunks of a stream of server-sent events."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

from cahl_pl.python_tools.results import json_text
from cahl_pl.serving.episode import Call, End, Part, Text

DONE = b"data: [DONE]\n\n"
"""End of a stream."""


def completion(identity: str, model: str, parts: Sequence[Part]) -> dict[str, Any]:
    """Return a whole reply."""
    message: dict[str, Any] = {"role": "assistant", "content": _joined(parts, "content")}
    if message["content"] is None and not any(isinstance(part, Call) for part in parts):
        message["content"] = ""  # a message with neither content nor calls could not be sent back
    if reasoning := _joined(parts, "reasoning"):
        message["reasoning_content"] = reasoning
    if calls := [_call(part) for part in parts if isinstance(part, Call)]:
        message["tool_calls"] = calls
    end = next(part for part in parts if isinstance(part, End))
    choice = {"index": 0, "message": message, "finish_reason": end.reason, "logprobs": None}
    return {**_head(identity, model, "chat.completion"), "choices": [choice], "usage": _usage(end)}


class Chunks:
    """Chunks of one streamed reply.

    Args:
        identity: id of the reply.
        model: name of the model.
        include_usage: whether a last chunk counts tokens.
    """

    def __init__(self, identity: str, model: str, include_usage: bool) -> None:
        self._head = _head(identity, model, "chat.completion.chunk")
        self._include_usage = include_usage
        self._begun = False
        self._is_empty = True

    def of(self, part: Part) -> Iterator[bytes]:
        """Yield the events of a part."""
        delta: dict[str, Any] = {} if self._begun else {"role": "assistant"}
        self._begun = True
        self._is_empty &= isinstance(part, End) or (isinstance(part, Text) and part.kind == "reasoning")
        if isinstance(part, Text):
            delta["reasoning_content" if part.kind == "reasoning" else "content"] = part.text
        elif isinstance(part, Call):
            delta["tool_calls"] = [{"index": 0, **_call(part)}]
        else:
            if self._is_empty:
                delta["content"] = ""
            yield self._event([{"index": 0, "delta": delta, "finish_reason": part.reason}])
            if self._include_usage:
                yield self._event([], _usage(part))
            yield DONE
            return
        yield self._event([{"index": 0, "delta": delta, "finish_reason": None}])

    def _event(self, choices: list[Any], usage: dict[str, int] | None = None) -> bytes:
        counted = {"usage": usage} if self._include_usage else {}
        return event({**self._head, "choices": choices, **counted})


def event(value: Any) -> bytes:
    """Return a value as a server-sent event."""
    return b"data: " + json.dumps(value, ensure_ascii=False).encode("utf-8", "replace") + b"\n\n"


def models(name: str, started: int) -> dict[str, Any]:
    """Return the list with the one model."""
    return {"object": "list", "data": [model(name, started)]}


def model(name: str, started: int) -> dict[str, Any]:
    """Return the description of the model."""
    return {"id": name, "object": "model", "created": started, "owned_by": "cahl-pl"}


def _head(identity: str, model: str, kind: str) -> dict[str, Any]:
    return {"id": identity, "object": kind, "created": int(time.time()), "model": model}


def _joined(parts: Sequence[Part], kind: str) -> str | None:
    texts = [part.text for part in parts if isinstance(part, Text) and part.kind == kind]
    return "".join(texts) if texts else None


def _call(part: Call) -> dict[str, Any]:
    function = {"name": part.call.name, "arguments": json_text(dict(part.call.arguments))}
    return {"id": part.id, "type": "function", "function": function}


def _usage(end: End) -> dict[str, int]:
    return {
        "prompt_tokens": end.prompt_tokens,
        "completion_tokens": end.tokens,
        "total_tokens": end.prompt_tokens + end.tokens,
    }
