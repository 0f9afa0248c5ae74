"""Documentation of a function and its parameters in a docstring, in the styles of Google, NumPy, Sphinx and Epydoc."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import docstring_parser

_CHOICES = re.compile(r"\(choices:\s*(\[.*?\])\)\s*$", re.IGNORECASE | re.DOTALL)

_SECTION = re.compile(r"\s*(?:[A-Z]\w*:\s*$|[:@]\w+.*:)")  # in any style; not the output of an example
_FIELD = re.compile(r"[:@]\w+[^:]*:")  # of Sphinx and Epydoc

_MIXED = re.compile(r"^:param (\w+) \((.+?)\):", re.MULTILINE)  # a common mixture of Sphinx and Google


@dataclass
class Documentation:
    """Parts of a docstring.

    Attributes:
        description: description of the function; empty if there is none.
        parameters: parameter -> its description.
        types: parameter -> its type, as written.
        choices: parameter -> the values that `(choices: [...])` lists at the end of its text, as read by transformers.
    """

    description: str = ""
    parameters: dict[str, str] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    choices: dict[str, Sequence[Any]] = field(default_factory=dict)


def read_docstring(text: str | None) -> Documentation:
    """Return the parts of a docstring; one in no known style is a description as a whole.

    Examples in doctest's form, `>>> f(1)`, are left out: a model does not write Python.
    """
    if not text or not text.strip():
        return Documentation()
    text = _MIXED.sub(r":type \1: \2\n:param \1:", _without_doctests(inspect.cleandoc(text)))
    text = _without_remarks(text)
    try:
        parsed = docstring_parser.parse(text)
    except docstring_parser.ParseError:
        return Documentation(text)
    found = Documentation((parsed.description or "").strip())
    for parameter in parsed.params:
        name, kind = parameter.arg_name, parameter.type_name
        for one in name.split(","):  # NumPy's `x, y : int`
            _add(found, one.strip().lstrip("*-• ").strip("`"), kind, parameter.description)
    return found


def _without_doctests(text: str) -> str:
    """Return a docstring without its examples; each ends at an empty line, at less indentation or where a section begins."""
    kept: list[str] = []
    indentation: int | None = None  # of the example that is being left out
    for line in text.splitlines():
        bare = line.lstrip()
        depth = len(line) - len(bare)
        if re.match(r">>>(?: |$)", bare):
            indentation = depth
        elif indentation is not None and (not bare or depth < indentation or _SECTION.match(line)):
            indentation = None
        if indentation is None:
            kept.append(line)
    return "\n".join(kept)


def _without_remarks(text: str) -> str:
    """Return a docstring without the paragraphs after fields of Sphinx or Epydoc, which the parser adds to the last one."""
    kept: list[str] = []
    in_fields = behind = False
    for line in text.splitlines():
        if _FIELD.match(line):
            in_fields, behind = True, False
        elif in_fields and line.strip() and not line[0].isspace() and not kept[-1].strip():
            behind = True
        if not behind:
            kept.append(line)
    return "\n".join(kept)


def _add(found: Documentation, name: str, kind: str | None, description: str | None) -> None:
    description = " ".join((description or "").split())
    if choices := _CHOICES.search(description):
        try:
            found.choices[name] = json.loads(choices[1])
            description = description[: choices.start()].strip()
        except ValueError:
            pass  # a remark of another kind
    if description:
        found.parameters[name] = description
    if kind:
        found.types[name] = kind
