"""ToolAlpaca (arXiv 2306.05301): a row is an API with its functions, and many instructions with golden answers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from cahl_pl.datasets.call_objects import read_arguments
from cahl_pl.datasets.declared_values import read_value
from cahl_pl.datasets.formats.base import Format
from cahl_pl.datasets.rows import get_field
from cahl_pl.datasets.task_parts import kind_of_gold, object_schema
from cahl_pl.datasets.type_names import type_schema
from cahl_pl.errors import DataError
from cahl_pl.schema.wording import kind_word
from cahl_pl.types import GoldCall, Message, Task, ToolSpec

_PARAMETERS: Final = re.compile(r"^Parameters:\s*(\{.*\})\s*$", re.MULTILINE)
_PARAMETER: Final = re.compile(
    r"\s*(?P<required>Required\.\s*)?(?:Optional\.\s*)?(?P<type>[A-Za-z\[\]{}, ]+?)\.(?:\s|$)"
)


def is_one(row: dict[str, Any]) -> bool:
    """Return whether a row has an API's instructions."""
    return "Instructions" in row and ("Function_Description" in row or "Golden_Answers" in row)


def tasks(row: dict[str, Any], name: str) -> Iterator[Task | DataError]:
    """Return the tasks of an API, one for each instruction with a golden answer; ids are `<name>-instruction-<number, from 1>`.

    A function's description gives each parameter's type and whether it is required; the rest stays text.

    Raises:
        DataError: the row cannot be read. An instruction whose answer cannot be read is yielded as a DataError.
    """
    tools = tuple(_tools(get_field(row, "Function_Description", dict)))
    instructions, answers = get_field(row, "Instructions", list), get_field(row, "Golden_Answers", list)
    if len(instructions) != len(answers):
        raise DataError(f"there are {len(instructions)} of 'Instructions', but {len(answers)} of 'Golden_Answers'")
    for number, (instruction, answer) in enumerate(zip(instructions, answers, strict=True), start=1):
        try:
            if not isinstance(instruction, str):
                raise DataError(f"it must be text, but is {kind_word(instruction)}")
            gold = tuple(_gold(get_field({"Golden_Answers": answer}, "Golden_Answers", list)))
        except DataError as error:
            yield DataError(f"instruction {number}: {error}")
            continue
        kind = kind_of_gold(gold)
        messages = (Message("user", instruction),)
        yield Task(f"{name}-instruction-{number}", messages, tools, gold, ordered=len(gold) > 1, tags={"kind": kind})


def _gold(answer: list[Any]) -> Iterator[GoldCall]:
    for call in answer:
        name, given = get_field(call, "Action", str), call.get("Action_Input")
        if isinstance(given, str) and given.strip().startswith("{"):
            try:
                given = read_value(given)
            except DataError as error:
                raise DataError(f"the field 'Action_Input' of {name}: {error}") from None
        yield GoldCall(name, read_arguments(given, "Action_Input"))


def _tools(described: Mapping[str, Any]) -> Iterator[ToolSpec]:
    for name, text in described.items():
        if name == "components":  # schemas that the descriptions mention
            continue
        if not isinstance(text, str):
            raise DataError(f"the field 'Function_Description': of {name!r} it must be text")
        found = _PARAMETERS.search(text)
        declared = read_value(found[1]) if found else {}
        properties: dict[str, Any] = {}
        required = []
        for parameter, said in declared.items() if isinstance(declared, dict) else ():
            kind = _PARAMETER.match(str(said))
            properties[parameter] = {**type_schema(kind["type"] if kind else None), "description": str(said)}
            if kind and kind["required"]:
                required.append(parameter)
        yield ToolSpec(
            name, text[: found.start()].strip() if found else text.strip(), object_schema(properties, required)
        )


FORMAT = Format(is_one, tasks)
