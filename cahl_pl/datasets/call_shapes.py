"""Texts that look like a call of an offered tool in any notation, recognized by the tool's name and parameters."""

from __future__ import annotations

import builtins
import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import Final, TypeAlias

from cahl_pl.types import ToolSpec

_SPACE_OF_NAMES: Final = r"(?:(?:functions?|default_api|tools?|api|multi_tool_use|self|client|agent|mcp)[.:/])?"
_INPUT: Final = r"(?:\w{1,20}[ _])?(?:inputs?|args?|arguments?|param(?:eter)?s?|kwargs|payload)"
_BETWEEN: Final = (
    rf"(?:[^\w{{}}.!?=]|=>|\b(?:{_INPUT}|with|the|following|using|json|(?:tool|action|function)(?:[ _]?(?:name|call))?)"
    r"\b|:\d+|\[ARGS\]|<\|[\w ]*\|>){0,30}?"
)
"""Text allowed between a name and its arguments: marks, and words that announce the arguments."""
_TYPE: Final = (
    r"(?:str(?:ing)?|int(?:eger)?|float|number|bool(?:ean)?|list|array|dict|object|any|optional|required|None|null|\.\.\.|the|an?|"
    r"your|which|what|how|name|date|whether)\b"
)
"""Start of a parameter's value in a signature or a description, `city: str`, but not in a call."""
_CALLING: Final = r"(?:action|act|call|invok(?:e|ing)|calling|(?:function|tool)[ _-]?call|(?:tool[ _]to[ _])?use|using)"
_NAMING: Final = r"(?:(?:tool|function|api|action|plugin|command|method)(?:[ _]?name)?|name)"
_TOOLISH: Final = r"[\w:|-]{0,30}(?:tool|function|invoke|call|action|api|exec|plugin|recipient)[\w|-]{0,30}"
_ARGUMENT: Final = re.compile(r"\s*(?:[\"'{\[\d-]|(?:true|false|null|none)\b|\*{0,2}\w+\s*[=:]\s*\S)", re.IGNORECASE)
"""Start of arguments that are values, or names and values; plain words may be a remark in brackets."""
_LEAD: Final = re.compile(
    r"\s*(?:[\w ]{1,20}[:=]\s*|(?:await|return|call|>>>)\s+|print\(|\w+\s*=\s*){0,3}[`*_\"'\[{<(|@$]*(?:\w+[.:/])*",
    re.IGNORECASE,
)
_BULLET: Final = re.compile(r"\s*(?:[-*\u2022]|\d+[.)])\s")
_END: Final = re.compile(r"[\s`*_\"'\])}>|;]*?(?:\n|\Z)")
_DEFINED: Final = re.compile(r"(?:\bdef|\bfunction|\bfunc|\bfn|\bclass|\bvoid|\bsub|\bproc)\s+$")
_IN_CODE: Final = re.compile(r"```|<code>|<execute>|</code>|</execute>")
_OF_HTML: Final = frozenset({
    "a", "abbr", "address", "area", "article", "aside", "audio", "b", "base", "body", "button", "canvas", "caption",
    "cite", "code", "data", "details", "dialog", "div", "figure", "footer", "form", "h1", "head", "header", "html", "i",
    "iframe", "img", "input", "label", "li", "link", "main", "map", "mark", "menu", "meta", "meter", "nav", "object",
    "ol", "option", "output", "p", "picture", "pre", "progress", "q", "s", "script", "section", "select", "slot",
    "source", "span", "strong", "style", "summary", "svg", "table", "template", "text", "textarea", "time", "title",
    "track", "u", "ul", "var", "video",
})  # fmt: skip
"""HTML elements that may also be tools: a page does not call them, unless the tag contains a parameter."""
_BUILT_IN: Final = frozenset(dir(builtins))
"""Functions that code may call without meaning a tool of that name."""
_LONGEST: Final = 2000
"""Maximum number of characters of a call to examine."""
_MOST: Final = 100
"""Maximum number of places in a text to examine for a name and a bracket."""

_Look: TypeAlias = Callable[[str], "str | None"]


def is_compound(name: str) -> bool:
    """Return whether a name is not a plain word: `weather` occurs in prose by chance, `get_weather` and `getWeather` do not."""
    return re.search(r"[^a-zA-Z]|[a-z][A-Z]", name) is not None


