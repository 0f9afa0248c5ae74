"""Texts meant as references to an earlier call but not written as such: `${1.city}`, `$1['city']`, `#1`, `{{step1}}`."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from cahl_pl.schema.references import read_reference

_WRAPS: Final = (
    ("{{", "}}"), ("${", "}"), ("{", "}"), ("<<", ">>"), ("<", ">"), ("[[", "]]"),
    ('"', '"'), ("'", "'"), ("`", "`"), ("(", ")"),
)  # fmt: skip
_MARKING: Final = ("{{", "${", "{", "<<", "<", "[[")
"""Brackets in which a number, or a word for a result, is meant as a reference."""
_TAIL: Final = r"(?P<tail>(?:(?=\.|\?\.|->|::|\[)(?:\[[\"'][^\"'\]]*[\"']\]|[^\s,;])*)?)"
_DOLLAR: Final = re.compile(rf"\$\s?(?P<call>\d{{1,4}}){_TAIL}\$?")
_AMOUNT: Final = re.compile(r"\.\d+(?!\d)(?!\.[^\W\d]|\[).*")
"""Text after the number in `$1.50`, `$1.5M` and `$1.99/lb`; `$1.0.id` is not an amount."""
_HASH: Final = re.compile(rf"#E?(?P<call>\d{{1,4}}){_TAIL}")
_NUMBER: Final = re.compile(rf"(?P<call>\d{{1,4}}){_TAIL}")
_WORD: Final = (
    r"(?:(?:api|tool|function)[ _-]?call|results?|outputs?|steps?|calls?|responses?|answers?|observations?|obs|ret|res|var|"
    r"tool|task|node|action|ref|previous|prev|last|E)"
)
_WORDED: Final = re.compile(
    rf"(?:{_WORD}[ _.-]?(?:(?:of|from)[ _.-])?(?:the[ _.-])?(?:{_WORD}[ _.-]?)?[\[(]?(?P<call>\d{{1,4}})[\])]?"
    rf"|(?:previous|prev|last|results?|outputs?|responses?|answers?|observations?)(?:[ _](?:results?|outputs?|step|call))?)"
    rf"{_TAIL}\$?",
    re.IGNORECASE,
)
_BARE: Final = re.compile(
    r"(?:API_call_\d+|(?:the )?(?:results?|outputs?)[ _](?:of|from)[ _](?:call|step)[ _]\d+"
    r"|(?:step|call|node)[_ -]?\d+\.(?:results?|outputs?|response)(?:[.\[]\S*)?"
    r"|<(?:GENERATED|resource|node)>?-\d+>?)",
    re.IGNORECASE,
)
"""Such words without brackets, if nothing else can be meant; the marks of Seal-Tools and HuggingGPT."""
_STEP: Final = re.compile(
    r"(?:\.|\?\.|->|::)(?P<field>[^\W\d][\w-]*)|\.(?P<element>\d{1,6})|\[\s*(?P<index>\d{1,6})\s*\]"
    r"|\[\s*[\"'](?P<quoted>[^\"'\]]+)[\"']\s*\]|\[(?P<bare>[^\W\d][\w-]*)\]"
)
WITHIN: Final = re.compile(r"\$(?P<call>[1-9]\d{0,3})(?P<path>(?:\.[^\W\d][\w-]*|\[\d{1,6}\]|\[[\"'][^\"'\]]*[\"']\])+)")
"""A reference with a path within other text."""
BRACED: Final = re.compile(r"\{\{?\s*\$(?P<call>[1-9]\d{0,3})[^{}\s]*\s*\}|\$\{(?P<call2>[1-9]\d{0,3})[^{}\s]*\}")
"""Reference in braces within other text."""

_NAMED: Final = re.compile(r"(?P<sigil>[$@#]*)(?P<head>[\w -]*(?:\(\))?)(?P<tail>(?:\.|/|:|->|\?\.|\[)\S*)?")
"""`$search.flight`, `search()['flight']`, `$first.flight`, `$.flight`, `@1.flight`, `result.flight`."""
_HEADS: Final = re.compile(rf"{_WORD}[ _-]?\d*", re.IGNORECASE)


class Meant(NamedTuple):
    """Reference that a text is meant as.

    Attributes:
        call: the number of the call, from 1; None if not known.
        written: the reference in this project's notation; None if not known.
        surely: whether nothing else can be meant, whatever the calls are.
    """

    call: int | None
    written: str | None
    surely: bool


def meant_reference(text: str) -> Meant | None:
    """Return the reference that a text is meant as but not written as; None for other text and for references."""
    if read_reference(text) is not None:
        return None
    inner, marked, wrapped = _unwrapped(text)
    if (found := _DOLLAR.fullmatch(inner)) is not None:
        return None if _AMOUNT.fullmatch(found["tail"]) else _meant(found, wrapped or inner != text, False)
    if (found := _HASH.fullmatch(inner)) is not None and not _AMOUNT.fullmatch(found["tail"]):
        return _meant(found, True, False)
    if marked and (found := _NUMBER.fullmatch(inner)) is not None and not _AMOUNT.fullmatch(found["tail"]):
        return _meant(found, True, text.strip().startswith("${"))
    sigil = inner[:1] in ("$", "#", "@")
    if (marked or sigil) and (found := _WORDED.fullmatch(inner.lstrip("$#@"))) is not None:
        number = int(found["call"]) if found["call"] else None
        return Meant(number or None, f"${number}" if number and not found["tail"] else None, False)
    return Meant(None, None, False) if _BARE.fullmatch(inner) or _BARE.fullmatch(text.strip()) else None


def named_reference(text: str, earlier: Sequence[tuple[str, Any]]) -> str | None:
    """Return the reference meant by a text that names the tool of an earlier call, or a field of its result.

    `$search.flight`, `{{search}}` and `search()["flight"]` name a call; `$first.flight`, `$.flight` and `result.flight` an
    existing field. Unusual letters (a full-width dollar) count as those they look like, and invisible ones do not count.

    Args:
        text: an argument, or a part of one.
        earlier: tool name and result of each call before, in order.

    Returns:
        The reference in this project's notation, such as `$2.flight`; None for other text and for references.
    """
    if read_reference(text) is not None:
        return None
    plain = "".join(c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) != "Cf")
    inner, marked, _ = _unwrapped(plain)
    found = _NAMED.fullmatch(inner)
    if found is None or found["head"].startswith(" ") or (found["head"].isdigit() and _AMOUNT.fullmatch(found["tail"] or "")):
        return None
    if found["head"].isdigit() and (found["tail"] or "")[:1] in "/:" and int(found["head"]) > len(earlier):
        return None  # a price, as in $5/month
    head, called = found["head"].removesuffix("()"), found["head"].endswith("()")
    field = re.search(r"[^\W\d][\w-]*", found["tail"] or "")
    sigil = bool(found["sigil"]) or marked
    for number, (name, result) in reversed([*enumerate(earlier, 1)]):
        own = head.casefold() == name.casefold()
        there = field is not None and isinstance(result, dict) and field[0] in result
        worded = _HEADS.fullmatch(head) is not None
        naming = own and ("$" in found["sigil"] or marked or called or there)  # `#search` and `@search` are words
        if naming or (there and (sigil or worded)):
            return f"${number}.{field[0]}" if there and field is not None else f"${number}"
    return None


def _unwrapped(text: str) -> tuple[str, bool, bool]:
    """Return the text within brackets and quotes, whether brackets mark it, and whether there were any."""
    inner, marked, wrapped = text.strip(), False, False
    for _ in range(4):
        around = next((one for one in _WRAPS if inner.startswith(one[0]) and inner.endswith(one[1])), None)
        if around is None or len(inner) <= sum(map(len, around)):
            break
        inner = inner[len(around[0]) : -len(around[1])].strip()
        marked, wrapped = marked or around[0] in _MARKING, True
    return inner, marked, wrapped


def _meant(found: re.Match[str], odd: bool, braced: bool) -> Meant | None:
    """Return the reference meant by a number and the text after it; None for a bare `$5`."""
    number, tail = int(found["call"]), found["tail"]
    if number == 0:
        return Meant(None, None, found[0].startswith("$") or braced or bool(tail))
    if not (tail or odd):
        return None
    path = len(tail.strip(".")) > 0 and found[0][:1] in ("$", "#")
    return Meant(number, _written(number, tail), braced or path)


def _written(number: int, tail: str) -> str | None:
    """Return the reference in this project's notation."""
    path, at = "", 0
    while at < len(tail):
        step = _STEP.match(tail, at)
        if step is None:
            return f"${number}" if tail == "." else None
        name = step["field"] or step["bare"] or step["quoted"]
        if name is None:
            path += f"[{step['element'] or step['index']}]"
        else:
            path += f".{name}" if re.fullmatch(r"[^\W\d][\w-]*", name) else f'["{name}"]'
        at = step.end()
    return f"${number}{path}"
