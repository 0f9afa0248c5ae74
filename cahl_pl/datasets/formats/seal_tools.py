"""Seal-Tools (arXiv 2405.08355): requests with several gold calls, some using an earlier call's result."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cahl_pl.datasets.loading import FileTasks, OnContradiction
from cahl_pl.datasets.rows import get_field, read_rows
from cahl_pl.datasets.task_parts import kind_of_gold, object_schema, offer_tools
from cahl_pl.datasets.type_names import type_schema
from cahl_pl.errors import DataError
from cahl_pl.types import GoldCall, Message, Task, ToolSpec


class SealToolsDataset(FileTasks):
    """Tasks from Seal-Tools: rows `{"id", "query", "calling": [{"api", "parameters", "responses"}]}`.

    The data contain no real results: `responses` are labels, `["API_call_0", ...]`, one for each value that the
    tool returns. They are stored as the gold call's result. An argument that is such a label, of an earlier
    call, is a reference to it (`GoldCall.references`); `"API_call_0 response"`, which occurs in a few rows,
    is read as the label. The order of the calls matters (`ordered`) if there is a reference. The
    tag `kind` is `single`, `multiple` or `nested` (with references).

    Args:
        path: the requests, JSON lines.
        tools_path: `tool.jsonl`, all tools of the data set.
        num_distractors: number of tools offered besides those of the gold calls. They and the order of the tools
            are drawn by `seed` and the row's id, so that a row looks the same in any file.
        seed: seed of that draw.
        on_contradiction: what to do with rows whose gold breaks their own schema: `relax` the schema there,
            or `drop` the row.
        strict: raise on the first row that cannot be read, instead of dropping it.

    Raises:
        DataError: a file cannot be read, a tool is malformed, or no row can be used; with `strict`, also a
            row that cannot be read.
        ValueError: `num_distractors` is below 0.
    """

    def __init__(
        self,
        path: str | Path,
        tools_path: str | Path,
        num_distractors: int = 4,
        seed: int = 0,
        on_contradiction: OnContradiction = "relax",
        strict: bool = False,
    ) -> None:
        if num_distractors < 0:
            raise ValueError(f"num_distractors must be 0 or more, not {num_distractors}")
        super().__init__(path, seal_tools_reader(tools_path, num_distractors, seed), on_contradiction, strict)


def seal_tools_reader(tools_path: str | Path, num_distractors: int = 4, seed: int = 0) -> Callable[[Any, int], Task]:
    """Return a reader of a row's task; the arguments are those of `SealToolsDataset`.

    Raises:
        DataError: the file of tools cannot be read, or a tool is malformed.
    """
    tools = _read_tools(tools_path)

    def read(row: Any, index: int) -> Task:
        name = get_field(row, "id", str)
        messages = (Message("user", get_field(row, "query", str)),)
        gold = _gold(get_field(row, "calling", list))
        kind = kind_of_gold(gold)
        offered = offer_tools(tools, (call.name for call in gold), num_distractors, random.Random(f"{seed}/{name}"))
        return Task(name, messages, offered, gold, ordered=kind == "nested", tags={"kind": kind})

    return read


def _read_tools(path: str | Path) -> Mapping[str, ToolSpec]:
    tools: dict[str, ToolSpec] = {}
    for row in read_rows(path):
        try:
            if row.fault is not None:
                raise DataError(row.fault)
            tool = _tool(row.value)
            if tool.name in tools:
                raise DataError(f"the tool {tool.name!r} appears twice")
        except DataError as error:
            raise DataError(f"{row.where}: {error}; correct the row") from None
        tools[tool.name] = tool
    return tools


def _tool(row: Any) -> ToolSpec:
    parameters, required = get_field(row, "parameters", dict), get_field(row, "required", list)
    if not all(isinstance(name, str) and name in parameters for name in required):
        raise DataError("the field 'required' must list names of declared parameters")
    properties = {}
    for name in parameters:
        declared = get_field(parameters, name, dict)
        properties[name] = {
            **type_schema(declared.get("type")),
            "description": str(declared.get("description", "")),
        }
    return ToolSpec(
        get_field(row, "api_name", str),
        get_field(row, "api_description", str),
        object_schema(properties, required),
    )


_LABEL = re.compile(r"(API_call_\d+)(?: response)?", re.ASCII)


def _gold(calling: list[Any]) -> tuple[GoldCall, ...]:
    gold: list[GoldCall] = []
    owner: dict[str, int] = {}  # label -> number of the call that returns it, from 1
    for number, call in enumerate(calling, start=1):
        try:
            name, responses = get_field(call, "api", str), get_field(call, "responses", list)
            arguments = dict(get_field(call, "parameters", dict))
            references = {}
            for parameter, value in arguments.items():
                label = _LABEL.fullmatch(value) if isinstance(value, str) else None
                if label is not None:
                    if label[1] not in owner:
                        raise DataError(f"the parameter {parameter!r} is {label[1]}, which no earlier call returns")
                    references[parameter] = f"${owner[label[1]]}"
                    arguments[parameter] = label[1]
        except DataError as error:
            raise DataError(f"the field 'calling', call {number}: {error}") from None
        gold.append(GoldCall(name, arguments, responses, references))
        owner |= {label: number for label in responses if isinstance(label, str)}
    return tuple(gold)
