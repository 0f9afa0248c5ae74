"""Calls in the text of an assistant that no reader has taken out of it: such a text is no answer in words."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

_MARKS: Final = re.compile(
    r"[<\[][|\uff5c]?\s*(?:[\w:]+[\s_\u2581-])?(?:tool|function)[\s_\u2581-]*(?:calls?|use|request|code)"
    r"(?:[\s_\u2581-](?:section|begin|start|end))*\s*[|\uff5c]?[>\]]"  # [TOOL_CALLS], <function_calls>, DeepSeek's
    r"|<\|python_(?:tag|start)\|>"  # Llama 3 and 4
    r"|<[\w-]+:(?:tool|function|invoke)|<[|\uff5c]DSML[|\uff5c]|<arg_(?:key|value)>"  # MiniMax, Step, Seed; DeepSeek 3.2; GLM
    r"|<\|START_ACTION\|>|<\|recipient\|>(?!\s*all\b)|^>>>(?!all\b)[\w.]+\s*$|^Call:\s*[\w.]+\("  # Cohere, Functionary, Raven
    r"|<function=|<invoke name="  # Qwen3-Coder, Llama 3.1's own functions, Anthropic's prompts
    r"|<\|(?:action_start|plugin|FunctionCallBegin)\|>"  # InternLM, Doubao
    r"|<\|channel\|>commentary to=|to=functions\.[\w.-]+\s*<\|channel\|>"  # gpt-oss
    r"|✿FUNCTION✿|functools\["  # Qwen-Agent, Phi
    r"|```tool_(?:code|call)"  # Gemma
    r"|^Action:.*\n\s*Action Input:",  # ReAct
    re.IGNORECASE | re.MULTILINE,
)
_NAMING: Final = "name|function|function_name|tool|tool_name|action|api|api_name|recipient_name"


def unread_call(text: str, tools: Iterable[str]) -> str | None:
    """Return the mark of a call in a text, as it is to be named to people; None where it holds none.

    A mark is a tag by which models or data sets set calls off, JSON (or Python's notation of it) that names an offered tool,
    or code: a text that is nothing but a call of such a tool, or a block of code that calls one.

    Args:
        text: what an assistant says beside the calls that were read.
        tools: the names of the tools offered.
    """
    mark = _MARKS.search(text)
    if mark is not None:
        return " ".join(mark[0].split())[:40]
    names = tuple(sorted(set(tools)))
    if not names:
        return None
    naming, code, block = _patterns(names)
    found = naming.search(text)
    if found is not None:
        return f"JSON that names the tool {found[1]!r}"
    found = code.fullmatch(text) or block.search(text)
    return None if found is None else f"the code {found[1]}(...)"


@lru_cache(maxsize=256)  # the turns of a row share tools
def _patterns(names: tuple[str, ...]) -> tuple[re.Pattern[str], ...]:
    any_name = "|".join(map(re.escape, names))
    quote = r"""\\*["']"""
    naming = re.compile(rf"{quote}(?:{_NAMING}){quote}\s*:\s*{quote}({any_name}){quote}")
    code = re.compile(rf"[\s\[`]*(?:python\s)?\s*({any_name})\s*\(.*\)[\s\]`]*", re.DOTALL)
    # of agents that act by code, such as those of smolagents and CodeAct
    block = re.compile(rf"(?:```|<code>|<execute>)(?:(?!```|</code>|</execute>).)*?(?<![\w.])({any_name})\(", re.DOTALL)
    return naming, code, block
