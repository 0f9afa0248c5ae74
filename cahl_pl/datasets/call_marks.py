"""Calls in an assistant's text that no reader has extracted: such a text is not an answer in words."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from cahl_pl.datasets.call_shapes import call_shape, parameters_of
from cahl_pl.datasets.call_text import parse_calls
from cahl_pl.datasets.call_values import call_value
from cahl_pl.errors import DataError
from cahl_pl.types import ToolSpec

_MARKS: Final = re.compile(
    r"[<\[][|\uff5c]?\s*(?:[\w:]+[\s_\u2581-])?(?:tool|function)[\s_\u2581-]*(?:calls?|use|request|code)"
    r"(?:[\s_\u2581-](?:section|begin|start|end))*\s*[|\uff5c]?[>\]]"  # [TOOL_CALLS], <function_calls>, DeepSeek's
    r"|<\|python_(?:tag|start)\|>"  # Llama 3 and 4
    r"|<[\w-]+:(?:tool|function|invoke)|<[|\uff5c]DSML[|\uff5c]|<arg_(?:key|value)>"  # MiniMax, Step, Seed; DeepSeek 3.2; GLM
    r"|<\|START_ACTION\|>|<\|recipient\|>(?!\s*all\b)|^>>>(?!all\b)[\w.]+\s*$|^Call:\s*[\w.]+\("  # Cohere, Functionary, Raven
    r"|<function=|<invoke name="  # Qwen3-Coder, Llama 3.1's own functions, Anthropic's prompts
    r"|<\|(?:action_start|plugin|FunctionCallBegin)\|>"  # InternLM, Doubao
    r"|<\|channel\|>commentary to=|\bto=functions\.[\w.-]+"  # gpt-oss
    r"|\bfunctions\.[\w.-]+:\d+\s*[{<(]|\bdefault_api\.\w+\("  # Kimi, Gemini
    r"|</?(?:use_mcp_tool|access_mcp_resource|execute_command|replace_in_file|write_to_file|ask_followup_question)>"  # Cline
    r"|✿FUNCTION✿|functools\["  # Qwen-Agent, Phi
    r"|```tool_(?:code|call)"  # Gemma
    r"|^Action(?: \d+)?:.*\n\s*Action Input(?: \d+)?:|^Action(?: \d+)?:\s*\w+\[[^\]\n]+\]\s*$",  # ReAct
    re.IGNORECASE | re.MULTILINE,
)
_REACT: Final = re.compile(
    r"^[ *]*(?:Thought|Think)(?: \d+)?:[^\n]*(?:\n\s*|\b)\**Act(?:ion)?(?: \d+)?:\**\s*(?!none\b|no\b|n/a\b)\S",
    re.IGNORECASE | re.MULTILINE,
)
"""A thought followed by an action, in any wording: ReAct and the agents derived from it."""
_ALONE: Final = re.compile(r"[\s`]*[\w.]+\(.*\)[\s`;]*", re.DOTALL)


def unread_call(text: str, tools: Iterable[ToolSpec], called: Collection[str] = ()) -> str | None:
    """Return the mark of a call in a text, worded for messages; None if there is none.

    A mark is a tag by which models or data sets delimit calls, JSON (or Python's notation of it) that calls an offered tool,
    or anything else that looks like a call of one by its name and parameters.

    Args:
        text: the assistant's text apart from the calls that were read.
        tools: the tools offered.
        called: names of tools called in the same turn, which the text may mention.
    """
    mark = _MARKS.search(text) or (None if called else _REACT.search(text))
    if mark is not None:
        return " ".join(mark[0].split())[:40]
    offered = tuple(tools)
    if not offered:
        return None
    named = call_value(text, offered)
    if named is not None:
        return f"JSON that names the tool {named[:60]!r}"
    return call_shape(text, [tool for tool in offered if tool.name not in called]) or _misspelt(text, offered)


def refuse_call(answer: str | None, tools: Iterable[ToolSpec], what: str = "the answer") -> None:
    """Check that an answer does not look like a call.

    Raises:
        DataError: it does.
    """
    mark = None if answer is None else unread_call(answer, tools)
    if mark is not None:
        raise DataError(
            f"{what} holds a call ({mark}), not an answer in words; write it as a call in 'gold'"
        )


def _misspelt(text: str, tools: Sequence[ToolSpec]) -> str | None:
    """Return the call that makes up a whole text, if its tool is not offered but its arguments fit one that is."""
    if _ALONE.fullmatch(text) is None:
        return None
    try:
        (call,) = parse_calls(f"[{text.strip().strip('`;').strip()}]")
    except ValueError:
        return None  # other code, or words: DataError is a ValueError
    known = any(set(call.arguments) <= set(parameters_of(tool)) for tool in tools)
    return f"the code {call.name}(...)" if known and call.arguments else None
