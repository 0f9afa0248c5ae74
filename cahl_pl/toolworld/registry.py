"""Registry of tools: a decorator that stores a plain function together with its names and phrasings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

from cahl_pl.toolworld.kinds import Kind

State: TypeAlias = dict[str, Any]
Scalar: TypeAlias = str | int | float | bool
Function = TypeVar("Function", bound=Callable[..., Scalar])


class ToolError(Exception):
    """Refusal by a tool; its text is a short reason for the model to read."""


class MissingEntryError(ToolError):
    """Failure of a look-up.

    Attributes:
        table, key: where the entry would be in the state.
        kind: meaning of the missing entry.
    """

    def __init__(self, table: str, key: str, kind: Kind) -> None:
        super().__init__(f"no {table} for {key}")
        self.table, self.key, self.kind = table, key, kind


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a tool.

    Attributes:
        type: str, int, float or bool.
        choices: the values allowed; empty when any value of the type is.
        kind: meaning of the value; None for a boolean or a choice.
        aliases: the names under which it may be offered.
    """

    type: type
    choices: tuple[str, ...]
    kind: Kind | None
    aliases: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Tool:
    """Tool of the world.

    Attributes:
        id: `domain.function`, unique.
        function: the plain function; a tool with a state takes it as its first argument, `state`.
        stateful: whether it reads or changes the task's state.
        parameters: the function's parameter -> its type, choices, kind and aliases.
        result: the meaning of its result.
        names: the names under which it may be offered.
        descriptions: possible descriptions in a ToolSpec.
        asks: noun phrases for its result, such as "the email of {name}"; empty for a tool that only acts.
        orders: imperative phrases, such as "cancel {event}".
        unseen: whether it is kept out of training and offered in the split `test_unseen_tools` only.
        broad: whether its answer might seem to contain a sibling's, as a city's weather might seem to contain its
            temperature.
    """

    id: str
    function: Callable[..., Scalar]
    stateful: bool
    parameters: Mapping[str, Parameter]
    result: Kind
    names: tuple[str, ...]
    descriptions: tuple[str, ...]
    asks: tuple[str, ...]
    orders: tuple[str, ...]
    unseen: bool
    broad: bool

    @property
    def domain(self) -> str:
        """The module that it is in."""
        return self.id.partition(".")[0]


REGISTRY: dict[str, Tool] = {}


def tool(
    *,
    names: tuple[str, ...],
    parameters: Mapping[str, tuple[str, ...]],
    descriptions: tuple[str, ...],
    asks: tuple[str, ...] = (),
    orders: tuple[str, ...] = (),
    unseen: bool = False,
    broad: bool = False,
) -> Callable[[Function], Function]:
    """Register a function as a tool (see `Tool`); `parameters` gives each parameter's aliases."""

    def register(function: Function) -> Function:
        hints = get_type_hints(function, include_extras=True)
        tool_id = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"
        REGISTRY[tool_id] = Tool(
            id=tool_id,
            function=function,
            stateful="state" in hints,
            parameters={name: _parameter(hints[name], aliases) for name, aliases in parameters.items()},
            result=get_args(hints["return"])[1],
            names=names,
            descriptions=descriptions,
            asks=asks,
            orders=orders,
            unseen=unseen,
            broad=broad,
        )
        return function

    return register


def _parameter(hint: Any, aliases: tuple[str, ...]) -> Parameter:
    if get_origin(hint) is Annotated:
        base, kind = get_args(hint)
        return Parameter(base, (), kind, aliases)
    if get_origin(hint) is Literal:
        return Parameter(str, get_args(hint), None, aliases)
    return Parameter(hint, (), None, aliases)


def lookup(state: State, table: str, key: str, kind: Kind) -> Any:
    """Return the entry `state[table][key]`; `kind` is its meaning.

    Raises:
        MissingEntryError: there is no such entry.
    """
    try:
        return state[table][key]
    except KeyError:
        raise MissingEntryError(table, key, kind) from None
