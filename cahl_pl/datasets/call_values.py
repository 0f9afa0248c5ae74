"""JSON in an assistant's text that calls an offered tool: it names one next to arguments, or has one as a key."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final

from cahl_pl.datasets.call_shapes import is_compound, parameters_of
from cahl_pl.datasets.declared_values import read_value
from cahl_pl.errors import DataError
from cahl_pl.types import ToolSpec

_SURE: Final = frozenset(
    {"function", "function_name", "tool", "tool_name", "api_name", "recipient_name", "toolname", "functionname"}
)
"""Keys whose value is a tool; in lower case, like those below."""
_MAYBE: Final = frozenset(
    {"name", "action", "action_name", "api", "command", "cmd", "type", "method", "intent", "fn", "func", "op", "operation"}
    | {"recipient", "to", "endpoint", "skill", "plugin", "use", "call", "run", "step", "invoke", "task", "id", "actiontype"}
)
"""Keys whose value may be a tool."""
_GIVEN: Final = frozenset(
    {"arguments", "args", "argument", "parameters", "params", "param", "input", "inputs", "action_input", "tool_input"}
    | {"kwargs", "tool_args"}
    | {"tool_arguments", "function_args", "function_arguments", "payload", "slots", "actioninput", "toolinput"}
    | {"action_args", "action_arguments", "tool_params", "tool_parameters"}
)
"""Keys whose value is a tool's arguments."""
_BESIDE: Final = frozenset({"id", "type", "index", "thought", "thoughts", "reason"})
_HOLDERS: Final = frozenset(
    {"tool_call", "tool_calls", "toolcall", "toolcalls", "function_call", "function_calls", "tool_uses"}
)
"""Keys whose value is a call or several."""
_QUOTE: Final = r"""\\*["']"""
_FENCE: Final = re.compile(r"```\w*\s*(.*?)\s*```", re.DOTALL)
_MOST: Final = 64
"""Maximum number of values of a text to examine: each may take as long as the whole text."""


def call_value(text: str, tools: Sequence[ToolSpec]) -> str | None:
    """Return the name of the tool called by JSON, or Python's notation of it, in a text; None if there is no such call."""
    if "{" not in text and "[" not in text:
        return None
    whole = _whole(text)
    if isinstance(whole, str):  # JSON within JSON text
        return call_value(whole, tools) if len(whole) < len(text) else None
    names = {tool.name: frozenset(parameters_of(tool)) for tool in tools}
    unnamed = next((one[0] for item in _items(whole) if (one := _announced(item)) is not None), None)
    if unnamed is not None:
        return unnamed
    if not any(name in text for name in names):
        return None
    known: list[tuple[int, int]] = []
    for value, start, end in [(whole, 0, len(text))] if whole is not None else _values(text):
        known.append((start, end))
        if (found := called_in(value, tools)) is not None:
            return found
    for mention in _mentions(tuple(sorted(names))).finditer(text):  # where the JSON cannot be read
        if not any(start <= mention.start() < end for start, end in known):
            return mention[1]
    return None


def called_in(value: Any, tools: Sequence[ToolSpec]) -> str | None:
    """Return the name of the offered tool called by an object or a list in a value, at any depth; None if there is none."""
    names = {tool.name: frozenset(parameters_of(tool)) for tool in tools}
    return next((found for item in _all(value) if (found := _called(item, names)) is not None), None)


def _whole(text: str) -> Any:
    """Return the value that a whole text encodes, fenced or not; None if it encodes none, or a scalar other than text."""
    fenced = _FENCE.fullmatch(text.strip())
    body = (fenced[1] if fenced else text).strip()
    if body[:1] not in ("{", "[", '"'):
        return None
    try:
        return read_value(body)
    except DataError:
        return None


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _announced(item: Any) -> tuple[str] | None:
    """Return the name in a value that is certainly a call, whether its tool is offered or not: `{"tool": ..., "args": ...}`.

    Arguments may also be next to the tool, `{"tool": ..., "query": ...}`, or calls in a separate field.
    """
    if not isinstance(item, dict):
        return None
    keys = {str(key).lower(): key for key in item}
    for key in keys.keys() & _HOLDERS:
        if isinstance(item[keys[key]], dict | list) and item[keys[key]]:
            return (keys[key],)
    flat = next((item[keys[key]] for key in keys if key in _SURE), None)
    if isinstance(flat, str) and re.fullmatch(r"[\w.:/-]+", flat) is not None:
        return (flat,)
    naming = next((keys[key] for key in keys if key in _SURE | {"action"} and isinstance(item[keys[key]], str)), None)
    return (item[naming],) if naming is not None and keys.keys() & (_GIVEN - {"input", "inputs"}) else None


@lru_cache(maxsize=256)  # the turns of a row share tools
def _mentions(names: tuple[str, ...]) -> re.Pattern[str]:
    keys = "|".join(sorted(_SURE | {"name", "action", "api"}))
    return re.compile(rf"{_QUOTE}(?i:{keys}){_QUOTE}\s*:\s*{_QUOTE}({'|'.join(map(re.escape, names))}){_QUOTE}")


def _values(text: str) -> Iterator[tuple[Any, int, int]]:
    """Yield the JSON objects and lists in a text, and where each starts and ends."""
    decoder, at = json.JSONDecoder(), 0
    for _ in range(_MOST):
        start = min((place for place in (text.find("{", at), text.find("[", at)) if place >= 0), default=-1)
        if start < 0:
            return
        try:
            value, at = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            at = start + 1
            continue
        yield value, start, at


def _all(value: Any) -> Iterator[Any]:
    """Yield the lists and objects in a value, itself included; iterative, since the depth is unbounded."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict | list):
            yield item
            stack += item.values() if isinstance(item, dict) else item


def _called(item: Any, names: Mapping[str, frozenset[str]]) -> str | None:
    """Return the tool that a list or an object calls."""
    if isinstance(item, list):  # ["weather", {"city": "Oslo"}]
        pairs = ((one, other) for one, other in pairwise(item) if isinstance(one, str) and one in names)
        return next((one for one, other in pairs if isinstance(other, dict) and other.keys() <= names[one]), None)
    for key, value in item.items():
        name = value.rpartition(".")[2] if isinstance(value, str) and value not in names else value
        if isinstance(name, str) and name in names and _is_call(item, key, names[name], is_compound(name)):
            return name
        if key in names and _is_keyed(item, key, names):
            return str(key)
    return None


def _is_call(item: Mapping[str, Any], key: str, parameters: frozenset[str], compound: bool) -> bool:
    """Return whether an object that names a tool under a key calls it."""
    low = str(key).lower()
    others = {str(other).lower(): value for other, value in item.items() if other != key}
    if low in _SURE or (compound and low in _MAYBE) or others.keys() & _GIVEN:
        return True
    if any(isinstance(value, dict) and value.keys() <= parameters for value in others.values()):
        return True
    flat = others.keys() - _BESIDE
    return (low in _MAYBE or (compound and bool(flat))) and flat <= {name.lower() for name in parameters}


def _is_keyed(item: Mapping[str, Any], key: str, names: Mapping[str, frozenset[str]]) -> bool:
    """Return whether an object with a tool as a key calls it: `{"weather": {"city": "Oslo"}}`."""
    value = item[key]
    if not isinstance(value, dict):
        return is_compound(key) and item.keys() <= names.keys()
    return is_compound(key) or (item.keys() <= names.keys() | _BESIDE and value.keys() <= names[key])
