"""Command-line options that are text, whatever they look like: jsonargparse reads those of a class as YAML."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from jsonargparse import Namespace

_OPTION: Final = re.compile(r"--data\.requests(?:\.init_args)?\.source")


class Text(str):
    """Text of the command line. jsonargparse does not parse a subclass of `str` as YAML."""


def mark_text(words: Sequence[str]) -> list[str]:
    """Return the words of a command line, with the values of such options marked as text."""
    marked: list[str] = []
    is_value = False
    for word in words:
        name, equals, value = word.partition("=")
        if is_value:
            marked.append(Text(word))
            is_value = False
        elif equals and _OPTION.fullmatch(name) and not _looks_like_an_option(value):
            marked += [name, Text(value)]
        else:
            is_value = _OPTION.fullmatch(word) is not None
            marked.append(word)
    return marked


def _looks_like_an_option(value: str) -> bool:
    """Return whether argparse would take it for an option if it were a separate word."""
    return value.startswith("-") and " " not in value


def plain_text(config: Any) -> None:
    """Make text that was marked plain again: writers of configurations know no other."""
    items = list(vars(config).items()) if isinstance(config, Namespace) else []
    for name, value in items:
        if isinstance(value, Text):
            config[name] = str.__str__(value)
        else:
            plain_text(value)
