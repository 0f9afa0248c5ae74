"""API-Bank (arXiv 2304.08244): ToolRL's processed rows, one call each, and the raw dialogues with their results."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from cahl_pl.datasets.call_text import literal
from cahl_pl.datasets.formats.rlla import flat_property, read_dialogue
from cahl_pl.datasets.gold_calls import same_value
from cahl_pl.datasets.rows import FileRow, get_field, parse_json, read_rows
from cahl_pl.datasets.task_parts import history_text, kind_of_gold, object_schema, offer_tools
from cahl_pl.errors import DataError
from cahl_pl.python_tools.results import json_text
from cahl_pl.schema.references import leaves
from cahl_pl.types import NO_RESULT, GoldCall, Message, Task, ToolSpec

_ONE_CALL = "Based on our conversation above, please only make one tool call to solve my need."
_TOOLS = re.compile(r"\*\*Available Tools\*\*\n(.*?)(?=^\*\*Steps for Each Turn\*\*|\Z)", re.MULTILINE | re.DOTALL)
_TOOL_START = re.compile(r"^\d+\. (?=.*\n(?:Description: .*\n)?Parameters: )", re.MULTILINE)
_TOOL = re.compile(r"(?:Name: (.*?)\nDescription|(\w+)): (.*)\nParameters: (.*)", re.DOTALL)
_OBSERVATION = re.compile(r"<obs>(.*?)</obs>", re.DOTALL)

TOOL_SEARCHER = ToolSpec(
    "ToolSearcher",
    "Find tools by keywords; the answer lists their names, descriptions and parameters.",
    object_schema({"keywords": {"type": "string", "description": "What the tool is to do."}}, ["keywords"]),
)
"""Tool that level 2 starts from. No file of the data set declares it; this declaration is ours."""


def api_bank_task(row: Any, name: str) -> Task:
    """Return the task of one row `{"system", "user", "answer", "other"}`: one call, as ToolRL evaluates it.

    No parameter is required, since the rows do not say which are.

    Args:
        row: the row.
        name: the task's id.

    Raises:
        DataError: naming the field at fault.
    """
    gold = _answer(row)
    return Task(name, _messages(row), tuple(_tools(row)), gold, tags={"kind": kind_of_gold(gold)})


def group_samples(rows: Iterable[FileRow]) -> Iterator[FileRow]:
    """Yield neighbouring rows of one `other.sample_id` (level 3) as one row, whose value is the list of their values."""

    def sample(row: FileRow) -> Any:
        other = row.value.get("other") if isinstance(row.value, dict) else None
        found = other.get("sample_id") if isinstance(other, dict) else None
        return ("row", row.index) if found is None else found

    for index, (_, members) in enumerate(groupby(rows, sample)):
        group = list(members)
        fault = next((f"{row.where}: {row.fault}" for row in group if row.fault is not None), None)
        yield FileRow(index, group[0].where, [row.value for row in group], fault)


def api_bank_sequence(rows: Any, name: str) -> Task:
    """Return the task of a group of rows of level 3: the request, and their calls in order with the recorded results.

    The results are in the dialogues of the later rows; that of the last call is not recorded. Arguments that come
    from a result are references, see `with_references`.

    Args:
        rows: the values of the group.
        name: name of the file; the task's id is `<name>-sample-<sample_id>`.

    Raises:
        DataError: naming the field at fault.
    """
    other = get_field(rows[0], "other", dict)
    if other.get("sample_id") is None:
        raise DataError("the field 'other' has no 'sample_id': the row is no step of a sequence")
    messages = tuple(m for m in _messages(rows[0]) if m.content != _ONE_CALL)
    if not messages or messages[-1].role != "user":
        raise DataError("the field 'user': a sequence must start with the user's request")
    tools = {tool.name: tool for row in reversed(rows) for tool in _tools(row)}
    calls = [call for row in rows for call in _answer(row)]
    results = [_result(text) for text in _OBSERVATION.findall(get_field(rows[-1], "user", str))]
    if len(results) != len(calls) - 1:
        raise DataError(f"the field 'user': of {len(calls)} calls, {len(results)} results are recorded before the last")
    gold = with_references([replace(c, result=r) for c, r in zip(calls, [*results, NO_RESULT], strict=True)], messages)
    tags = {"kind": kind_of_gold(gold)}
    return Task(f"{name}-sample-{other['sample_id']}", messages, tuple(tools.values()), gold, ordered=True, tags=tags)


def dialogue_rows(folder: str | Path) -> Iterator[FileRow]:
    """Yield the dialogues of a folder and its subfolders, one per `.jsonl` file, as rows.

    A row's value is `[name of the file within the folder, without suffix; the lines' values]`.

    Raises:
        DataError: there is no such folder.
    """
    folder = Path(folder).expanduser()
    if not os.path.isdir(folder):  # unlike Path.is_dir, false for names that are too long
        raise DataError(f"{folder}: there is no such folder; API-Bank's dialogues are one file each in a folder")
    for index, path in enumerate(sorted(folder.rglob("*.jsonl"))):
        lines = list(read_rows(path))
        fault = next((f"line {row.line}: {row.fault}" for row in lines if row.fault is not None), None)
        name = path.relative_to(folder).with_suffix("").as_posix()
        yield FileRow(index, str(path), [name, [row.value for row in lines]], fault)


def read_declared_tools(paths: Iterable[str | Path]) -> dict[str, ToolSpec]:
    """Return all tools that processed rows offer, by name, and `TOOL_SEARCHER`; of several declarations the first counts.

    Raises:
        DataError: a file or a row of it cannot be read.
    """
    tools: dict[str, ToolSpec] = {TOOL_SEARCHER.name: TOOL_SEARCHER}
    for path in paths:
        for row in read_rows(path):
            try:
                if row.fault is not None:
                    raise DataError(row.fault)
                for tool in _tools(row.value):
                    tools.setdefault(tool.name, tool)
            except DataError as error:
                raise DataError(f"{row.where}: {error}; give files of processed API-Bank rows") from None
    return tools


def dialogue_tasks(
    row: Any, tools: Mapping[str, ToolSpec], num_distractors: int = 4, seed: int = 0
) -> Iterator[Task | DataError]:
    """Yield the tasks of a dialogue, one for each turn of the user: the calls that follow it, with their results.

    A turn that is answered without a call has no gold call, but the answer in text. The tools offered are those that
    the dialogue calls and others, drawn by `seed` and the dialogue's name. Arguments that come from a
    result of the same turn are references, see `with_references`.

    Args:
        row: a value of `dialogue_rows`.
        tools: all tools by name, see `read_declared_tools`.
        num_distractors: number of tools offered besides those called.
        seed: seed of the draw.

    Raises:
        DataError: the dialogue cannot be read. A turn that nothing follows is yielded as a DataError.
    """
    name, lines = row
    turns = [_line(line, number) for number, line in enumerate(lines, start=1)]
    if not turns:
        raise DataError("the dialogue is empty")
    draw = random.Random(f"{seed}/{name}")
    called = [turn.name for turn in turns if isinstance(turn, GoldCall)]
    offered = offer_tools(tools, called, num_distractors, draw)
    history: list[Message] = []
    for at, turn in enumerate(turns):
        if isinstance(turn, GoldCall):
            history.append(Message("assistant", history_text([turn.call])))
            history.append(Message("tool", _text(turn.result)))
            continue
        history.append(turn)
        if turn.role != "user":
            continue
        following = _until_user(turns[at + 1 :])
        gold = with_references([item for item in following if isinstance(item, GoldCall)], history)
        said = [item.content for item in following if isinstance(item, Message)]
        if not following:
            yield DataError(f"line {at + 1}: nothing follows this turn of the user")
            continue
        kind = kind_of_gold(gold)
        yield Task(
            f"{name}-line-{at + 1}",
            tuple(history),
            offered,
            gold,
            ordered=kind == "nested",
            answer=None if gold else "\n".join(said),
            tags={"kind": kind},
        )


def with_references(gold: Sequence[GoldCall], messages: Sequence[Message]) -> tuple[GoldCall, ...]:
    """Return the calls, with references where an argument can only be known from the result of an earlier call.

    This is a text or number that occurs as a value in the result of an earlier call but not in the messages, such as a
    token that another tool has issued; `"10"` equals 10. The latest such call counts.
    """
    said = "\n".join(message.content for message in messages).lower()
    found: list[GoldCall] = []
    for call in gold:
        references = {}
        for parameter, value in call.arguments.items():
            if isinstance(value, bool) or not isinstance(value, str | int | float) or str(value).lower() in said:
                continue
            for number in range(len(found), 0, -1):
                if any(same_value(value, leaf) for leaf in leaves(found[number - 1].result)):
                    references[parameter] = f"${number}"
                    break
        found.append(replace(call, references=references))
    return tuple(found)


def _until_user(turns: Sequence[Message | GoldCall]) -> list[Message | GoldCall]:
    end = next((i for i, turn in enumerate(turns) if isinstance(turn, Message) and turn.role == "user"), len(turns))
    return list(turns[:end])


def _line(line: Any, number: int) -> Message | GoldCall:
    try:
        role = get_field(line, "role", str)
        if role == "API":
            result = _output(get_field(line, "result", dict))
            return GoldCall(get_field(line, "api_name", str), get_field(line, "param_dict", dict), result)
        if role not in ("User", "AI"):
            raise DataError(f"the role must be User, AI or API, not {role!r}")
        return Message("user" if role == "User" else "assistant", get_field(line, "text", str))
    except DataError as error:
        raise DataError(f"line {number}: {error}") from None


def _output(observation: Mapping[str, Any]) -> Any:
    """Return a call's answer from a recorded `{"api_name", "input", "output", "exception"}`."""
    exception = observation.get("exception")
    if exception is None and "output" not in observation:
        raise DataError("the field 'result' has no part 'output', what the tool answered, and no 'exception'")
    return observation["output"] if exception is None else {"error": exception}


def _result(text: str) -> Any:
    """Return a recorded answer from between `<obs>` tags, read as a Python literal if it is one, otherwise as text."""
    try:
        value = literal(text)
    except DataError:
        return text.strip()
    return _output(value) if isinstance(value, dict) and "output" in value else value


def _text(result: Any) -> str:
    return result if isinstance(result, str) else json_text(result)


def _messages(row: Any) -> tuple[Message, ...]:
    try:
        # Level 2 has an extra asterisk in its header.
        text = get_field(row, "user", str)
        return read_dialogue(text[1:] if text.startswith("***") else text)
    except DataError as error:
        raise DataError(f"the field 'user': {error}") from None


def _answer(row: Any) -> tuple[GoldCall, ...]:
    """Return the calls of a row. Level 2 has an object instead of a list of one."""
    answer = row.get("answer") if isinstance(row, dict) else None
    calls = get_field(row, "answer", list) if not isinstance(answer, dict) else [answer]
    try:
        return tuple(GoldCall(get_field(c, "name", str), get_field(c, "parameters", dict)) for c in calls)
    except DataError as error:
        raise DataError(f"the field 'answer': {error}") from None


def _tools(row: Any) -> Iterator[ToolSpec]:
    section = _TOOLS.search(get_field(row, "system", str))
    if section is None:
        raise DataError("the field 'system': there is no section **Available Tools**")
    for text in _TOOL_START.split(section[1])[1:]:
        match = _TOOL.fullmatch(text.strip())
        if match is None:
            raise DataError(
                f"the field 'system': the tool {text[:60]!r} must have a name, a description and Parameters"
            )
        name, description = (match[1] or match[2]).strip(), match[3].strip()
        try:
            declared = _parameters(match[4])
            properties = {parameter: flat_property(get_field(declared, parameter, dict)) for parameter in declared}
        except DataError as error:
            raise DataError(f"the field 'system': the parameters of tool {name!r}: {error}") from None
        yield ToolSpec(name, description, object_schema(properties))


def _parameters(text: str) -> dict[str, Any]:
    """Return parameters read from JSON or from Python text."""
    try:
        value = parse_json(text)
    except DataError:
        value = literal(text)
    return get_field({"parameters": value}, "parameters", dict)
