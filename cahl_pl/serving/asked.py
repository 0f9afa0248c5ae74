"""Requests to the chat API, read and checked; nothing in them is silently ignored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cahl_pl.datasets.messages import Said, read_dialogue
from cahl_pl.datasets.tool_forms import read_tools
from cahl_pl.errors import DataError
from cahl_pl.schema.blanks import is_blank
from cahl_pl.serving.errors import ApiError, invalid
from cahl_pl.types import ToolSpec

_NEUTRAL: Final[dict[str, tuple[Any, ...]]] = {
    "n": (1,),
    "response_format": ({"type": "text"},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "modalities": (["text"],),
    "functions": ([],),
}
"""Fields that affect sampling, and the values without an effect: any others are refused."""

_INSTEAD: Final = {
    "n": "a reply is one episode: ask as many times, with a temperature and different seeds",
    "response_format": "say in the request what the answer is to look like",
}
"""Alternatives to refused fields; others are simply to be left out."""

MAX_STOPS: Final = 4
"""Maximum stop sequences, as on OpenAI's server."""

_WITHOUT_MEANING: Final = frozenset(
    {
        *("user", "store", "metadata", "service_tier", "safety_identifier", "prompt_cache_key"),
        *("prompt_cache_retention", "reasoning_effort", "verbosity", "parallel_tool_calls"),
    }
)
"""Fields for the client's bookkeeping, or hints that any reply follows: a reply has one call, never more than allowed."""

_READ: Final = frozenset(
    {
        *("model", "messages", "tools", "tool_choice", "stream", "stream_options"),
        *("temperature", "top_p", "seed", "max_tokens", "max_completion_tokens", "stop"),
    }
)


@dataclass(frozen=True)
class Asked:
    """One request.

    Attributes:
        model: the name that the client gave.
        said: the dialogue.
        reasoning: reasoning sent back with each message; empty for none.
        tools: the tools offered; none if `tool_choice` is `none`.
        temperature: sampling temperature; 0 if not given.
        top_p: top_p; 1 if not given.
        max_tokens: maximum tokens sampled for this reply.
        seed: None if not given.
        stream: whether the reply is sent in parts.
        include_usage: whether the last part counts tokens.
        stop: texts, the first occurrence of which ends the reply.
    """

    model: str
    said: tuple[Said, ...]
    reasoning: tuple[str, ...]
    tools: tuple[ToolSpec, ...]
    temperature: float
    top_p: float
    max_tokens: int
    seed: int | None
    stream: bool
    include_usage: bool
    stop: tuple[str, ...] = ()


def read_request(body: Any, max_tokens: int) -> Asked:
    """Return the request in a body.

    Args:
        body: the JSON value.
        max_tokens: maximum tokens of a reply; the default of requests that give none.

    Raises:
        ApiError: the request is wrong: one sentence that names the field.
    """
    if not isinstance(body, dict):
        raise invalid(f"the body must be a JSON object, not {_kind(body)}")
    body = {key: value for key, value in body.items() if value is not None}
    for key, value in body.items():
        if key in _NEUTRAL and value not in _NEUTRAL[key]:
            instead = _INSTEAD.get(key, "leave it out")
            raise invalid(f"{key} is not supported here: {instead}", key, "unsupported_parameter")
        if key not in _NEUTRAL and key not in _READ and key not in _WITHOUT_MEANING:
            raise invalid(f"there is no parameter {key[:64]!r} here: leave it out", key[:64], "unknown_parameter")
    model = body.get("model")
    if not isinstance(model, str):
        raise invalid("model must be the name of a model: GET /v1/models lists them", "model")
    said, reasoning = _dialogue(body.get("messages"))
    return Asked(
        model,
        said,
        reasoning,
        _tools(body),
        temperature=_number(body, "temperature", 0.0, 0.0, 2.0),
        top_p=_number(body, "top_p", 1.0, 0.0, 1.0, open_below=True),
        max_tokens=_max_tokens(body, max_tokens),
        seed=_integer(body, "seed", -(2**63), 2**63 - 1),
        stream=_flag(body, "stream"),
        include_usage=_include_usage(body),
        stop=_stop(body),
    )


