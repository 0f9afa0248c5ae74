"""Tools of a small shop, each written in another style: what `PythonTools` has to take without an edit."""

from __future__ import annotations

import asyncio
import functools
import typing
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import Path
from typing import Annotated, Any, Dict, List, Literal, NamedTuple, Optional, TypedDict, Union  # noqa: UP035
from uuid import UUID

from pydantic import BaseModel, Field


class Priority(Enum):
    LOW = "low"
    HIGH = "high"


class Level(IntEnum):
    ONE = 1
    TWO = 2


@dataclass
class Address:
    """Where a parcel goes."""

    street: str
    city: str = "Ulm"
    tags: list[str] = field(default_factory=list)


class Item(TypedDict):
    sku: str
    quantity: int


class Point(NamedTuple):
    x: float
    y: float = 0.0


class Line(BaseModel):
    sku: str
    quantity: int


class Order(BaseModel):
    number: int = Field(description="Number of the order.", ge=1)
    items: list[Line]
    priority: Priority = Priority.LOW


class Node(BaseModel):
    name: str
    children: list[Node] = []


def helper(x):
    return x


def google_typed(city, days=1):
    """Look up the weather.

    Args:
        city (str): Name of the city.
        days (int, optional): How many days ahead. Defaults to 1.

    Returns:
        str: A forecast.
    """
    return f"{city} {days + 0}"


def google_arguments(text: str, upper: bool = False) -> str:
    """Shout.

    Arguments:
        text: What to say,
            in one or more lines.
        upper: Whether in capitals.
    """
    return text.upper() if upper else text


def numpy_style(values, mode="mean"):
    """Summarise numbers.

    Parameters
    ----------
    values : list of float
        The numbers.
    mode : {'mean', 'sum'}, optional
        What to compute.

    Returns
    -------
    float
        The summary.
    """
    return sum(values) / (len(values) if mode == "mean" else 1)


def sphinx_style(a, b):
    """Add two numbers.

    :param a: The first number.
    :type a: int
    :param int b: The second number.
    :return: The sum.
    :rtype: int
    """
    return a + b


def sphinx_mixed(where: Optional[str] = None) -> str:  # noqa: UP045
    """Say where.

    :param where (Optional[str]): The place.
    """
    return where or "nowhere"


def epydoc_style(n: int) -> int:
    """Double.

    @param n: the number
    """
    return 2 * n


def one_line(a: int, b: int) -> int:
    """Multiply two numbers."""
    return a * b


def enum_value(priority: Priority) -> str:
    """File a ticket."""
    return priority.value


def int_enum(level: Level = Level.ONE) -> Level:
    """Choose a level."""
    return Level(level + 0)


def literal(unit: Literal["km", "mile"]) -> str:
    """Name a unit."""
    return unit


def day_after(day: date) -> date:
    """Return the next day."""
    return day + timedelta(days=1)


def hours_between(start: datetime, end: datetime) -> float:
    """Count hours."""
    return (end - start).total_seconds() / 3600


def alarm(at: time) -> time:
    """Set an alarm."""
    return at.replace(second=0)


def price(net: Decimal) -> Decimal:
    """Add the tax."""
    return net * Decimal("1.19")


def by_id(order: UUID) -> str:
    """Find an order."""
    return order.hex


def suffix(path: Path) -> str:
    """Return the ending of a file."""
    return path.suffix


def ship(to: Address) -> Address:
    """Ship a parcel."""
    return Address(to.street.title(), to.city, ["sent"])


def count_items(items: list[Item]) -> int:
    """Count items."""
    return sum(item["quantity"] for item in items)


def move(start: Point, by: Point = Point(1.0)) -> Point:  # noqa: B008
    """Move a point."""
    return Point(start.x + by.x, start.y + by.y)


def place(order: Order) -> Order:
    """Place an order."""
    return order.model_copy(update={"priority": Priority.HIGH})


def depth(tree: Node) -> int:
    """Measure a tree."""
    return 1 + max(map(depth, tree.children), default=0)


def optional_union(key: Union[int, str], note: Optional[str] = None) -> str:  # noqa: UP007, UP045
    """Show the type of a key."""
    return f"{type(key).__name__} {note}"


def unique(words: set[str], order: tuple[int, ...] = ()) -> set[str]:
    """Drop what comes twice."""
    return words | {str(type(order).__name__)}


def nested(table: Dict[str, List[Item]], extra: Mapping[str, Any] = {}) -> Dict[str, int]:  # noqa: UP006
    """Count by key."""
    return {key: len(items) for key, items in table.items()}


def sequence(numbers: Sequence[int], more: Iterable[int] = ()) -> list[int]:
    """Sort numbers."""
    return sorted([*numbers, *more])


def annotated(
    count: Annotated[int, Field(ge=0, le=9, description="How many.")], name: Annotated[str, "Whose."] = "me"
) -> str:
    """Count for somebody."""
    return f"{count} {name}"


def with_field(query: str = Field(description="What to look for."), limit: int = Field(default=3, le=10)) -> str:
    """Search."""
    return f"{query} {limit}"


def variadic(*numbers: float, **options: Any) -> float:
    """Add numbers."""
    return sum(numbers)


def positional(x: int, /, y: int = 2, *, schema: int = 0) -> list[int]:
    """List three numbers."""
    return [x, y, schema]


async def waits(seconds: float) -> str:
    """Wait a little."""
    await asyncio.sleep(seconds)
    return "done"


async def streams(n: int) -> AsyncIterator[int]:
    """Count up, slowly."""
    for i in range(n):
        yield i


def endless() -> Iterator[int]:
    """Count up without an end."""
    n = 0
    while True:
        yield n
        n += 1


def remember(text: str, state: dict[str, Any]) -> int:
    """Keep a note."""
    state.setdefault("notes", deque()).append(text)
    return len(state["notes"])


def as_json(x: int) -> str:
    """Answer in JSON text."""
    return f'{{"x": {x}}}'


def thing() -> object:
    """Return what JSON has no form for."""
    return object()


@functools.cache
def cached(n: int) -> int:
    """Square a number."""
    return n * n


class Shop:
    """A shop with one till."""

    def __init__(self, name: str) -> None:
        self.name = name

    def greet(self, customer: str) -> str:
        """Greet a customer.

        Args:
            customer: Who comes in.
        """
        return f"{self.name} greets {customer}"

    def __call__(self, question: str) -> str:
        """Ask the shop."""
        return f"{self.name}: {question}"


shop = Shop("Corner")
greet = shop.greet
greet_ann: typing.Callable[[], str] = functools.partial(shop.greet, customer="Ann")
times_ten = functools.partial(one_line, 10)