def parameters_of(tool: ToolSpec) -> tuple[str, ...]:
    """Return the names of a tool's parameters."""
    properties = tool.parameters.get("properties")
    return tuple(sorted(map(str, properties))) if isinstance(properties, dict) else ()


def call_shape(text: str, tools: Sequence[ToolSpec]) -> str | None:
    """Return the part of a text that looks like a call of one of the tools, worded for messages; None if there is none.

    A name alone is not a call. It is one if arguments follow (in brackets, in JSON, as `parameter: value` or under a label
    such as `Action Input:`), if it is a tag or named by a tag, or if the text consists of the name.
    """
    low = text.lower()
    for tool in tools:
        for name in _spellings(tool.name):
            if name.lower() in low:
                for look in _looks(name, parameters_of(tool)):
                    if (found := look(text)) is not None:
                        return found
    return None


@lru_cache(maxsize=4096)
def _spellings(name: str) -> tuple[str, ...]:
    """Return a tool's name and its spellings in other naming styles: `getWeather` for `get_weather`."""
    words = re.findall(r"[A-Z]?[a-z\d]+|[A-Z\d]+(?![a-z])", name)
    if re.fullmatch(r"[\w-]+", name) is None or len(words) < 2:
        return (name,) if name.strip() else ()
    low = [word.lower() for word in words]
    return tuple(dict.fromkeys((name, "_".join(low), low[0] + "".join(word.capitalize() for word in low[1:]), "-".join(low))))


@lru_cache(maxsize=1024)  # the turns of a row share tools
def _looks(tool: str, parameters: tuple[str, ...]) -> tuple[_Look, ...]:
    return (
        lambda text: _code(text, tool, parameters),
        *(_pattern(pattern, what) for pattern, what in _patterns(tool, parameters)),
    )


def _pattern(pattern: re.Pattern[str], what: str) -> _Look:
    return lambda text: f"{what} {' '.join(found[0].split())[:40]!r}" if (found := pattern.search(text)) else None


