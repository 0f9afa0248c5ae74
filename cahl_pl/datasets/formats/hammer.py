"""Hammer's instruct rows (arXiv 2410.04587): tools and query between marks of one text, the calls as a list in a fence."""

from __future__ import annotations

import re
from typing import Any

from cahl_pl.datasets.declared_values import read_value
from cahl_pl.datasets.formats.base import single_format
from cahl_pl.datasets.gold_calls import read_gold
from cahl_pl.datasets.rows import get_field
from cahl_pl.datasets.task_parts import kind_of_gold
from cahl_pl.datasets.tool_forms import read_tools
from cahl_pl.errors import DataError
from cahl_pl.types import Message, Task

_MARK = "[BEGIN OF AVAILABLE TOOLS]"
_FENCES = tuple(re.compile(rf"```(?:json|python)?\s*({inside})```", re.DOTALL) for inside in (".*", ".*?"))
"""Patterns from the first fence to the last, since values may contain fences, and to the next one."""


def is_one(row: dict[str, Any]) -> bool:
    """Return whether a row's instruction has Hammer's marks."""
    return isinstance(row.get("instruction"), str) and _MARK in row["instruction"] and "output" in row


def task(row: dict[str, Any], name: str) -> Task:
    """Return the task of a row. As in xLAM, parameters are required that have no default and are not optional.

    Raises:
        DataError: naming the field at fault.
    """
    text = get_field(row, "instruction", str)
    tools = read_tools(_value(_between(text, "AVAILABLE TOOLS"), "instruction"), "AVAILABLE TOOLS", lenient=True)
    query = _between(text, "QUERY").strip()
    calls = _calls(get_field(row, "output", str).strip())
    if isinstance(calls, dict) and set(calls) == {"tool_calls"}:
        calls = calls["tool_calls"]
    gold = read_gold(calls, tools, "output")
    return Task(name, (Message("user", query),), tools, gold, tags={"kind": kind_of_gold(gold)})


def _calls(output: str) -> Any:
    """Return the value of an output, fenced or bare; errors refer to its longest reading."""
    fenced = [] if output.startswith(("[", "{")) else [one for one in (f.search(output) for f in _FENCES) if one]
    readings = [one[1] for one in fenced] or [output]
    for reading in readings[1:]:
        try:
            return _value(readings[0], "output")
        except DataError:
            return _value(reading, "output")
    return _value(readings[0], "output")


def _between(text: str, mark: str) -> str:
    _, begun, rest = text.partition(f"[BEGIN OF {mark}]")
    inside, ended, _ = rest.partition(f"[END OF {mark}]")
    if not begun or not ended:
        raise DataError(f"the field 'instruction': [BEGIN OF {mark}] or its end is missing")
    return inside


def _value(text: str, field: str) -> Any:
    try:
        return read_value(text.strip())
    except DataError as error:
        raise DataError(f"the field {field!r}: {error}") from None


FORMAT = single_format(is_one, task)
