"""Type hints as JSON Schema, whatever the version of transformers."""

from __future__ import annotations

from enum import Enum
from typing import Any, Literal, Optional

import pytest

from cahl_pl.environments.type_hints import schema_of

INTEGER, STRING = {"type": "integer"}, {"type": "string"}


class Unit(Enum):
    KM = "km"


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
        (tuple[int, str], {"type": "array", "prefixItems": [INTEGER, STRING]}),
        (list[dict[str, int]], {"type": "array", "items": {"type": "object", "additionalProperties": INTEGER}}),
        (Literal["a", "b"], {"type": "string", "enum": ["a", "b"]}),
        (Literal["a", 1], {"type": ["string", "integer"], "enum": ["a", 1]}),
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


@pytest.mark.parametrize(
    "hint", [complex, set, set[int], Unit, dict[int, str], tuple[int, ...], list[complex], int | complex, Literal[b"a"]]
)
def test_what_json_does_not_have_is_refused(hint):
    with pytest.raises(TypeError, match="has no JSON Schema"):
        schema_of(hint)
