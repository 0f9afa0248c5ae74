"""Calls in the text of an assistant, in the notations of model families: Mistral, Llama, DeepSeek, Qwen3-Coder, GLM and others.

Each notation was taken from the chat template or the parser of its family. A text that contains a mark of one but cannot be
read is a fault; unknown notations are found by `cahl_pl.datasets.call_marks.unread_call`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any, Final, TypeAlias

from cahl_pl.datasets.call_objects import Call, read_call, read_function
from cahl_pl.datasets.call_text import parse_calls
from cahl_pl.datasets.declared_values import read_value
from cahl_pl.errors import DataError
from cahl_pl.schema.wording import kind_word
from cahl_pl.types import ToolCall

_BAR: Final = r"[|\uff5c]"
_JOINT: Final = r"[\u2581_ ]"
_PREFIX: Final = rf"(?:[\w-]+:|{_BAR}DSML{_BAR})?"  # <minimax:tool_call>, and DeepSeek 3.2's
_NAME: Final = r"[\w.:/-]+"

_START: Final = re.compile(
    r"(?P<values>\[TOOL_CALLS\]\s*(?=[\[{])|<\|python_tag\|>\s*(?=[\[{])|<\|tool_call\|>|functools(?=\s*\[)"
    r"|<\|action_start\|>\s*<\|plugin\|>|<\|START_ACTION\|>|<\|FunctionCallBegin\|>|Action:\s*```json)"
    r"|(?P<named>\[TOOL_CALLS\]\s*(?P<n1>" + _NAME + r")\s*(?:\[CALL_ID\]\s*(?P<id1>\w+)\s*)?(?:\[ARGS\])?\s*(?=\{)"
    r"|<\|tool_call_begin\|>\s*(?P<id2>(?:functions\.)?(?P<n2>"
    + _NAME
    + r"?)(?::\d+)?)\s*<\|tool_call_argument_begin\|>"
    rf"|<{_BAR}tool{_JOINT}call{_JOINT}begin{_BAR}>(?:function<{_BAR}tool{_JOINT}sep{_BAR}>)?\s*(?P<n3>{_NAME})\s*"
    rf"(?:<{_BAR}tool{_JOINT}sep{_BAR}>|\n)\s*(?:```json)?"
    r"|^>>>(?!all\b)(?P<n4>" + _NAME + r")\s*\n"
    r"|<\|recipient\|>\s*(?!all\b)(?P<n5>" + _NAME + r")\s*<\|content\|>"
    r"|(?:<\|start\|>assistant)?<\|channel\|>commentary to=(?:functions\.)?(?P<n6>" + _NAME + r")\s*"
    r"(?:<\|constrain\|>\s*)?(?:json\s*)?<\|message\|>"
    r"|(?:<\|start\|>assistant\s*)?to=functions\.(?P<n11>"
    + _NAME
    + r")<\|channel\|>commentary\s*(?:json\s*)?<\|message\|>"
    r"|✿FUNCTION✿:\s*(?P<n7>" + _NAME + r")\s*✿ARGS✿:"
    r"|^Action:[ \t]*(?P<n8>" + _NAME + r")[ \t]*\n\s*Action Input:)"
    r"|(?P<function><function=(?P<n9>[^<>]+?)>)"
    rf"|(?P<invoke><{_PREFIX}invoke name=\"(?P<n10>[^\"<>]+)\">)"
    r"|(?P<code><\|python_tag\|>|<\|python_start\|>|<\|tool_call_start\|>|```tool_code|^Call:\s*(?=[\w.]+\()|<function_calls>\s*(?=\w+\())",
    re.MULTILINE | re.IGNORECASE,
)
"""Starts of calls, by what follows: JSON values, JSON arguments of the named tool, text parameters between tags, code."""

_CODE_END: Final = re.compile(
    r"<\|python_end\|>|<\|tool_call_end\|>|```|<bot_end>|\nThought:|</function_calls>|<\|eo[tm]_id\|>|\Z"
)
_MAX_ENDS: Final = 8
"""Maximum number of code ends to try: each may be part of a value, and model outputs contain any number of them."""
_FUNCTION: Final = re.compile(r"(.*?)</function>", re.DOTALL)
_INVOKE: Final = re.compile(rf"(.*?)</{_PREFIX}invoke>", re.DOTALL)
_PARAMETERS: Final = (
    re.compile(r"<parameter=(?P<key>[^<>]+?)>(?P<value>.*?)</parameter>", re.DOTALL),
    re.compile(
        rf"<{_PREFIX}parameter name=\"(?P<key>[^\"<>]+)\"(?: string=\"(?P<text>true|false)\")?>(?P<value>.*?)"
        rf"</{_PREFIX}parameter>",
        re.DOTALL,
    ),
    re.compile(r"<arg_key>(?P<key>.*?)</arg_key>\s*<arg_value>(?P<value>.*?)</arg_value>", re.DOTALL),
)

_AROUND: Final = re.compile(
    rf"</?{_PREFIX}(?:tool_calls?|function_calls|tool{_JOINT}calls)>|<\|tool_calls?_section_(?:begin|end)\|>"
    rf"|<\|tool_call_end\|>|<{_BAR}tool{_JOINT}calls?{_JOINT}(?:begin|end){_BAR}>|<\|/tool_call\|>|<\|action_end\|>"
    r"|<\|END_ACTION\|>|<\|FunctionCallEnd\|>|<\|from\|>assistant|<\|recipient\|>all\s*<\|content\|>|^>>>all\s*$"
    r"|<\|(?:eot_id|eom_id|im_end|call|stop|python_end)\|>|</s>|<bot_end>",
    re.MULTILINE | re.IGNORECASE,
)
"""Text around calls that means nothing once they are read."""
_FENCE: Final = re.compile(r"```(?:json|python)?\s*(.*?)\s*```", re.DOTALL)

_THOUGHTS: Final = re.compile(
    r"<\|channel\|>analysis<\|message\|>.*?(?:<\|end\|>|\Z)(?:\s*<\|start\|>assistant)?|<\|channel\|>final<\|message\|>|<\|return\|>",
    re.DOTALL,
)
"""Thoughts of gpt-oss, and the mark of its answer."""

_THINK: Final = re.compile(r"<think>.*?</think>\s*|\[THINK\].*?\[/THINK\]\s*", re.DOTALL)
_ONLY_THOUGHT: Final = re.compile(
    r"\s*(?:(?:<(think|thinking|thoughts?|reasoning|reflection|scratch_?pad)>.*?(?:</\1>|\Z)"
    r"|Thought(?: \d+)?:(?:(?!\bAct(?:ion)?(?: \d+)?:)[^\n])*)\s*)*",
    re.DOTALL | re.IGNORECASE,
)

_Reader: TypeAlias = Callable[[str, "re.Match[str]"], tuple[list[Call], int]]


def without_thoughts(text: str) -> str:
    """Return an assistant's text without its thoughts; a thought that starts in the prompt ends at `</think>`."""
    return _THINK.sub("", text).rpartition("</think>")[2].lstrip("\n")


