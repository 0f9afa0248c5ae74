"""Tool descriptions in a few words, after EASYTool (arXiv 2401.06201): short instructions of one uniform shape.

EASYTool has a language model rewrite each tool's documentation. The rules here are ours and need no model: they keep
the first sentence, on what the tool does, and drop markup, addresses and examples.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Literal, TypeAlias

from cahl_pl.schema.coercion import is_nullable
from cahl_pl.schema.merging import whole
from cahl_pl.types import ToolSpec

MAX_WORDS: Final = 20
"""Maximum number of words of a brief description, separated by white space; the rest is cut, with a last "of the"."""

_LABEL = re.compile(r"\b(?:tool|function|api) description:\s*(?=\S)", re.IGNORECASE)
_NEXT_BLOCK = re.compile(r"\n[ \t]*(?:\n|[-*\u2022][ \t]|\d+[.)][ \t]|[A-Z]\w*:)")
_EXAMPLES = r"e\.g\b|ex\b|for example\b|for instance\b"

_MARKUP: Final = (
    (re.compile(r"^(?:#+|[-*>\u2022])\s+"), ""),  # a heading, an item of a list, a quotation
    (re.compile(r"!?\[([^\[\]]*)\]\([^()\s]*\)"), r"\1"),  # a link or an image: its text
    (re.compile(r"</?[A-Za-z][^<>]*>"), " "),
    (re.compile(r"(?:\b(?:at|from|in|on|see|via|visit)\s+)?(?:https?://|www\.)\S*[^\s.,;:!?)\]]", re.IGNORECASE), " "),
    (re.compile(r"(?<!\w)(\*\*|\*)(?=\S)([^*]*[^*\s])\1(?!\w)"), r"\2"),
    (re.compile(r"`+"), ""),
    (re.compile(rf"\(\s*(?:(?:{_EXAMPLES}|such as\b)[^()]*)?\)", re.IGNORECASE), " "),  # empty parentheses too
    (re.compile(r"(?<=[^\s.,;:!?])\s([.,;:!?])(?=\s|$)"), r"\1"),  # punctuation that a cut has separated from its word
    (re.compile(r"^\s*[.,;:!?]+\s"), ""),
    (re.compile(r"(?<![\w.])([a-z]+)\.(?=[A-Z])"), r"\1. "),  # "the database.Returns", but not "the Nager.Date API"
    (re.compile(r"([\u3002\uff01\uff1f])"), r"\1 "),  # full stops that are not followed by a space
)
_EXAMPLE_CLAUSE = re.compile(rf"[\s,;:(\u2013-](?:{_EXAMPLES}).*", re.IGNORECASE)

_BEFORE_NAMES: Final = frozenset(["cf.", "dr.", "fig.", "mr.", "mrs.", "ms.", "no.", "prof.", "st.", "vs."])
_ABBREVIATIONS: Final = frozenset(
    ["approx.", "avg.", "corp.", "etc.", "excl.", "inc.", "incl.", "ltd.", "max.", "min.", "resp."]
)
_DANGLING = re.compile(
    r"(?:an?|all|and|any|as|at|based|by|for|from|given|in|into|its|of|on|or|such|that|the|their|this|to|using|which"
    r"|with),?",
    re.IGNORECASE,
)
_INITIALS = re.compile(r"(?:[^\W\d_]\.)+")
_ITEM = re.compile(r"\d+[.)]")


def first_sentence(text: str, max_words: int = MAX_WORDS) -> str:
    """Return the first sentence of a description, on one line, without the full stop; empty if it says nothing.

    A sentence ends with `.`, `!` or `?` before white space, but not within "e.g.", "U.S.", "v1.2" or "2.5", after a
    title, or after an abbreviation that continues in lower case; it also ends with its paragraph or where a list begins.
    Text before `Tool description:` (BFCL describes the tool's family there) is left out, and so are examples in
    parentheses or after "e.g." or "for example", addresses, and the marks of Markdown and HTML.

    Args:
        text: the description, of any length and content.
        max_words: maximum number of words to keep.
    """
    text = _NEXT_BLOCK.split(_LABEL.split(text)[-1].strip(), maxsplit=1)[0]
    text = " ".join(text.split())  # first: patterns that look for white space stay linear in the length of the text
    for pattern, replacement in _MARKUP:
        text = pattern.sub(replacement, text)
    words = text.split()
    if words and _ITEM.fullmatch(words[0]):
        words = words[1:]
    count = min(max_words, len(words))
    for i in range(count):
        if _ends(words[i], words[i + 1] if i + 1 < len(words) else ""):
            count = i + 1
            break
    else:
        while count < len(words) and count > 1 and _DANGLING.fullmatch(words[count - 1]):
            count -= 1  # "..., using the" is cut off in the middle
    sentence = " ".join(words[:count])
    return (_EXAMPLE_CLAUSE.sub("", sentence) or sentence).rstrip(" .,;:\u3002(-")


def _ends(word: str, following: str) -> bool:
    """Return whether a word is the last of its sentence."""
    word = word.strip("\"'()[]\u201c\u201d\u2019")
    if word.endswith(("!", "?", "\u3002", "\uff01", "\uff1f")):
        return True
    if not word.endswith(".") or word.endswith(".."):
        return False
    lower = word.lower()
    if lower in _BEFORE_NAMES or _INITIALS.fullmatch(word):
        return False
    return not (lower in _ABBREVIATIONS and following[:1].islower())


ToolFormat: TypeAlias = Literal["json", "compact", "brief", "names"]
"""Format of a tool for the model: see `PromptConfig`."""

MAX_ENUM: Final = 8
"""Enum values of a parameter that `brief` still lists."""

DATE_FORMATS: Final = ("date", "date-time", "time", "duration")
"""Formats of a text that replace its type."""


def tool_text(tool: ToolSpec, tool_format: ToolFormat) -> str:
    """Return one tool as the model reads it."""
    if tool_format == "json":
        function = {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}
        return json.dumps({"type": "function", "function": function}, ensure_ascii=False)
    if tool_format == "names":
        sentence = first_sentence(tool.description)
        return f"{tool.name}: {sentence}" if sentence else tool.name
    brief = tool_format == "brief"
    max_enum = MAX_ENUM if brief else None
    parameters = _parameters_text(tool.parameters, lambda schema: _type_text(schema, tool.parameters, max_enum))
    signature = f"{tool.name}({parameters})"
    if not brief:
        return f"{signature}: {tool.description}"
    description = first_sentence(tool.description)
    return f"{signature}: {description}" if description else signature


MAX_DEPTH: Final = 4
"""Maximum number of levels of nested keys to write out; below them only the type is given."""


def _type_text(schema: Any, root: Mapping[str, Any], max_enum: int | None, depth: int = 0) -> str:
    """Return the type of a value in the style of TypeScript: `a|b`, `[string]`, `{sku: string, count?: integer}`.

    The values of an enum replace its type, unless there are more than `max_enum`.
    """
    schema = whole(schema, root)
    if not isinstance(schema, Mapping):
        return "any"
    null = ["null"] if is_nullable(schema) else []
    if "enum" in schema and (max_enum is None or len(schema["enum"]) <= max_enum):
        return _joined([*("null" if value is None else str(value) for value in schema["enum"]), *null])
    if "const" in schema:
        return _joined([str(schema["const"]), *null])

    def inner(part: Any) -> str:
        return _type_text(part, root, max_enum, depth + 1)

    options = schema.get("anyOf") or schema.get("oneOf")
    if isinstance(options, list):
        return _joined([*(_type_text(option, root, max_enum, depth) for option in options), *null])
    kinds = schema.get("type", "any")
    texts = [str(kind) for kind in kinds] if isinstance(kinds, list) else [str(kinds)]
    for i, kind in enumerate(texts):
        if kind == "array" and isinstance(schema.get("items"), Mapping) and depth < MAX_DEPTH:
            texts[i] = f"[{inner(schema['items'])}]"
        elif kind == "object" and schema.get("properties") and depth < MAX_DEPTH:
            texts[i] = f"{{{_parameters_text(schema, inner)}}}"
        elif kind == "string" and schema.get("format") in DATE_FORMATS:
            texts[i] = schema["format"]
    return _joined([*texts, *null])


def _parameters_text(schema: Mapping[str, Any], text_of: Callable[[Any], str]) -> str:
    required = schema.get("required", ())
    parts = schema.get("properties", {}).items()
    return ", ".join(f"{name}{'' if name in required else '?'}: {text_of(part)}" for name, part in parts)


def _joined(texts: Iterable[str]) -> str:
    return "|".join(dict.fromkeys(texts))
