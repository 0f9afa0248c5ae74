"""xlam-function-calling-60k (APIGen, arXiv 2406.18518), and data sets in its format, such as xlam-irrelevance-7.5k."""

from __future__ import annotations

from typing import Any

from cahl_pl.datasets.declared_values import read_value
from cahl_pl.datasets.gold_calls import read_gold
from cahl_pl.datasets.rows import get_field
from cahl_pl.datasets.task_parts import kind_of_gold
from cahl_pl.datasets.tool_forms import read_tools
from cahl_pl.errors import DataError
from cahl_pl.types import Message, Task


def xlam_task(row: Any, name: str) -> Task:
    """Return the task of a row `{"query", "tools", "answers"}`; tools and answers are JSON texts or lists.

    Tools are `{"name", "description", "parameters": {name: {"description", "type", "default"}}}`, types in free text. A
    parameter is required unless its type says `optional`, it has a default, or its `required` says otherwise; parameters may
    also be JSON Schema (`read_tool`). The gold calls are parallel: `ordered` is False. Empty answers mean that no tool fits.

    Args:
        row: the row.
        name: the task's id.

    Raises:
        DataError: naming the field at fault.
    """
    query = get_field(row, "query", str)
    tools = read_tools(row.get("tools"), lenient=True)
    gold = read_gold(_parsed(row.get("answers")), tools, "answers")
    return Task(name, (Message("user", query),), tools, gold, tags={"kind": kind_of_gold(gold)})


def _parsed(value: Any) -> Any:
    try:
        return read_value(value) if isinstance(value, str) else value
    except DataError as error:
        raise DataError(f"the field 'answers': {error}") from None