def _dialogue(messages: Any) -> tuple[tuple[Said, ...], tuple[str, ...]]:
    if not isinstance(messages, list) or not messages:
        raise invalid("messages must be a list of at least one message", "messages")
    try:
        said = tuple(read_dialogue(messages))
    except DataError as error:
        raise invalid(str(error), "messages") from None
    if said[-1].role not in ("user", "tool"):
        raise invalid("the last message must be the user's or a tool's: there is nothing to reply to", "messages")
    if not any(one.role == "user" and not is_blank(one.text) for one in said):
        raise invalid("messages has no request of a user", "messages")
    return said, tuple(map(_reasoning, messages))


def _reasoning(message: Mapping[str, Any]) -> str:
    """Return the reasoning that a client has kept: vLLM and DeepSeek have used both names."""
    found = message.get("reasoning_content") or message.get("reasoning")
    return found if isinstance(found, str) else ""


def _tools(body: Mapping[str, Any]) -> tuple[ToolSpec, ...]:
    choice = body.get("tool_choice", "auto")
    if choice not in ("auto", "none"):
        raise invalid(
            'tool_choice must be "auto" or "none": the planner decides which tools are called, and whether any is; offer in '
            "tools only those that it may choose from",
            "tool_choice",
            "unsupported_parameter",
        )
    listed = body.get("tools", [])
    if not isinstance(listed, list):
        raise invalid(f"tools must be a list, not {_kind(listed)}", "tools")
    odd = next((tool for tool in listed if isinstance(tool, dict) and tool.get("type", "function") != "function"), None)
    if odd is not None:
        raise invalid(f"tools of the type {str(odd['type'])[:40]!r} are not known here, only functions", "tools")
    try:
        tools = read_tools(listed)
    except DataError as error:
        raise invalid(str(error), "tools") from None
    names = [tool.name for tool in tools]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise invalid(f"tools has two functions named {twice[:64]!r}", "tools")
    return () if choice == "none" else tools


def _stop(body: Mapping[str, Any]) -> tuple[str, ...]:
    given = body.get("stop", [])
    listed = [given] if isinstance(given, str) else given
    if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed) or len(listed) > MAX_STOPS:
        raise invalid(f"stop must be a text, or a list of {MAX_STOPS} texts at most", "stop")
    return tuple(one for one in listed if one)


def _max_tokens(body: Mapping[str, Any], most: int) -> int:
    name = "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"
    given = _integer(body, name, 1, 2**31)
    if given is not None and given > most:
        raise invalid(f"{name} is {given}, but a reply has {most} tokens at most here", name)
    return most if given is None else given


def _number(body: Mapping[str, Any], name: str, default: float, least: float, most: float, **how: bool) -> float:
    value = body.get(name, default)
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    is_open = how.get("open_below", False)
    if not good or not least <= value <= most or (is_open and value == least):
        told = f"above {least:g} and at most {most:g}" if is_open else f"from {least:g} to {most:g}"
        raise invalid(f"{name} must be a number {told}", name)
    return float(value)


def _integer(body: Mapping[str, Any], name: str, least: int, most: int) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise invalid(f"{name} must be a whole number from {least} to {most}", name)
    return value


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name, False)
    if not isinstance(value, bool):
        raise invalid(f"{name} must be true or false", name)
    return value


def _include_usage(body: Mapping[str, Any]) -> bool:
    options = body.get("stream_options", {})
    if not isinstance(options, dict):
        raise invalid(f"stream_options must be an object, not {_kind(options)}", "stream_options")
    return _flag(options, "include_usage")


def _kind(value: Any) -> str:
    names = {
        dict: "an object",
        list: "a list",
        str: "a text",
        bool: "true or false",
        int: "a number",
        float: "a number",
    }
    return names.get(type(value), "null")


def unknown_model(name: str, known: str) -> ApiError:
    """Return the error for a name that is no model's."""
    return ApiError(404, f"there is no model {name[:80]!r} here, only {known!r}", "model_not_found", "model")