def says_nothing(text: str) -> bool:
    """Return whether an assistant's text is blank, or only a thought."""
    return _ONLY_THOUGHT.fullmatch(_THOUGHTS.sub("", without_thoughts(text))) is not None


def take_calls(text: str) -> tuple[str, list[Call]]:
    """Return a text without the calls in it, and the calls; the text unchanged if there are none.

    A text that consists of calls in JSON, or in code, `[name(key=value)]`, is read as calls.

    Raises:
        DataError: a call starts and cannot be read.
    """
    text = _THOUGHTS.sub("", text)
    calls: list[Call] = []
    kept: list[str] = []
    at = 0
    while (found := _START.search(text, at)) is not None:
        kept.append(text[at : found.start()])
        mark = " ".join(found[0].split())[:40]
        try:
            kind = next(name for name in _READERS if found[name] is not None)
            more, at = _READERS[kind](text, found)
        except DataError as error:
            raise DataError(f"the call that starts with {mark!r}: {error}") from None
        calls += more
    if not calls:
        return _whole(text)
    return _AROUND.sub("", "".join([*kept, text[at:]])).strip(), calls


def tag_body(body: str) -> list[Call] | None:
    """Return the calls between `<tool_call>` tags of Qwen3-Coder, `<function=...>`, or of GLM, `name<arg_key>...`.

    None if it is neither.

    Raises:
        DataError: a parameter cannot be read.
    """
    if "<function=" in body:
        rest, calls = take_calls(body)
        if rest:
            raise DataError(f"{rest[:40]!r} stands beside the function")
        return calls
    name, mark, _ = body.partition("<arg_key>")
    name = name.replace("<tool_sep>", "").strip()
    if not mark and re.fullmatch(_NAME, name) is None:
        return None
    return [Call(ToolCall(name, _parameters(body.partition(name)[2].replace("<tool_sep>", ""))), untyped=True)]


def _whole(text: str) -> tuple[str, list[Call]]:
    fenced = _FENCE.fullmatch(text.strip())
    body = (fenced[1] if fenced else text).strip()
    if body[:1] in ("{", "["):
        try:
            value = read_value(body)
        except DataError:
            value = None
        if isinstance(value, dict) and value.keys() <= {"thought", "tool_calls"} and "tool_calls" in value:
            value = value["tool_calls"]
        listed = value if isinstance(value, list) else [value]
        if value is not None and all(map(_is_call, listed)):
            return "", [read_call(item) for item in listed]
    if body.startswith("[") and body.endswith(")]"):
        try:
            return "", [Call(call) for call in parse_calls(body)]
        except DataError:
            pass
    return text, []


def _is_call(value: Any) -> bool:
    function = value.get("function", value) if isinstance(value, dict) else None
    return isinstance(function, dict) and "name" in function and ("arguments" in function or "parameters" in function)


