"""A user's own requests, whose right calls are unknown: the input of `predict`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from cahl_pl.datasets.base import TaskSource
from cahl_pl.datasets.file_kinds import LOOKED_AT, foreign_kind
from cahl_pl.datasets.jsonl import row_to_task
from cahl_pl.datasets.rows import get_field, parse_json, read_rows
from cahl_pl.environments.acknowledging import AcknowledgingEnvironment
from cahl_pl.environments.base import Environment
from cahl_pl.environments.executable import ExecutableEnvironment
from cahl_pl.environments.mcp_config import is_server_file
from cahl_pl.environments.mcp_tools import McpEnvironment, McpTools
from cahl_pl.environments.python_tools import PythonTools
from cahl_pl.errors import DataError
from cahl_pl.errors.encodings import decoded
from cahl_pl.schema.blanks import is_blank
from cahl_pl.schema.wording import kind_word
from cahl_pl.types import Task, ToolSpec

KIND: Final = "request"
"""Tag `kind` of a task whose gold is not known. For other tasks, no gold means that no tool is needed."""

_FIELDS = ("id", "request", "messages", "tools", "state")


class Requests(TaskSource):
    """Requests without reference calls: their episodes are shown and recorded, but neither successes nor failures.

    A line of a file is a request as JSON text, or an object with `request` (text) or `messages` (the dialogue so far, as in
    docs/your-data.md), and optionally `id`, `tools` and `state`. All are read at once and held in memory.

    Args:
        source: a file, if it ends with `.jsonl` or `.json`, or with `.txt` and exists (one request per line); otherwise the
            text of one request.
        tools: the tools of requests that do not bring their own: a Python file or module, see `PythonTools`, a `.json`
            file that names MCP servers, see `McpEnvironment`, or one with a list of tools as in OpenAI's chat API. A line may
            also list some of them by name.
        environment: environment that answers the calls. If None, the functions or servers of `tools` do; if tools are only
            described, nothing runs and a call that its schema allows is answered with `{"status": "ok"}`.

    Attributes:
        environment: the same, never None.

    Raises:
        DataError: the file is missing or empty, a line of it cannot be used, or there are no tools.
        ConfigError: the module of tools cannot be used.
    """

    def __init__(self, source: str, tools: str | None = None, environment: Environment | None = None) -> None:
        specs: tuple[ToolSpec, ...] | None = None
        runnable: set[str] | None = None  # where a module answers
        if tools is not None and is_server_file(tools):
            specs = McpTools(tools).specs
            if environment is None:
                environment, runnable = McpEnvironment(tools), {tool.name for tool in specs}
        elif tools is not None and tools.endswith(".json"):
            specs = _read_tools(tools)
        elif tools is not None:
            module = PythonTools(tools)
            specs = module.specs
            if environment is None:
                environment, runnable = ExecutableEnvironment(module), {tool.name for tool in specs}
        self.environment = environment or AcknowledgingEnvironment()
        self._tasks: list[Task] = []
        names: set[str] = set()
        for where, value in _values(source):
            try:
                task = _task(value, f"request-{len(self._tasks) + 1}", specs)
                if task.id in names:
                    raise DataError(f"the id {task.id!r} appears twice")
                strangers = [tool.name for tool in task.tools if runnable is not None and tool.name not in runnable]
                if strangers:
                    raise DataError(
                        f"{tools} has no function {strangers[0]!r}; list its functions by name, or give "
                        "data.requests.init_args.environment what runs the tool"
                    )
            except DataError as error:
                raise DataError(f"{where}: {error}") from None
            names.add(task.id)
            self._tasks.append(task)
        if not self._tasks:
            raise DataError(f"{source}: there is no request in the file; write one a line")

    def __len__(self) -> int:
        return len(self._tasks)

    def __getitem__(self, index: int) -> Task:
        return self._tasks[index]


def _values(source: str) -> Iterable[tuple[str, Any]]:
    """Yield the place of each request, and its JSON value."""
    if source.endswith(".txt") and os.path.isfile(source):
        yield from _lines(source)
        return
    # a request may end with a file's name: text that contains a space and is no existing file is a request
    named = source.endswith((".jsonl", ".json")) and (os.path.isfile(source) or not any(map(str.isspace, source)))
    if not named:
        if os.path.isfile(source):
            raise DataError(f"{source}: this is a file; requests stand in .txt, .jsonl or .json, one a line")
        yield "the request", source
        return
    for row in read_rows(source):
        if row.fault is not None:
            raise DataError(f"{row.where}: {row.fault}; correct the line")
        yield row.where, row.value


def _lines(path: str) -> Iterable[tuple[str, Any]]:
    """Return the lines of a text file that are not blank."""
    try:
        lines = decoded(Path(path).read_bytes(), path).splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    yield from ((f"{path}, line {number}", line) for number, line in enumerate(lines, start=1) if line.strip())


def _task(value: Any, name: str, tools: tuple[ToolSpec, ...] | None) -> Task:
    row = {"request": value} if isinstance(value, str) else value
    if not isinstance(row, Mapping):
        raise DataError(f"a request must be text or an object, not {kind_word(value)}")
    if unknown := [field for field in row if field not in _FIELDS]:
        raise DataError(
            f"a request has no field {unknown[0]!r}, only {', '.join(_FIELDS)}; tasks with known calls belong in data.test"
        )
    if ("request" in row) == ("messages" in row):
        raise DataError("give either the field 'request' or the field 'messages'")
    messages = row.get("messages")
    if "request" in row:
        messages = [{"role": "user", "content": get_field(row, "request", str)}]
    if tools is None and row.get("tools") is None:
        raise DataError(
            "there are no tools; give data.requests.init_args.tools a Python file of functions or a .json file of tools"
        )
    given = {field: row[field] for field in ("tools", "state") if field in row}
    task = row_to_task({"id": row.get("id", name), "messages": messages, "gold": [], **given}, tools)
    if is_blank(task.request):
        raise DataError("the request is empty; write what is to be done")
    return replace(task, tags={"kind": KIND})


def _read_tools(path: str) -> tuple[ToolSpec, ...]:
    try:
        data = Path(path).expanduser().read_bytes()
    except OSError as error:
        raise DataError(f"{path}: the tools cannot be read ({error.strerror}); correct the path") from None
    foreign = foreign_kind(path, data[:LOOKED_AT])
    if foreign is not None:
        raise DataError(f"{path}: {foreign}")
    text = decoded(data, path)
    try:
        value = parse_json(text)
        messages = [{"role": "user", "content": ""}]
        return row_to_task({"id": "tools", "messages": messages, "gold": [], "tools": value}).tools
    except DataError as error:
        raise DataError(f"{path}: {error}; give a list of tools as in OpenAI's chat API, or MCP servers") from None
