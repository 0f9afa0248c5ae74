"""Type hints as JSON Schema."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from enum import Enum
from typing import Any, Literal, NamedTuple, NotRequired, Optional, TypedDict

import pytest

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
