"""NESTFUL (arXiv 2409.03797): sequences of calls whose arguments are outputs of earlier ones, `$var1.skyId$`."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from cahl_pl.datasets.declared_values import read_value
from cahl_pl.datasets.formats.base import single_format
from cahl_pl.datasets.rows import get_field, read_rows
from cahl_pl.datasets.task_parts import kind_of_gold, offer_tools
from cahl_pl.datasets.tool_forms import read_tool, read_tools
from cahl_pl.errors import DataError
from cahl_pl.schema.references import look_up, read_reference, replace_references
from cahl_pl.types import GoldCall, Message, Task, ToolSpec

_LABEL: Final = re.compile(r"\$(?P<label>\w+?)(?P<path>(?:\.[^.$\[\]\"]+|\[\d+\])*)\$")
_FIELD: Final = re.compile(r"\.([^.\[]+)")
_FINAL: Final = "var_result"
"""Name of the entry that is not a call: it lists the outputs that the user is told."""


def is_one(row: dict[str, Any]) -> bool:
    """Return whether a row's `output` is a list of labelled calls."""
    output = _value(row.get("output"))
    labelled = isinstance(output, list) and any(isinstance(call, dict) and "label" in call for call in output)
    return labelled and isinstance(row.get("input"), str)


def task(
    row: dict[str, Any],
    name: str,
    declared: Mapping[str, ToolSpec] | None = None,
    num_distractors: int = 4,
    seed: int = 0,
) -> Task:
    """Return the task of a row.

    The data contain no results. Each call's result consists of the outputs that later calls use, each a label such as
    `var1.skyId`, and the argument is that label, with a reference to it. A parameter of a type other than text is relaxed.

    Args:
        row: the row.
        name: the task's id.
        declared: all tools by name, for rows that have none.
        num_distractors: number of these offered besides those called.
        seed: seed of their draw.

    Raises:
        DataError: naming the field at fault.
    """
    if row.get("tools") is None and declared is None:
        raise DataError("the field 'tools' is missing: give the specification, --tools executable-spec.json")
    calls = get_field({"output": _value(row.get("output"))}, "output", list)
    numbers: dict[str, int] = {}
    written: list[tuple[str, dict[str, Any]]] = []
    labels: list[str] = []
    for number, call in enumerate(calls, start=1):
        try:
            if get_field(call, "name", str) == _FINAL:
                continue
            arguments = _with_references(get_field(call, "arguments", dict), numbers)
            labels.append(str(call.get("label", f"var{number}")).strip("$"))
            written.append((call["name"], arguments))
            numbers[labels[-1]] = len(written)
        except DataError as error:
            raise DataError(f"the field 'output', call {number}: {error}") from None
    gold = tuple(_gold(written, dict(enumerate(labels, start=1))))
    kind = kind_of_gold(gold)
    messages = (Message("user", get_field(row, "input", str)),)
    if row.get("tools") is not None:
        tools = read_tools(_declared(_value(row["tools"])), lenient=True)
    else:
        used = (call.name for call in gold)
        tools = offer_tools(declared or {}, used, num_distractors, random.Random(f"{seed}/{name}"))
    return Task(name, messages, tools, gold, ordered=kind == "nested", tags={"kind": kind})


def read_specification(paths: Iterable[str | Path]) -> dict[str, ToolSpec]:
    """Return the tools of specifications, JSON lists of `{"name", "description", "query_parameters"}`, by name.

    Of several with the same name, the first counts.

    Raises:
        DataError: a file or a tool in it cannot be read.
    """
    tools: dict[str, ToolSpec] = {}
    for row in (row for path in paths for row in read_rows(path)):
        try:
            if row.fault is not None:
                raise DataError(row.fault)
            for tool in _declared([row.value]):
                spec = read_tool(tool, lenient=True)
                tools.setdefault(spec.name, spec)
        except DataError as error:
            raise DataError(f"{row.where}: {error}; correct the row") from None
    return tools


def _declared(tools: Any) -> Any:
    """Return the tools with their parameters under the usual key."""
    if not isinstance(tools, list):
        return tools
    parts = ("query_parameters", "path_parameters", "body_parameters", "arguments")
    found = []
    for tool in tools:
        if (
            isinstance(tool, dict)
            and "parameters" not in tool
            and any(isinstance(tool.get(part), dict) for part in parts)
        ):
            parameters = {name: one for part in parts for name, one in (tool.get(part) or {}).items()}
            tool = {"name": tool.get("name"), "description": tool.get("description"), "parameters": parameters}
        found.append(tool)
    return found


def _value(given: Any) -> Any:
    if not isinstance(given, str):
        return given
    try:
        return read_value(given)
    except DataError:
        return given


def _with_references(value: Any, numbers: Mapping[str, int]) -> Any:
    """Return the value with each label replaced by a reference to its call."""
    if isinstance(value, dict):
        return {key: _with_references(item, numbers) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_references(item, numbers) for item in value]
    if not isinstance(value, str):
        return value
    whole = _LABEL.fullmatch(value)
    if whole is None:
        inside = [found["label"] for found in _LABEL.finditer(value) if found["label"] in numbers]
        if inside:
            raise DataError(
                f"{value[:60]!r} has the output of {inside[0]!r} within other text, which no reference can say"
            )
        return value
    if whole["label"] not in numbers:
        raise DataError(
            f"{value[:60]!r} is the output of no earlier call; their labels are: {', '.join(numbers) or 'none'}"
        )
    path = _FIELD.sub(lambda field: field[0] if field[1].isidentifier() else f'["{field[1]}"]', whole["path"])
    return f"${numbers[whole['label']]}{path}"


def _gold(written: Sequence[tuple[str, dict[str, Any]]], labels: Mapping[int, str]) -> Iterable[GoldCall]:
    paths: dict[int, set[tuple[str | int, ...]]] = {number: set() for number in labels}

    def note(reference: Any, text: str) -> str:
        paths[reference.call].add(reference.path)
        return text

    for _, arguments in written:
        replace_references(arguments, note)
    results = {number: _made_up(labels[number], sorted(used, key=str)) for number, used in paths.items()}
    for number, (name, arguments) in enumerate(written, start=1):
        references = {key: value for key, value in arguments.items() if _refers(value)}
        values = replace_references(arguments, lambda reference, _: look_up(results[reference.call], reference.path))
        yield GoldCall(name, values, results[number], references)


def _refers(value: Any) -> bool:
    if isinstance(value, dict | list):
        return any(map(_refers, value.values() if isinstance(value, dict) else value))
    return read_reference(value) is not None


def _made_up(label: str, paths: Sequence[tuple[str | int, ...]]) -> Any:
    """Return a result in which each path leads to a distinct label."""
    result: Any = None
    for path in paths:
        text = label + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
        result = _put(result, path, text)
    return label if result is None else result


def _put(into: Any, path: tuple[str | int, ...], text: str) -> Any:
    if not path:
        return text if into is None else into
    head, rest = path[0], path[1:]
    if isinstance(head, int):
        into = into if isinstance(into, list) else []
        into += [f"{text} (not used)"] * (head + 1 - len(into))
        into[head] = _put(None if not isinstance(into[head], dict | list) else into[head], rest, text)
        return into
    into = into if isinstance(into, dict) else {}
    into[head] = _put(into.get(head), rest, text)
    return into


FORMAT = single_format(is_one, task)
