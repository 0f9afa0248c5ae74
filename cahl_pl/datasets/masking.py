"""Function masking (Hammer, arXiv 2410.04587): meaningless names, so that descriptions have to be read."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Iterator, Mapping
from dataclasses import replace
from random import Random
from typing import Any

from cahl_pl.datasets.base import TaskSource
from cahl_pl.datasets.rows import parse_json
from cahl_pl.datasets.task_parts import history_text
from cahl_pl.errors import ConfigError, DataError
from cahl_pl.types import GoldCall, Message, Task, ToolCall, ToolSpec

_LENGTH = 8
_PLAIN = {"type", "properties", "required", "additionalProperties", "title", "description"}
_CALLS = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)


class MaskedNames(TaskSource):
    """Tasks, a share of which have their tools and parameters renamed to random strings.

    The new names appear in the tools, in the gold calls and their references, and in the calls and answers of the
    dialogue so far. Descriptions and requests stay as they are. Which tasks are renamed, and how, depends on the seed and
    the index alone. Parameters of a schema with keywords that refer to several parameters at once, such as `allOf` or
    `$defs`, keep their names.

    Args:
        tasks: the tasks.
        share: share of tasks to rename, 0 to 1.
        seed: seed of the draw.

    Raises:
        ConfigError: `share` is out of range, or the first task has a `state`: an executable environment runs tools by
            the names that it knows. A later task with a state raises when it is drawn.
    """

    def __init__(self, tasks: TaskSource, share: float = 0.5, seed: int = 0) -> None:
        if not 0 <= share <= 1:
            raise ConfigError(f"MaskedNames.share must be from 0 to 1, not {share}")
        self.tasks, self.share, self.seed = tasks, share, seed
        self.report, self.fingerprint = tasks.report, tasks.fingerprint
        if len(tasks):
            _refuse_state(tasks[0])

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, index: int) -> Task:
        task = self.tasks[index]
        _refuse_state(task)
        draw = Random(f"{self.seed}/{index % len(self)}")
        return mask_names(task, draw) if draw.random() < self.share else task


def mask_names(task: Task, draw: Random) -> Task:
    """Return the task with new names of tools and parameters, drawn by `draw`; see `MaskedNames`."""
    new = _new_names(task, draw)
    names = {tool.name: next(new) for tool in task.tools}
    parameters = {tool.name: {name: next(new) for name in _maskable(tool)} for tool in task.tools}

    def call(old: ToolCall) -> ToolCall:
        return ToolCall(names.get(old.name, old.name), _renamed(old.arguments, parameters.get(old.name, {})))

    def way(calls: tuple[GoldCall, ...]) -> tuple[GoldCall, ...]:
        return tuple(
            replace(
                gold,
                name=names.get(gold.name, gold.name),
                arguments=_renamed(gold.arguments, parameters.get(gold.name, {})),
                references=_renamed(gold.references, parameters.get(gold.name, {})),
            )
            for gold in calls
        )

    return replace(
        task,
        messages=tuple(_message(message, names, call) for message in task.messages),
        tools=tuple(_tool(tool, names[tool.name], parameters[tool.name]) for tool in task.tools),
        gold=way(task.gold),
        alternatives=tuple(map(way, task.alternatives)),
    )


def _refuse_state(task: Task) -> None:
    if task.state is not None:
        raise ConfigError(
            f"MaskedNames cannot rename the tools of task {task.id!r}: it has a state, so its tools are run by their names; "
            "leave MaskedNames out for executable tasks"
        )


def _new_names(task: Task, draw: Random) -> Iterator[str]:
    taken = {tool.name for tool in task.tools}
    taken.update(name for tool in task.tools for name in _maskable(tool))
    while True:
        name = "".join(draw.choices(string.ascii_lowercase, k=_LENGTH))
        if name not in taken:
            taken.add(name)
            yield name


def _maskable(tool: ToolSpec) -> list[str]:
    schema = tool.parameters
    return list(schema.get("properties", {})) if schema.keys() <= _PLAIN else []


def _renamed(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in values.items()}


def _tool(tool: ToolSpec, name: str, parameters: Mapping[str, str]) -> ToolSpec:
    schema = dict(tool.parameters)
    if "properties" in schema:
        schema["properties"] = _renamed(schema["properties"], parameters)
    if "required" in schema:
        schema["required"] = [parameters.get(old, old) for old in schema["required"]]
    return replace(tool, name=name, parameters=schema)


def _message(message: Message, names: Mapping[str, str], call: Any) -> Message:
    text = message.content
    if message.role == "assistant":
        text = _CALLS.sub(lambda block: _block(block, call), text)
    elif message.role == "tool":
        for old, new in names.items():  # answers name the tool as a JSON string
            text = text.replace(json.dumps(old, ensure_ascii=False), json.dumps(new))
    return replace(message, content=text)


def _block(block: re.Match[str], call: Any) -> str:
    """Return the calls between two tags under their new names; unchanged if they cannot be read."""
    calls = []
    for line in block[1].strip().split("\n"):
        try:
            value = parse_json(line)
        except DataError:
            return block[0]
        if not (isinstance(value, dict) and isinstance(value.get("name"), str)):
            return block[0]
        arguments = value.get("parameters")
        calls.append(call(ToolCall(value["name"], arguments if isinstance(arguments, dict) else {})))
    return history_text(calls)