def _patterns(tool: str, parameters: tuple[str, ...]) -> Iterator[tuple[re.Pattern[str], str]]:
    """Yield the patterns of a tool's calls other than code, each with a label for its matches."""
    compound, bare = is_compound(tool), re.escape(tool)
    named = rf"(?<![\w.]){_SPACE_OF_NAMES}{bare}(?!\w)"
    quoted = rf"[\"'`*]*{named}[\"'`*]*"
    one = "|".join(map(re.escape, parameters)) or r"(?!)"
    flags = re.MULTILINE
    # weather {"city": "Oslo"}, weather: city=Oslo, Tool: weather\nTool Input: {"city": ...}, functions.weather:0{...}
    # not in quotes: JSON is recognized by its values
    marked = rf"(?<![\w.\"']){_SPACE_OF_NAMES}{bare}(?![\w\"'])[`*]*"
    given = rf"\{{?\s*[\"'`]?(?:{one})[\"'`]?\s*"
    yield re.compile(rf"{marked}{_BETWEEN}{given}=(?!\s*[\"'`]?{_TYPE})\s*\S", flags), "the call"
    apart = rf"(?=[ `*]*(?:[^\w `*]|{_INPUT}\b)|[ `*]+with\b)"
    yield re.compile(rf"{marked}{apart}{_BETWEEN}{given}:(?!\s*[\"'`]?{_TYPE})\s*\S", flags), "the call"
    opened = r"(?:\}|[\"']\w)" if compound else r"\}"
    yield re.compile(rf"{marked}{_BETWEEN}\{{\s*{opened}", flags), "the call"
    yield re.compile(rf"\A\s*/?{bare}\?(?:{one})="), "the call"
    yield re.compile(rf"(?<![\w./-]){bare}\s+--?(?:{one})\b"), "the command"
    # ReAct and ReWOO, search[Oslo], but not a footnote or an index; [search: Oslo]
    lead = r"^(?:[\w #$]{1,20}[:=]|[^\w\n]{1,20})?[ \t]*"
    yield re.compile(rf"(?i:{lead}{quoted}\[\s*(?:[^\W\d]|[\"'])[^\]\n]*\]\s*$)", flags), "the call"
    yield re.compile(rf"^[ \t]*[<\[{{]+\s*{bare}\s*[:|]\s*[^\s\"'][^\n]*?[\]}}>]\s*$", flags), "the call"
    # Action: weather, and labels that name a tool if its input follows
    calling = rf"^(?:[^\w\n]|[\d_])*{_CALLING}(?:[ _]?\d+)?[*_ ]*[:=>]+[*_\s]*{quoted}"
    yield re.compile(rf"(?i:{calling})" + (r"(?!\w)" if compound else r"[,;.]?\s*$"), flags), "the call"
    label = rf"(?:\b{_NAMING}|\b{_CALLING})(?:[ _]?\d+)?[\"'*]*\s*[:=]+[*_\s]*{quoted}"
    given_to = rf"[\s,;|]+[\"'*-]*\s*{_INPUT}(?:[ _]?\d+)?[\"'*]*\s*[:=](?!\s*(?:none|no)\b)"
    yield re.compile(rf"(?i:{label}{given_to})", flags), "the call"
    yield re.compile(rf"(?i:^[^\w\n]*{_NAMING}\W{{1,9}}{quoted}[^\w\n]*\n[^\w\n]*{_INPUT}\b)", flags), "the call"
    yield re.compile(rf"(?i:\b(?:tool|function|api)\s+{quoted}\s*(?::|=>|->)\s*\S)"), "the call"
    # tags
    attributes = r"(?:\s+[\w:-]+\s*=[^<>]*)?"
    tag = rf"<(?:[\w-]+:)?{bare}{attributes}\s*"
    inside = rf">\s*(?:<(?:{one})>|\{{)"
    if tool.lower() in _OF_HTML:
        yield re.compile(rf"<(?:[\w-]+:)?{bare}(?:\s+(?:{one})\s*=[^<>]*>|\s*{inside})"), "the tag"
    else:
        yield re.compile(rf"{tag}/>|</(?:[\w-]+:)?{bare}\s*>"), "the tag"
        yield re.compile(rf"^[ \t]*{tag}(?:>\s*$|{inside})", flags), "the tag"
    yield re.compile(rf"\[{bare}\]\s*\{{|\[/{bare}\]"), "the tag"
    gap = r"[^\w<>\[\]{}\n]{0,6}(?:(?:name|id|tool|function|to)\b[^\w<>\[\]{}\n]{1,4})?"
    yield re.compile(rf"(?i:[<\[{{|]\s{{0,3}}/?{_TOOLISH}){gap}(?<=[\s:=|\"']){_SPACE_OF_NAMES}{bare}(?!\w)"), "the tag"
    yield re.compile(rf"<[\w:-]+\s[^<>\n]{{0,80}}?\b(?i:tool|function|recipient|call|action)\w*\s*=\s*[\"']?{named}"), "the tag"
    holder = "tool|function|invoke|call" + ("|name|action|api|command|method" if compound else "|action_name|api_name")
    yield re.compile(rf"<(\w*(?:{holder})\w*)>\s*{named}\s*</\1>", re.IGNORECASE), "the tag"
    with_input = rf"(?=.{{0,{_LONGEST}}}?<\w*(?:arg|param|input))"
    yield re.compile(rf"<(name|action|api|command)>\s*{named}\s*</\1>{with_input}", re.DOTALL), "the tag"
    caller = r"(?<!\w)\w{0,30}(?:tool|function|call|invoke|execute|run)\w{0,30}\(\s*(?:\w+\s*=\s*)?"
    yield re.compile(rf"(?i:{caller})[\"']{named}[\"']"), "the call"
    # the recipient
    yield re.compile(rf"\b(?:to|recipient)\s*=\s*[\"']?{named}"), "the call"
    space = r"(?:^|[\s<\[>|=\"'`])(?:functions|default_api|multi_tool_use)[.:]"
    yield re.compile(rf"{space}{bare}(?=\s*(?:[:\[({{<]|$))", flags), "the call"
    # a text that consists of the call
    yield re.compile(rf"\A\s*\(?{bare}\s+:?([\"'])[^\"'\n]+\1\)?\s*\Z"), "the command"
    yield re.compile(rf"\A\s*\({bare}\s+:[^()]*\)\s*\Z"), "the command"
    yield re.compile(rf"\A\s*[/@!$]{bare}(?:[ :][^\n]*)?\s*\Z"), "the command"
    if compound:
        yield re.compile(rf"\A\s*[\"'`*\[<(]*{named}(?:\(\))?[\"'`*\])>;]*\s*\Z"), "the name"
        yield re.compile(rf"\A\W*{quoted}\s*(?::|=>|->|\||=)\s*\S+(?:\s+\S+){{0,2}}(?<![.!?])\s*\Z"), "the call"
        # get_weather Oslo, x <- get_weather Oslo: a command's arguments are names, numbers or quoted text
        values = r"(?:\s+[A-Z\d\"'][^\s!?]*(?<![.,:;])){1,4}\s*"
        yield re.compile(rf"\A\W*(?:\w+\s*(?:=|<-)\s*)?{quoted}{values}\Z"), "the command"
        said = rf"\A\W*(?i:call|calling|invoke|invoking|run|running|execute|executing|use|using)\s+{quoted}"
        yield re.compile(rf"{said}(?:\W*|[^.!?\n]*\b(?:{one})\b[^.!?\n]*)\Z"), "the command"
        sent = r"\A\s*(?:`{3}\w*\s+)?(?:GET|POST|PUT|PATCH|DELETE|curl|wget|http)\s"
        yield re.compile(rf"{sent}[^\n]*/{bare}(?![\w/])"), "the request"


