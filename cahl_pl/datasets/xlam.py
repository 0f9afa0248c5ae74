"""xlam-function-calling-60k (APIGen, arXiv 2406.18518), and what has its format, such as xlam-irrelevance-7.5k."""

from __future__ import annotations

from typing import Any

from cahl_pl.datasets.rlla import flat_property
from cahl_pl.datasets.rows import get_field, parse_json
from cahl_pl.datasets.task_parts import kind_of_gold, object_schema
from cahl_pl.errors import DataError
from cahl_pl.types import GoldCall, Message, Task, ToolSpec


def xlam_task(row: Any, name: str) -> Task:
    """Return the task of a row `{"query", "tools", "answers"}`; tools and answers are JSON texts, or lists already.

    Tools are `{"name", "description", "parameters": {name: {"description", "type", "default"}}}`, types in free text. A
    parameter is required unless its type says `optional` or it has a default. The gold calls are parallel: `ordered` is
    False. Empty answers mean that no tool fits.

    Args:
        row: the row.
        name: becomes the task's id.

    Raises:
        DataError: naming the field at fault.
    """
    query = get_field(row, "query", str)
    tools = tuple(_read(row, "tools", _tool))
    gold = tuple(_read(row, "answers", _gold))
    return Task(name, (Message("user", query),), tools, gold, tags={"kind": kind_of_gold(gold)})


def _read(row: Any, field: str, read: Any) -> list[Any]:
    try:
        value = parse_json(row[field]) if isinstance(row.get(field), str) else row.get(field)
        return [read(item) for item in get_field({field: value}, field, list)]
    except DataError as error:
        raise DataError(f"the field {field!r}: {error}") from None


def _tool(tool: Any) -> ToolSpec:
    declared = get_field(tool, "parameters", dict)
    properties = {name: flat_property(get_field(declared, name, dict)) for name in declared}
    required = [name for name in declared if "default" not in declared[name] and not _is_optional(declared[name])]
    return ToolSpec(
        get_field(tool, "name", str), str(tool.get("description") or ""), object_schema(properties, required)
    )


def _is_optional(declared: dict[str, Any]) -> bool:
    return "optional" in str(declared.get("type", "")).lower()


def _gold(call: Any) -> GoldCall:
    return GoldCall(get_field(call, "name", str), get_field(call, "arguments", dict))
