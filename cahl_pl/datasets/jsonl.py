"""The task format of this project: JSON lines, one task a line, messages and tools as in OpenAI's chat API.

    {"id": "...", "messages": [{"role", "content"}, ...], "tools": [{"type": "function", "function": {"name",
     "description", "parameters": JSON Schema}}], "gold": [{"name", "arguments", "result", "references"}],
     "ordered": false, "answer": "...", "state": {}, "outcome": {"results": [...], "state": {}}, "tags": {}}

Every converter writes it, and `JsonlDataset` reads it back without keeping the tasks in memory.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, cast, get_args, get_type_hints

from cahl_pl.datasets.base import TaskSource
from cahl_pl.datasets.loading import OnContradiction, judge
from cahl_pl.datasets.report import LoadReport, require_tasks
from cahl_pl.datasets.rows import get_field, parse_json, read_rows
from cahl_pl.datasets.task_parts import fit_tools, history_text, kind_of_gold
from cahl_pl.environments.tool_sources import tools_of
from cahl_pl.errors import DataError, SchemaError
from cahl_pl.schema import check_tool
from cahl_pl.types import GoldCall, Message, Outcome, Task, ToolCall, ToolSpec

NAMED_ROWS = 100
"""Rows of each kind that the report of a JsonlDataset names; the others are only counted."""

_FIELDS = ("id", "messages", "tools", "gold", "ordered", "answer", "state", "outcome", "tags")
_CALL_FIELDS = ("name", "arguments", "result", "references")
_MESSAGE_ROLES = get_args(get_type_hints(Message)["role"])


class JsonlDataset(TaskSource):
    """Tasks from a file of JSON lines that may be larger than memory.

    The file is read once when it is opened: every row is checked, and 8 bytes of each are kept: where it starts. A task
    is read again when it is asked for. Which rows are taken: `cahl_pl.datasets.loading.judge`.

    Args:
        path: the file. Its rows are described in docs/your-data.md.
        on_contradiction: what to do with rows whose gold breaks their own schema: `relax` the schema there, or `drop`
            the row.
        strict: raise on the first row that cannot be read, instead of dropping it.
        tools: a Python file or module whose functions are the tools of rows that do not bring their own, see
            `PythonTools`, or a `.json` file that names MCP servers, see `McpEnvironment`. Such a row leaves `tools` out, or
            lists names of them in it.

    Raises:
        DataError: the file cannot be read, is not JSON lines, or no row of it can be used; with `strict`, also a row
            that cannot be read.
        ConfigError: `tools` cannot be used.
    """

    def __init__(
        self,
        path: str | Path,
        on_contradiction: OnContradiction = "relax",
        strict: bool = False,
        tools: str | None = None,
    ) -> None:
        self.report: LoadReport = LoadReport(str(path), limit=NAMED_ROWS)
        self.path = Path(path).expanduser()
        self._tools = None if tools is None else tools_of(tools)
        self._offsets = array("Q")
        self._changed: tuple[int, int] | None = None
        for verdict in judge(read_rows(path), self._read, on_contradiction, strict):
            row = verdict.row
            if row.offset is None:
                raise DataError(
                    f"{path}: one JSON object a line is needed, not a list or parquet; "
                    "python -m cahl_pl convert-data jsonl INPUT OUTPUT writes lines"
                )
            self.report.add(verdict)
            if verdict.task is not None:
                self._offsets.append(row.offset)
        require_tasks(self.report)
        self._changed = _stamp(os.stat(self.path))

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, index: int) -> Task:
        offset = self._offsets[index]
        try:
            with self.path.open("rb") as file:
                if _stamp(os.fstat(file.fileno())) != self._changed:
                    raise DataError(f"{self.path}: the file has changed since it was opened; start again")
                file.seek(offset)
                line = file.readline()
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read any more ({error.strerror}); put the file back") from None
        try:
            (task,) = self._read(parse_json(line.removesuffix(b"\n").decode()), index)
        except (DataError, UnicodeDecodeError) as error:
            with self.path.open("rb") as file:
                number = 1 + sum(chunk.count(b"\n") for chunk in _chunks(file, offset))
            raise DataError(
                f"{self.path}, line {number}: cannot be read any more ({error}), but could be when the file was opened; put "
                "it right and start again"
            ) from None
        return fit_tools(task)[0]

    def _read(self, value: Any, index: int) -> Iterable[Task]:
        return (row_to_task(value, self._tools),)


MAX_ROW_DEPTH: Final = 100
"""Deepest nesting of a row; values of calls, which models write, may have `cahl_pl.parsing.MAX_DEPTH` of it."""


def _depth(value: Any) -> int:
    """Return how deep lists and objects are nested; without recursion, since that is what a deep value would exhaust."""
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, (dict, list))]:
        depth += 1
        level = [child for item in level for child in (item.values() if isinstance(item, dict) else item)]
    return depth


def _chunks(file: BinaryIO, length: int) -> Iterator[bytes]:
    """Yield the first so many bytes of a file, piece by piece."""
    while length > 0 and (chunk := file.read(min(length, 1 << 20))):
        length -= len(chunk)
        yield chunk


def _stamp(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


def task_to_row(task: Task) -> dict[str, Any]:
    """Return a task as a row of JSON lines; `row_to_task` gives the same task back."""
    row: dict[str, Any] = {
        "id": task.id,
        "messages": [{"role": message.role, "content": message.content} for message in task.messages],
        "tools": [
            {
                "type": "function",
                "function": {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)},
            }
            for tool in task.tools
        ],
        "gold": [_gold_to_row(call) for call in task.gold],
    }
    optional = {
        "ordered": task.ordered,
        "answer": task.answer,
        "state": task.state,
        "outcome": None if task.outcome is None else _outcome_to_row(task.outcome),
        "tags": dict(task.tags),
    }
    return row | {name: value for name, value in optional.items() if value not in (False, None, {})}


def _gold_to_row(call: GoldCall) -> dict[str, Any]:
    row: dict[str, Any] = {"name": call.name, "arguments": dict(call.arguments)}
    if call.result is not None:
        row["result"] = call.result
    return row | ({"references": dict(call.references)} if call.references else {})


def _outcome_to_row(outcome: Outcome) -> dict[str, Any]:
    return {"results": list(outcome.results)} | ({} if outcome.state is None else {"state": outcome.state})


def row_to_task(row: Any, tools: tuple[ToolSpec, ...] | None = None) -> Task:
    """Return the task of a row.

    Args:
        row: the row's JSON value.
        tools: the tools of rows that have none of their own.

    Raises:
        DataError: naming the field at fault.
    """
    name = get_field(row, "id", str)
    _refuse_unknown(row, _FIELDS)
    if _depth(row) > MAX_ROW_DEPTH:
        raise DataError(
            f"its values are nested more than {MAX_ROW_DEPTH} deep, which what copies and writes them cannot take"
        )
    outcome = None if row.get("outcome") is None else _outcome(get_field(row, "outcome", dict))
    # whoever has outcomes need not have traces
    untraced = outcome is not None and row.get("gold") is None
    gold = () if untraced else tuple(_each(row, "gold", "call", _gold_call))
    tags = _optional(row, "tags", dict, {})
    if not all(isinstance(value, str) for value in tags.values()):
        raise DataError("the field 'tags' must hold text only")
    return Task(
        name,
        _messages(row),
        _tools(row, tools),
        gold,
        ordered=_optional(row, "ordered", bool, False),
        answer=_optional(row, "answer", str, None),
        state=_optional(row, "state", dict, None),
        outcome=outcome,
        tags={"kind": "outcome" if untraced else kind_of_gold(gold)} | tags,
    )


def _outcome(row: Mapping[str, Any]) -> Outcome:
    if unknown := set(row) - {"results", "state"}:
        raise DataError(f"the field 'outcome' has no part {sorted(unknown)[0]!r}; its parts are results and state")
    return Outcome(tuple(_optional(row, "results", list, [])), _optional(row, "state", dict, None))


def _optional(row: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    return default if row.get(name) is None else get_field(row, name, kind)


def _refuse_unknown(row: Mapping[str, Any], known: tuple[str, ...]) -> None:
    # A field that is misspelt would otherwise be taken for one that is left out.
    unknown = next((name for name in row if name not in known), None)
    if unknown is not None:
        raise DataError(f"there is no field {unknown!r}; the fields are {', '.join(known)}")


def _each(row: Any, field: str, noun: str, read: Callable[[Any, int], Any]) -> list[Any]:
    """Return what `read(item, number)` gives for each item of a list; numbers count from 1 and stand in messages."""
    found = []
    for number, item in enumerate(get_field(row, field, list), start=1):
        try:
            found.append(read(item, number))
        except DataError as error:
            raise DataError(f"the field {field!r}, {noun} {number}: {error}") from None
    return found


def _messages(row: Any) -> tuple[Message, ...]:
    messages = tuple(_each(row, "messages", "message", _message))
    if not messages or messages[-1].role not in ("user", "tool"):
        raise DataError("the field 'messages' must end with a user's message or a tool's answer")
    return messages


def _message(row: Any, number: int) -> Message:
    role = get_field(row, "role", str)
    if role not in _MESSAGE_ROLES or (role == "system" and number > 1):
        raise DataError(f"the role {role!r} must be one of {', '.join(_MESSAGE_ROLES)}, and system only comes first")
    calls = _each(row, "tool_calls", "call", _history_call) if row.get("tool_calls") else []
    if calls and role != "assistant":
        raise DataError(f"only an assistant has tool_calls, not the role {role!r}")
    content = _optional(row, "content", str, "") if calls else get_field(row, "content", str)
    parts = [content] * bool(content) + [history_text(calls)] * bool(calls)
    return Message(cast(Literal["system", "user", "assistant", "tool"], role), "\n".join(parts) if calls else content)


def _history_call(row: Any, number: int) -> ToolCall:
    function = get_field(row, "function", dict)
    name, arguments = get_field(function, "name", str), function.get("arguments")
    if isinstance(arguments, str):  # as OpenAI writes them
        arguments = parse_json(arguments)
    return ToolCall(name, get_field({"arguments": arguments}, "arguments", dict))


def _gold_call(row: Any, number: int) -> GoldCall:
    name, arguments = get_field(row, "name", str), get_field(row, "arguments", dict)
    _refuse_unknown(row, _CALL_FIELDS)
    references = _optional(row, "references", dict, {})
    earlier = [f"${i}" for i in range(1, number)]
    for parameter, reference in references.items():
        if parameter not in arguments or reference not in earlier:
            raise DataError(
                f'the reference of {parameter!r} must be the number of an earlier call, such as "$1", and the parameter '
                "must be among the arguments, with the value that it had"
            )
    return GoldCall(name, arguments, row.get("result"), references)


def _tools(row: Mapping[str, Any], default: tuple[ToolSpec, ...] | None) -> tuple[ToolSpec, ...]:
    if row.get("tools") is None:
        if default is None:
            raise DataError("the field 'tools' is missing; a module of Python functions can stand in for it")
        return default
    by_name = {tool.name: tool for tool in default or ()}

    def read(item: Any, number: int) -> ToolSpec:
        if not isinstance(item, str):
            return _tool(json.dumps(get_field(item, "function", dict)))
        if item not in by_name:
            raise DataError(f"no function is named {item!r}; there are: {', '.join(by_name) or 'none'}")
        return by_name[item]

    return tuple(_each(row, "tools", "tool", read))


@lru_cache(maxsize=1024)  # rows share tools, and a schema takes long to check and to compile
def _tool(text: str) -> ToolSpec:
    function = json.loads(text)
    schema = {"type": "object", "properties": {}} if function.get("parameters") is None else function["parameters"]
    tool = ToolSpec(get_field(function, "name", str), _optional(function, "description", str, ""), schema)
    if not (isinstance(schema, dict) and schema.get("type") == "object" and _is_plain(schema)):
        try:
            check_tool(tool, "schema")
        except SchemaError as error:
            raise DataError(str(error)) from None
    return tool


_TYPES = ("string", "integer", "number", "boolean", "array", "object", "null")


def _is_plain(schema: Any) -> bool:
    """Return whether a schema has common keywords alone, as they must be: the slow `check_tool` would pass."""
    if not isinstance(schema, dict):
        return False
    for key, value in schema.items():
        if key == "type":
            plain = isinstance(value, str) and value in _TYPES
        elif key in ("description", "title"):
            plain = isinstance(value, str)
        elif key == "enum":
            plain = isinstance(value, list)
        elif key == "required":
            plain = isinstance(value, list) and all(isinstance(n, str) for n in value) and len(set(value)) == len(value)
        elif key == "items":
            plain = _is_plain(value)
        elif key == "properties":
            plain = isinstance(value, dict) and all(map(_is_plain, value.values()))
        else:
            plain = key == "default"
        if not plain:
            return False
    return True
