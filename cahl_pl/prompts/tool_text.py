"""Tool descriptions in a few words, after EASYTool (arXiv 2401.06201): short instructions of one uniform shape.

EASYTool has a language model rewrite each tool's documentation. The rules here are ours and need none: they keep what
the first sentence says that the tool does, and drop markup, addresses and examples.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias

from cahl_pl.types import ToolSpec

MAX_WORDS: Final = 20
"""Words of a brief description at most, separated by white space; the rest is cut off, and with it a last "of the"."""

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
    (re.compile(rf"\(\s*(?:(?:{_EXAMPLES}|such as\b)[^()]*)?\)", re.IGNORECASE), " "),  # also what is empty by now
    (re.compile(r"(?<=[^\s.,;:!?])\s([.,;:!?])(?=\s|$)"), r"\1"),  # what a cut-out has moved away from its word
    (re.compile(r"^\s*[.,;:!?]+\s"), ""),
    (re.compile(r"(?<![\w.])([a-z]+)\.(?=[A-Z])"), r"\1. "),  # "the database.Returns", but not "the Nager.Date API"
    (re.compile(r"([\u3002\uff01\uff1f])"), r"\1 "),  # full stops that no space follows
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
    """Return what a description says first, on one line, without the full stop; empty if it says nothing.

    A sentence ends with `.`, `!` or `?` before white space, but not within "e.g.", "U.S.", "v1.2" or "2.5", after a
    title, or after an abbreviation that goes on in lower case; it also ends with its paragraph or where a list begins.
    Text before `Tool description:` (BFCL describes the tool's family there) is left out, and so are examples in
    parentheses or after "e.g." or "for example", addresses, and the marks of Markdown and HTML.

    Args:
        text: the description, of any length and content.
        max_words: words to keep at most.
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
"""How a tool is written for the model: see `PromptConfig`."""

MAX_ENUM: Final = 8
"""Enum values of a parameter that `brief` still lists."""

MAX_TYPE_DEPTH: Final = 3
"""Objects and lists within one another whose keys and items are told."""

_SIMPLE: Final = ("string", "integer", "number", "boolean", "array", "object", "null")


def tool_text(tool: ToolSpec, tool_format: ToolFormat) -> str:
    """Return one tool as the model reads it."""
    if tool_format == "json":
        function = {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}
        return json.dumps({"type": "function", "function": function}, ensure_ascii=False)
    if tool_format == "names":
        sentence = first_sentence(tool.description)
        return f"{tool.name}: {sentence}" if sentence else tool.name
    brief = tool_format == "brief"
    required = tool.parameters.get("required", ())
    parameters = [
        f"{name}{'' if name in required else '?'}: {_type_text(schema, MAX_ENUM if brief else None, tool.parameters)}"
        for name, schema in tool.parameters.get("properties", {}).items()
    ]
    signature = f"{tool.name}({', '.join(parameters)})"
    if not brief:
        return f"{signature}: {tool.description}"
    description = first_sentence(tool.description)
    return f"{signature}: {description}" if description else signature


def _type_text(schema: Any, max_enum: int | None, root: Mapping[str, Any], depth: int = 0) -> str:
    """Return a parameter's enum values, unless there are more than `max_enum`, or its type: keys of objects, items of lists.

    Args:
        schema: of the parameter.
        max_enum: values at most; None for all.
        root: the tool's whole schema, for references within it.
        depth: of objects and lists around this one; below `MAX_TYPE_DEPTH` their type's name alone is told.
    """
    if isinstance(schema, dict) and "$ref" in schema:
        schema = _referred(schema["$ref"], root)
    if not isinstance(schema, dict):
        return "any"
    if "enum" in schema and (max_enum is None or len(schema["enum"]) <= max_enum):
        return "|".join(map(str, schema["enum"]))
    options = schema.get("anyOf") or schema.get("oneOf")
    if "type" not in schema and isinstance(options, list):
        texts = [_type_text(option, max_enum, root, depth) for option in options]
        return "any" if "any" in texts else "|".join(dict.fromkeys(texts))
    kind = schema.get("type", "any")
    inner, items = schema.get("properties"), schema.get("items")
    if depth < MAX_TYPE_DEPTH and kind == "object" and isinstance(inner, dict) and inner:
        required = schema.get("required", ())
        parts = (
            f"{name}{'' if name in required else '?'}: {_type_text(one, max_enum, root, depth + 1)}"
            for name, one in inner.items()
        )
        return "{" + ", ".join(parts) + "}"
    if depth < MAX_TYPE_DEPTH and kind == "array" and isinstance(items, dict):
        text = _type_text(items, max_enum, root, depth + 1)
        if text not in ("any", *_SIMPLE):  # the type of plain items says little, and a trained model knows it as it is
            return f"[{text}]"
    return "|".join(kind) if isinstance(kind, list) else str(kind)


def _referred(reference: Any, root: Mapping[str, Any]) -> Any:
    """Return the schema that a `$ref` within the tool's own leads to; None where it cannot be followed."""
    found: Any = root
    parts = str(reference).split("/")
    for part in parts[1:] if parts[0] == "#" else [""]:
        found = found.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
    return found
