"""tau-bench (arXiv 2406.12045): instructions for a user, the list of gold actions, and tools that run on a database.

The tasks are a Python file, `tau_bench/envs/retail/tasks_train.py`, and the tools are next to it, `tools/*.py`. Both are
read as text: neither is run. Their functions answer in training with tau-bench installed and
`data.environment: cahl_pl.environments.ExecutableEnvironment`, `toolkit: cahl_pl.datasets.formats.tau_bench.retail`.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from cahl_pl.datasets.formats.base import single_format
from cahl_pl.datasets.rows import FileRow, get_field
from cahl_pl.datasets.task_parts import kind_of_gold
from cahl_pl.datasets.tool_forms import read_tools
from cahl_pl.errors import ConfigError, DataError
from cahl_pl.errors.encodings import decoded
from cahl_pl.types import GoldCall, Message, Task


def is_one(row: dict[str, Any]) -> bool:
    """Return whether a row has an instruction and actions."""
    return isinstance(row.get("instruction"), str) and isinstance(row.get("actions"), list)


def task(row: dict[str, Any], name: str) -> Task:
    """Return the task of a row `{"instruction", "actions": [{"name", "kwargs"}], "outputs", "tools"}`, its actions in order.

    Raises:
        DataError: naming the field at fault.
    """
    gold = []
    for number, action in enumerate(get_field(row, "actions", list), start=1):
        try:
            gold.append(GoldCall(get_field(action, "name", str), get_field(action, "kwargs", dict)))
        except DataError as error:
            raise DataError(f"the field 'actions', action {number}: {error}") from None
    outputs = row.get("outputs") or []
    answer = None if gold or not outputs else "; ".join(map(str, outputs))
    messages = (Message("user", get_field(row, "instruction", str)),)
    tools = read_tools(row.get("tools"))
    return Task(
        name, messages, tools, tuple(gold), ordered=len(gold) > 1, answer=answer, tags={"kind": kind_of_gold(gold)}
    )


def python_rows(path: str | Path) -> Iterator[FileRow]:
    """Return the tasks of a Python file as rows, each with the tools next to it.

    Raises:
        DataError: the file or a tool next to it cannot be read, or it contains no list of tasks.
    """
    path = Path(path).expanduser()
    tools = list(_tools(path.parent / "tools"))
    found = False
    for node in ast.walk(_parsed(path)):
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.List):
            for item in node.value.elts:
                if isinstance(item, ast.Call) and _name(item) == "Task":
                    found = True
                    yield _row(path, item, tools)
    if not found:
        raise DataError(
            f"{path}: there is no list of Task(...); give tau-bench's tasks.py, tasks_train.py or tasks_test.py"
        )


def _row(path: Path, call: ast.Call, tools: list[Any]) -> FileRow:
    where = f"{path}, line {call.lineno}"
    try:
        value = {word.arg: _value(word.value) for word in call.keywords if word.arg is not None}
    except ValueError as error:
        return FileRow(call.lineno, where, None, f"not plain values: {error}")
    return FileRow(call.lineno, where, value | {"tools": tools}, None)


def _value(node: ast.expr) -> Any:
    """Return the value of an expression of literals and of `Action(...)`. Raises ValueError for anything else."""
    if isinstance(node, ast.Call) and _name(node) == "Action":
        return {word.arg: _value(word.value) for word in node.keywords if word.arg is not None}
    if isinstance(node, ast.List):
        return [_value(item) for item in node.elts]
    return ast.literal_eval(node)


def _name(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")


def _parsed(path: Path) -> ast.Module:
    try:
        return ast.parse(decoded(path.read_bytes(), path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give a file of tau-bench's tasks") from None
    except DataError:
        raise
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise DataError(f"{path}: this is no Python file that can be read ({type(error).__name__})") from None


def _tools(folder: Path) -> Iterator[Any]:
    """Return what `get_info` returns in each file of the folder."""
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder; tau-bench's tools stand beside its tasks")
    for path in sorted(folder.glob("*.py")):
        for node in ast.walk(_parsed(path)):
            if isinstance(node, ast.FunctionDef) and node.name == "get_info":
                returned = next((one.value for one in node.body if isinstance(one, ast.Return)), None)
                try:
                    yield ast.literal_eval(returned) if returned is not None else None
                except ValueError:
                    raise DataError(f"{path}, line {node.lineno}: what get_info returns is no plain value") from None


def retail(state: Mapping[str, Any] | None) -> Mapping[str, Callable[..., Any]]:
    """Return the functions of the shop, on a fresh copy of its database; a toolkit of `ExecutableEnvironment`."""
    return _functions("retail")


def airline(state: Mapping[str, Any] | None) -> Mapping[str, Callable[..., Any]]:
    """Return the functions of the airline, on a fresh copy of its database; a toolkit of `ExecutableEnvironment`."""
    return _functions("airline")


def _functions(domain: str) -> Mapping[str, Callable[..., Any]]:
    try:
        tools = importlib.import_module(f"tau_bench.envs.{domain}.tools").ALL_TOOLS
        data = importlib.import_module(f"tau_bench.envs.{domain}.data").load_data()
    except ImportError as error:
        raise ConfigError(
            f"tau-bench's tools cannot be imported ({error}): clone github.com/sierra-research/tau-bench and pip install -e it"
        ) from None
    return {tool.get_info()["function"]["name"]: partial(tool.invoke, data) for tool in tools}


FORMAT = single_format(is_one, task)
