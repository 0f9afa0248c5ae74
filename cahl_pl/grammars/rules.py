"""Rules of one grammar, and the terminals that all grammars use."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final

TAGS: Final = ("think", "plan", "tool_call", "answer")

_ANY_TAG: Final = rf"<\/?({'|'.join(TAGS)})>"
_CHARACTER: Final = r'([^"\\\x00-\x1f\x7f]|\\(["\\\/bfnrt]|u[0-9a-fA-F]{4}))'
_VISIBLE: Final = r'([^"\\\x00-\x20\x7f\s]|\\["\\\/])'
_STEP: Final = r"(\.[a-zA-Z_][a-zA-Z0-9_\-]{0,63}|\[(0|[1-9][0-9]{0,3})\])"

_WITHOUT_TAGS: Final = f"~/(?s:.*){_ANY_TAG}(?s:.*)/"

TERMINALS: Final = {
    # no tag within a text: it would end the output, which is parsed by its tags
    "STRING": f'/"{_CHARACTER}*"/ & {_WITHOUT_TAGS}',
    "SENTENCE": f'/"{_VISIBLE}{_CHARACTER}*"/ & {_WITHOUT_TAGS}',
    # the number of digits is bounded, as when numbers are read
    "INTEGER": r"/-?(0|[1-9][0-9]{0,17})/",
    "NUMBER": r"/-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,17})?([eE][+\-]?[0-9]{1,2})?/",
    "TEXT": f"/[^\\s\\x00-\\x1f](?s:.*)/ & {_WITHOUT_TAGS}",
    "THOUGHT": f"/(?s:.*)/ & {_WITHOUT_TAGS}",
}


class Rules:
    """Rules of a grammar under construction. Equal rules share one name.

    Args:
        special: tags that are single tokens to llguidance, which knows them by name and not by their letters:
            all tokens that were added to a tokenizer and are in angle brackets.
    """

    def __init__(self, special: frozenset[str] = frozenset()) -> None:
        self.special = special
        self._names: dict[str, str] = {}
        self._terminals: dict[str, str] = {}
        self._keys: dict[str, str] = {}

    def rule(self, body: str) -> str:
        """Return the name of the rule with this body."""
        return self._names.setdefault(body, f"r{len(self._names)}")

    def terminal(self, name: str, body: str | None = None) -> str:
        """Return the name of a terminal, one of `TERMINALS` or with this body."""
        self._terminals[name] = TERMINALS[name] if body is None else body
        return name

    def tag(self, name: str, closing: bool = False) -> str:
        """Return a tag."""
        text = f"</{name}>" if closing else f"<{name}>"
        return text if text in self.special else literal(text)

    def until(self, terminal: str, tag: str) -> str:
        """Return a text up to a closing tag, and the tag."""
        name = self.terminal(terminal)
        text = f"</{tag}>"
        if text in self.special:
            return f"{name} {text}"
        return self._names.setdefault(f"{name}\x00{text}", f"until_{tag}[suffix={json.dumps(text)}]").partition("[")[0]

    def reference(self, most: int) -> str | None:
        """Return a reference to one of the first `most` sub-tasks, as a JSON string; None if there are none."""
        if most < 1:
            return None
        numbers = f"[1-{most}]" if most < 10 else r"[1-9][0-9]?"
        return self.terminal(f"REFERENCE_{most}", f'/"\\${numbers}{_STEP}{{0,8}}"/')

    def unreferring(self) -> str:
        """Return a JSON string that is not a reference to any sub-task."""
        return self.terminal("PLAIN_STRING", f'{TERMINALS["STRING"]} & ~/"\\$[1-9][0-9]{{0,3}}([.\\[](?s:.*))?"/')

    def text_of(self, string: str, least: int, most: int | None) -> str:
        """Return a JSON string like the terminal `string`, with `least` to `most` characters."""
        if not least and most is None:
            return string
        length = f"{{{least},{'' if most is None else most}}}"
        name = f"{string}_{least}_{'MORE' if most is None else most}"
        return self.terminal(name, f'{self._terminals[string]} & /"{_CHARACTER}{length}"/')

    def key_beside(self, declared: Sequence[str]) -> str:
        """Return a key of an object other than these."""
        if not declared:
            return self.terminal("SENTENCE")
        body = "|".join(re.escape(json.dumps(name, ensure_ascii=False)[1:-1]).replace("/", r"\/") for name in declared)
        body = f'{TERMINALS["SENTENCE"]} & ~/"({body})"/'
        return self._keys.setdefault(body, self.terminal(f"KEY_{len(self._keys)}", body))

    def text(self, start: str) -> str:
        """Return the whole grammar."""
        lines = [f"start: {start}"]
        for body, name in self._names.items():
            lines.append(f"{name}: {body.partition(chr(0))[0]}")
        return "\n".join([*lines, *(f"{name}: {body}" for name, body in self._terminals.items())]) + "\n"


def literal(text: str) -> str:
    """Return text that must be written exactly."""
    return json.dumps(text, ensure_ascii=False)


def json_literal(value: Any) -> str:
    """Return a JSON value that must be written exactly; a tag in it is escaped, as in written outputs."""
    written = json.dumps(value, ensure_ascii=False)
    for tag in TAGS:
        written = written.replace(f"<{tag}>", f"\\u003c{tag}>").replace(f"</{tag}>", f"\\u003c/{tag}>")
    return literal(written)


def one_of(options: list[str]) -> str:
    """Return alternatives without duplicates."""
    distinct = list(dict.fromkeys(options))
    return distinct[0] if len(distinct) == 1 else f"({' | '.join(distinct)})"
