"""Type hints as JSON Schema."""

from __future__ import annotations

import datetime
import re
import sys
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from enum import Enum, IntFlag
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, Optional, TypedDict

import pytest
from pydantic import BaseModel, Field

from cahl_pl.python_tools.arguments import Parameters
from cahl_pl.python_tools.docstrings import read_docstring
from cahl_pl.python_tools.hints import hint_in_docstring
from cahl_pl.python_tools.schemas import schema_of

INTEGER, STRING = {"type": "integer"}, {"type": "string"}
PAIR = {"left": INTEGER, "right": {"type": "string", "default": ""}}


class Unit(Enum):
    KM = "km"


class Pair(NamedTuple):
    left: int
    right: str = ""


class Generic:
    pass


class Part(TypedDict):
    name: str
    size: NotRequired[int]


def test_keys_that_may_be_missing():
    schema = schema_of(list[Part])["items"]
    assert (schema["properties"], schema["required"]) == ({"name": STRING, "size": INTEGER}, ["name"])


@pytest.mark.parametrize(
    ("hint", "schema"),
    [
        (str, STRING),
        (bool, {"type": "boolean"}),
        (float, {"type": "number"}),
        (list, {"type": "array"}),  # transformers before 5.24 takes a bare list for an object
        (dict, {"type": "object"}),
        (Any, {}),
        (list[int], {"type": "array", "items": INTEGER}),
        (tuple[int, str], {"type": "array", "prefixItems": [INTEGER, STRING], "minItems": 2, "maxItems": 2}),
        (tuple[int, ...], {"type": "array", "items": INTEGER}),
        (set[int], {"type": "array", "items": INTEGER, "uniqueItems": True}),
        (dict[int, str], {"type": "object", "additionalProperties": STRING}),
        (Unit, {"type": "string", "enum": ["km"]}),
        (Unit | None, {"type": ["string", "null"], "enum": ["km", None]}),
        (Decimal, {"type": "number"}),
        (Pair, {"type": "object", "properties": PAIR, "required": ["left"]}),
        (list[Pair], {"type": "array", "items": {"type": "object", "properties": PAIR, "required": ["left"]}}),
        (list[dict[str, int]], {"type": "array", "items": {"type": "object", "additionalProperties": INTEGER}}),
        (Literal["a", "b"], {"type": "string", "enum": ["a", "b"]}),
        (Literal["a", 1], {"enum": ["a", 1]}),
        (int | None, {"type": ["integer", "null"]}),
        (Optional[int], {"type": ["integer", "null"]}),  # noqa: UP045
        (str | int, {"type": ["integer", "string"]}),
        (str | int | None, {"type": ["integer", "string", "null"]}),
        (list | tuple, {"type": "array"}),
        (Literal["a"] | None, {"type": ["string", "null"], "enum": ["a", None]}),
        (
            list[str] | int,
            {"anyOf": [{"type": "array", "items": STRING}, INTEGER]},
        ),  # older ones lose what is in the list
        (list[str] | int | None, {"anyOf": [{"type": "array", "items": STRING}, INTEGER, {"type": "null"}]}),
        (Any | None, {}),
    ],
)
def test_a_type_hint_is_what_json_calls_it(hint, schema):
    assert schema_of(hint) == schema


@pytest.mark.parametrize("hint", [Callable, list[Callable], int | Generic, Generic, re.Match])
def test_what_json_does_not_have_is_refused(hint):
    with pytest.raises(TypeError, match=r"^the type hint .* has no JSON Schema") as error:
        schema_of(hint)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("str", str),
        ("string, optional", str),
        ("int, default 3", int),
        ("list of str", list[str]),
        ("list of floats", list[float]),
        ("Optional[int]", int | None),
        ("str or None", str | None),
        ("{'a', 'b'}, optional", Literal["a", "b"]),
        ("dict[str, Unit]", dict[str, Unit]),
        ("datetime.date", date),
        ("the number of them", None),
        ("print()", None),
        ("__import__('os')", None),
    ],
)
def test_types_in_docstrings(text, hint):
    found = hint_in_docstring(text, {"Unit": Unit, "datetime": datetime})
    assert found == hint


def test_types_of_typing_in_docstrings():
    assert schema_of(hint_in_docstring("List[str]", {})) == {"type": "array", "items": STRING}


class Colour(Enum):
    RED = (255, 0, 0)
    BLUE = (0, 0, 255)


class Access(IntFlag):
    READ = 1
    WRITE = 2


class Loop(TypedDict):
    inner: list["Loop"]  # noqa: UP037


class Chain(NamedTuple):
    name: str
    rest: "Chain | None" = None  # noqa: UP037


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"


def values_of(hint: Any, value: Any) -> Any:
    def tool(x):
        """Take a value."""

    tool.__annotations__ = {"x": hint}
    parameters = Parameters(tool, read_docstring(tool.__doc__))
    assert parameters.faults == []
    return parameters.schema["properties"]["x"], parameters.read({"x": value}).arguments["x"]


def test_an_enum_of_tuples_takes_the_lists_that_json_has_for_them():
    schema, value = values_of(Colour, [0, 0, 255])
    assert schema == {"type": "array", "enum": [[255, 0, 0], [0, 0, 255]]}
    assert value is Colour.BLUE


def test_flags_may_be_combined():
    assert values_of(Access, 3) == ({"type": "integer"}, Access.READ | Access.WRITE)


def test_the_bounds_of_a_decimal_are_those_of_the_schema():
    schema, value = values_of(Annotated[Decimal, Field(gt=0, le=Decimal("9.5"))], 3)
    assert schema == {"type": "number", "exclusiveMinimum": 0, "maximum": 9.5}
    assert value == 3


def test_a_schema_names_nothing_that_is_not_in_it():
    schema, _ = values_of(Annotated[Cat | Dog, Field(discriminator="kind")], {"kind": "dog"})
    assert "$defs" not in str(schema)


@pytest.mark.parametrize("hint", [Loop, Chain] if sys.version_info < (3, 12) else [Chain])
def test_what_holds_itself_and_cannot_be_described_is_one_short_fault(hint):
    with pytest.raises(TypeError) as raised:
        schema_of(hint)
    assert str(raised.value) == (
        f"the type hint {hint.__name__} has no JSON Schema ({hint.__name__} holds itself, which a dataclass or a pydantic "
        "model may: make it one)"
    )