def _code(text: str, tool: str, parameters: tuple[str, ...]) -> str | None:
    """Find `tool(...)`: anywhere if the brackets contain values, otherwise only alone on its line.

    A definition of a function of that name and a signature, `tool(city, days=None)`, are not calls.
    """
    case = re.IGNORECASE if is_compound(tool) else 0
    places = list(islice(re.finditer(rf"(?<!\w){re.escape(tool)}\s?\(", text, case), _MOST))
    if not places or any(_DEFINED.search(text, max(0, one.start() - 20), one.start()) for one in places):
        return None
    one = "|".join(map(re.escape, parameters)) or r"(?!)"
    signature = re.compile(rf"\s*\*{{0,2}}(?:{one})\s*(?:[,)]|[:=]\s*{_TYPE})")
    for place in places:
        spaced = text[place.end() - 2].isspace()
        start = max(0, place.start() - _LONGEST)
        before = text[text.rfind("\n", start, place.start()) + 1 or start : place.start()]
        dotted = before[-1:] in (".", ":", "/")
        known = re.search(rf"(?<![\w.]){_SPACE_OF_NAMES}\Z", before) is not None
        end = _closing(text, place.end())
        alone = not spaced and _LEAD.fullmatch(before) is not None and _END.match(text, end) is not None
        fenced = not spaced and _is_in_code(text, place.start()) and is_compound(tool)
        shown = f"the code {tool}(...)"
        if signature.match(text, place.end()) is not None and not fenced:
            continue
        named = re.match(rf"\s*(?:{one})\s*=", text[place.end() : end]) is not None
        if dotted and not (known or named or (alone and len(text.strip().splitlines()) == 1)):
            continue  # a method of something else, re.search("a", text)
        if tool in _BUILT_IN and not named and _is_in_code(text, place.start()):
            continue
        values = _ARGUMENT.match(text, place.end()) is not None
        numbers = values and text[place.end() :].lstrip()[:1] in "-0123456789"
        if fenced or (alone and _BULLET.match(before) is None) or (values and not spaced and not numbers):
            return shown
        if before.endswith(("[", "{{", "<|")) and text[end : end + 1] in ("]", "}", "|", "-", " "):
            return shown
        if values and spaced and re.match(r"\s*(?:" + one + r")\s*[=:]\s*\S", text[place.end() : end]):
            return shown
    return None


def _closing(text: str, start: int) -> int:
    """Return where an open bracket closes; the end of the examined text if it does not."""
    depth, stop = 1, min(len(text), start + _LONGEST)
    for at in range(start, stop):
        depth += (text[at] == "(") - (text[at] == ")")
        if depth == 0:
            return at + 1
    return stop


def _is_in_code(text: str, place: int) -> bool:
    """Return whether a place is in a block of code, as written by agents that act by code (smolagents, CodeAct)."""
    fences = 0
    opened = False
    for mark in _IN_CODE.finditer(text, 0, place):
        fences += mark[0] == "```"
        opened = not mark[0].startswith("</") if mark[0] != "```" else opened
    return opened or fences % 2 == 1