def _values(text: str, found: re.Match[str]) -> tuple[list[Call], int]:
    """Read JSON values, one after the other or in lists, each a call."""
    values, at = _json_values(text, found.end())
    items = [item for value in values for item in (value if isinstance(value, list) else [value])]
    return [_one(item) for item in items], at


def _one(item: Any) -> Call:
    if isinstance(item, dict) and "tool_name" in item:  # Cohere's
        item = {"name": item["tool_name"]} | {key: item[key] for key in ("parameters", "id") if key in item}
    if isinstance(item, dict) and "name" not in item and "function" not in item:
        naming = next((key for key in ("action", "tool", "tool_call", "function_name", "command") if key in item), None)
        if naming is not None:
            raise DataError(
                f"it names its tool in {naming!r}, a notation that is not read; write calls between <tool_call> and "
                "</tool_call>, or in OpenAI's 'tool_calls'"
            )
    return read_call(item)


def _named(text: str, found: re.Match[str]) -> tuple[list[Call], int]:
    """Read the JSON arguments of a tool named in the mark."""
    values, at = _json_values(text, found.end(), most=1)
    if not isinstance(values[0], dict):
        raise DataError(f"the arguments must be an object, not {kind_word(values[0])}")
    name = next(found[f"n{i}"] for i in (*range(1, 9), 11) if found[f"n{i}"])
    after = re.compile(r"\s*```").match(text, at) if "```" in found[0] else None
    return [Call(ToolCall(name, values[0]), found["id1"] or found["id2"])], after.end() if after else at


def _function(text: str, found: re.Match[str]) -> tuple[list[Call], int]:
    end = _FUNCTION.match(text, found.end())
    if end is None:
        raise DataError("there is no </function>")
    name, body = found["n9"].strip(), end[1]
    if body.strip().startswith("{"):
        return [Call(read_function({"name": name, "arguments": read_value(body.strip())}))], end.end()
    return [Call(ToolCall(name, _parameters(body)), untyped=True)], end.end()


def _invoke(text: str, found: re.Match[str]) -> tuple[list[Call], int]:
    end = _INVOKE.match(text, found.end())
    if end is None:
        raise DataError("there is no </invoke>")
    return [Call(ToolCall(found["n10"], _parameters(end[1])), untyped=True)], end.end()


def _code(text: str, found: re.Match[str]) -> tuple[list[Call], int]:
    ends = list(islice(_CODE_END.finditer(text, found.end()), _MAX_ENDS))  # at least the end of the text
    fault: DataError | None = None
    for end in ends:
        body = text[found.end() : end.start()].strip()
        body = body if body.startswith("[") else f"[{', '.join(line for line in body.splitlines() if line.strip())}]"
        try:
            calls = parse_calls(body)
        except DataError as error:
            fault = fault or error
            continue  # the mark may be within a value
        return [Call(ToolCall(call.name.removesuffix(".call"), call.arguments)) for call in calls], end.end()
    assert fault is not None
    raise fault


_READERS: Final[Mapping[str, _Reader]] = {
    "values": _values,
    "named": _named,
    "function": _function,
    "invoke": _invoke,
    "code": _code,
}


def _parameters(body: str) -> dict[str, Any]:
    """Return the text of each parameter between tags; one line break at each end belongs to the notation.

    Raises:
        DataError: there is something else between them, or a parameter appears twice.
    """
    found: dict[str, Any] = {}
    for pattern in _PARAMETERS:
        for one in pattern.finditer(body):
            key, value = one["key"].strip(), one["value"]
            if key in found:
                raise DataError(f"the parameter {key!r} appears twice")
            if "arg_key" not in pattern.pattern or (value[:1] == "\n" == value[-1:]):  # GLM itself writes none
                value = value.removeprefix("\n").removesuffix("\n")
            found[key] = value
            if "text" in pattern.groupindex and one["text"] == "false":
                found[key] = read_value(value.strip())
        body = pattern.sub("", body)
    if body.strip():
        raise DataError(f"{body.strip()[:40]!r} is no parameter between tags")
    return found


def _json_values(text: str, at: int, most: int | None = None) -> tuple[list[Any], int]:
    """Return the JSON values from `at` on, and where they end; commas and semicolons between them are skipped."""
    values: list[Any] = []
    decoder = json.JSONDecoder()
    end = at
    while most is None or len(values) < most:
        start = re.compile(r"[\s,;]*").match(text, end).end()  # type: ignore[union-attr]
        if text[start : start + 1] not in ("{", "["):
            break
        try:
            stop = decoder.raw_decode(text, start)[1]
        except (ValueError, RecursionError):
            stop = len(_AROUND.split(text[start:], maxsplit=1)[0]) + start  # in a notation other than JSON, or broken
        values.append(read_value(text[start:stop].strip()))
        end = stop
    if not values:
        raise DataError(f"no JSON follows, but {text[at : at + 40].strip()!r}")
    return values, end
