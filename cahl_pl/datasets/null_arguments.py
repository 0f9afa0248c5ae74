"""Null arguments that the tool does not accept: Hugging Face datasets write them for keys that a row does not have."""

from __future__ import annotations

from collections.abc import Container, Sequence

from cahl_pl.errors import DataError
from cahl_pl.schema import find_problems
from cahl_pl.schema.references import leaves
from cahl_pl.types import ToolCall, ToolSpec


def refuse_nulls(call: ToolCall, tools: Sequence[ToolSpec], referring: Container[str] = ()) -> None:
    """Check that no argument is or contains a null that the tool does not accept and the call could do without.

    Objects of a data set have the keys of all its rows, null if a row has none: `{"city": "Oslo", "order_id": null}`. Such
    a null would be learnt, or count as a parameter that nobody declares.

    Args:
        call: the call.
        tools: the tools offered.
        referring: arguments that are references, which are checked as such.

    Raises:
        DataError: naming the argument.
    """
    tool = next((one for one in tools if one.name == call.name), None)
    if tool is None or not any(value is None for value in leaves(dict(call.arguments))):
        return
    required = tool.parameters.get("required", ())
    for name, value in call.arguments.items():
        if name in referring or (name in required and value is None):  # the latter was meant to be given
            continue
        nulls = [one for one in leaves(value) if one is None]
        if nulls and any(one.parameter == name for one in find_problems(ToolCall(call.name, {name: value}), tools)):
            what = "is null" if value is None else "holds null"
            raise DataError(
                f"the argument {name!r} of {call.name} {what}, which the tool does not take: leave it out (Hugging Face "
                "datasets write null for each key that other rows have), or let the schema take null"
            )
