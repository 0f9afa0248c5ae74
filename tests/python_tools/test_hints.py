"""Type hints and docstrings' types as people write them, as JSON Schema and as values."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import (
    Annotated,
    Any,
    ClassVar,
    Final,
    NotRequired,
    Optional,
    Required,
    Self,
    TypedDict,
    Union,
    Unpack,
)

import pytest
from pydantic import Field

from cahl_pl.errors import ArgumentError
from cahl_pl.python_tools.arguments import Parameters
from cahl_pl.python_tools.docstrings import read_docstring
from cahl_pl.python_tools.hints import hint_in_docstring

JSON = Union[dict[str, "JSON"], list["JSON"], str, int, float, bool, None]  # noqa: UP007
Tree = dict[str, "Tree"] | int
Even = dict[str, "Odd"]
Odd = list["Even"]


class Options(TypedDict, total=False):
    city: Required[str]
    days: int


class Strict(TypedDict):
    city: Annotated[str, "Which."]
    days: NotRequired[int]


@dataclass
class Point:
    x: float
    dims: ClassVar[int] = 2
    name: Final[str] = "p"
    next: Optional[Self] = None  # noqa: UP045

    def nearer(self, other: Self) -> bool:
        return self.x < other.x


def of(function: Any) -> Parameters:
    parameters = Parameters(function, read_docstring(function.__doc__))
    assert parameters.faults == []
    json.dumps(parameters.schema, allow_nan=False)
    return parameters


def test_an_alias_that_holds_itself():
    def keep(value: JSON) -> Any:
        return value

    found = of(keep)
    alternatives = found.schema["properties"]["value"]["anyOf"]
    assert {"type": "array", "items": {"$ref": "#/$defs/JSON"}} in alternatives
    assert found.schema["$defs"]["JSON"]["anyOf"][0] == {"type": "object", "additionalProperties": {"$ref": "#/$defs/JSON"}}
    value = {"a": [1, "x", None, {"b": 2.5}]}
    assert found.call(keep, {"value": value}, None) == value


def test_aliases_that_hold_one_another():
    def count(tree: Tree, even: Even) -> Any:
        return tree, even

    found = of(count)
    assert found.call(count, {"tree": {"a": {"b": "3"}}, "even": {"x": [{}]}}, None) == ({"a": {"b": 3}}, {"x": [{}]})
    with pytest.raises(ArgumentError, match="tree"):
        found.call(count, {"tree": {"a": {"b": "c"}}, "even": {}}, None)


def test_final_and_class_variables():
    def shift(by: Final[int] = 3, point: Point = Point(1.0)) -> Any:  # noqa: B008
        return by, point.next.name

    found = of(shift)
    assert found.schema["properties"]["by"] == {"type": "integer", "default": 3}
    point = found.schema["$defs"]["Point"]["properties"]
    assert set(point) == {"x", "name", "next"}
    assert found.call(shift, {"by": "4", "point": {"x": 1, "next": {"x": 2, "name": "q"}}}, None) == (4, "q")


def test_self_is_the_class():
    found = of(Point(1.0).nearer)
    assert found.schema["$defs"]["Point"]["required"] == ["x"]


def test_keys_of_options_are_parameters():
    def find(limit: int = 5, **options: Unpack[Options]) -> Any:
        """Find.

        Args:
            city: Where.
        """
        return limit, options

    found = of(find)
    assert found.schema == {
        "type": "object",
        "properties": {
            "limit": {"type": "integer", "default": 5},
            "city": {"type": "string", "description": "Where."},
            "days": {"type": "integer"},
        },
        "required": ["city"],
    }
    assert found.call(find, {"city": "Oslo", "days": "3"}, None) == (5, {"city": "Oslo", "days": 3})
    assert found.call(find, {"city": "Oslo"}, None) == (5, {"city": "Oslo"})
    with pytest.raises(ArgumentError, match="parameter 'city': field required"):
        found.call(find, {"days": 3}, None)
    with pytest.raises(ArgumentError, match="parameter 'town'"):
        found.call(find, {"city": "Oslo", "town": 1}, None)


@pytest.mark.parametrize("options", [Options, Strict])
def test_required_keys_of_a_typed_dict(options):
    def find(options):
        return options

    find.__annotations__["options"] = options
    found = of(find)
    assert found.schema["properties"]["options"]["required"] == ["city"]
    assert found.call(find, {"options": {"city": "Oslo"}}, None) == {"city": "Oslo"}
    with pytest.raises(ArgumentError, match=r"options\.city"):
        found.call(find, {"options": {"days": 1}}, None)


def test_remarks_within_types_are_descriptions():
    def f(
        a: Annotated[int, "How many."] | None = None,
        b: Annotated[list[Annotated[int, Field(ge=0), "One."]], "All."] = [],  # noqa: B006
        c: dict[str, Annotated[str, "Each."]] = {},  # noqa: B006
        d: Strict | None = None,
    ) -> None:
        pass

    properties = of(f).schema["properties"]
    assert properties["a"]["description"] == "How many."
    assert properties["b"]["description"] == "All."
    assert properties["b"]["items"] == {"type": "integer", "minimum": 0, "description": "One."}
    assert properties["c"]["additionalProperties"]["description"] == "Each."
    assert properties["d"]["properties"]["city"]["description"] == "Which."


def test_defaults_that_json_does_not_have_are_left_out():
    def f(
        a: float = math.nan,
        b: list[float] = [1.0, math.inf],  # noqa: B006
        c: Point = Point(math.inf),  # noqa: B008
        d: Annotated[float, Field()] = Field(default=-math.inf),
        e: float = 1.5,
    ) -> Any:
        return a, b, c, e

    found = of(f)
    assert {name for name, part in found.schema["properties"].items() if "default" in part} == {"e"}
    a, b, c, e = found.call(f, {}, None)
    assert math.isnan(a)
    assert (b, c.x, e) == ([1.0, math.inf], math.inf, 1.5)


def schema_of_text(text: str) -> Any:
    def f(x):
        pass

    f.__doc__ = f"F.\n\nParameters\n----------\nx : {text}\n    X.\n"
    schema = dict(of(f).schema["properties"]["x"])
    schema.pop("description")
    return schema


TEXTS = {
    "list(str)": {"type": "array", "items": {"type": "string"}},
    "List(int)": {"type": "array", "items": {"type": "integer"}},
    "dict(str, int)": {"type": "object", "additionalProperties": {"type": "integer"}},
    "array_like": {"type": "array"},
    "array-like": {"type": "array"},
    "array-like of shape (n,)": {"type": "array"},
    "numpy.ndarray": {"type": "array"},
    "np.array": {"type": "array"},
    "ndarray": {"type": "array"},
    "float32": {"type": "number"},
    "uint8": {"type": "integer"},
    "{'a', 'b'}": {"type": "string", "enum": ["a", "b"]},
    '{"a", "b"}, optional': {"type": "string", "enum": ["a", "b"]},
    "{1, 2, 3}": {"type": "integer", "enum": [1, 2, 3]},
    "{True, False}": {"type": "boolean", "enum": [True, False]},
    "int or None": {"type": ["integer", "null"]},
    "list of dict": {"type": "array", "items": {"type": "object"}},
    "str or list of str, optional": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
    "list[str]|None": {"type": ["array", "null"], "items": {"type": "string"}},
}


@pytest.mark.parametrize("text", TEXTS)
def test_types_of_docstrings(text):
    assert schema_of_text(text) == TEXTS[text]


@pytest.mark.parametrize("text", ["a thing", "{a, b}", "open('x')", "__import__('os')", "list(open('x'))", "int()", "{}"])
def test_what_is_no_type_in_a_docstring_is_none(text):
    assert hint_in_docstring(text, {}) is None
