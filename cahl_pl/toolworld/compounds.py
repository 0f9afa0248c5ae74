"""Tools made of tools: one call instead of a chain of calls.

`get_temperature_by_person(name, via)` looks up a person's city and the temperature there. A compound of certain domains needs
a code, which is only in its schema and differs between tasks: a reader of the tools' names does not know of it, a caller of
the tool has to copy it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

from cahl_pl.toolworld.registry import Parameter, Scalar, State, Tool
from cahl_pl.toolworld.tools import TOOLS

CODED_DOMAINS: Final = ("messages", "travel", "weather")
"""Domains of the last tool of a compound that needs a code."""

CODE: Final = "via"
"""Parameter that takes the code."""

_ALL_PURPOSE: Final = ("message", "word", "integer", "number")  # kinds that accept half of all results


@dataclass(frozen=True, slots=True)
class Link:
    """Tool of a chain, and its parameter that takes the previous tool's result; None for the first."""

    tool: Tool
    feeds: str | None = None


@lru_cache(maxsize=1)
def links() -> tuple[tuple[Tool, Link], ...]:
    """Return which tool's result may be passed to which other's parameter: the links of chains and compounds."""
    return tuple(
        (producer, Link(consumer, name))
        for consumer in TOOLS.values()
        for name, parameter in consumer.parameters.items()
        if parameter.kind is not None and parameter.kind.name not in _ALL_PURPOSE
        for producer in TOOLS.values()
        if producer.asks and producer.stateful and producer is not consumer
        if producer.result.name in parameter.kind.accepts
    )


def compound_id(chain: Sequence[Link]) -> str:
    """Return the id of a compound, such as `contacts.city+weather.temperature:city`."""
    return "+".join(link.tool.id + (f":{link.feeds}" if number else "") for number, link in enumerate(chain))


@lru_cache(maxsize=4096)
def find_tool(tool_id: str) -> Tool:
    """Return the tool or compound with that id.

    Raises:
        KeyError: there is none.
    """
    if "+" not in tool_id:
        return TOOLS[tool_id]
    return _compound([_link(part) for part in tool_id.split("+")])


def places(chain: Sequence[Link]) -> Iterator[tuple[str, int, str]]:
    """Yield each parameter of a compound: its name, and the link and the parameter there that it stands for."""
    taken: set[str] = set()
    for number, link in enumerate(chain):
        for name, parameter in link.tool.parameters.items():
            if number and name == link.feeds:
                continue
            own = parameter.aliases[0]
            own = own if own not in taken else f"{own}_{number + 1}"
            taken.add(own)
            yield own, number, name


def _link(part: str) -> Link:
    tool_id, _, feeds = part.partition(":")
    return Link(TOOLS[tool_id], feeds or None)


def _compound(chain: list[Link]) -> Tool:
    where = list(places(chain))
    first, last = chain[0].tool, chain[-1].tool
    subject = next(iter(first.parameters.values())).kind
    assert subject is not None  # the first tool looks something up
    between = [link.tool.descriptions[0].partition(" of ")[0] for link in chain[-2:0:-1]]
    sources = " of the ".join([*between, first.descriptions[0]])

    def call(state: State, **values: Any) -> Scalar:
        values.pop(CODE, None)  # checked where the code is known
        result: Scalar | None = None
        for number, link in enumerate(chain):
            arguments = {name: values[own] for own, at, name in where if at == number}
            if number:
                arguments[str(link.feeds)] = result
            result = link.tool.function(state, **arguments) if link.tool.stateful else link.tool.function(**arguments)
        assert result is not None
        return result

    parameters = {own: replace(chain[at].tool.parameters[name], aliases=(own,)) for own, at, name in where}
    if last.domain in CODED_DOMAINS:
        parameters[CODE] = Parameter(str, (), None, (CODE,))
    return Tool(
        id=compound_id(chain),
        function=call,
        stateful=True,
        parameters=parameters,
        result=last.result,
        names=(f"{last.names[0]}_by_{subject.name}",),
        descriptions=(f"{last.descriptions[0]} by the {sources}",),
        asks=(),
        orders=(),
        unseen=any(link.tool.unseen for link in chain),
        broad=True,
    )


def is_coded(tool: Tool) -> bool:
    """Return whether the tool is a compound that needs a code."""
    return CODE in tool.parameters and "+" in tool.id


def with_code(parameters: Mapping[str, Any], code: str) -> dict[str, Any]:
    """Return a compound's JSON Schema with the only valid value of its code."""
    properties = {**parameters["properties"], CODE: {"type": "string", "enum": [code]}}
    return {**parameters, "properties": properties}
