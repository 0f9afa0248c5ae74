from __future__ import annotations

from typing import Any

import pytest

from cahl_pl.datasets.type_names import type_schema


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("str", {"type": "string"}),
        (" String ", {"type": "string"}),
        ("str, optional", {"type": "string"}),
        ("int, Optional", {"type": "integer"}),
        ("float", {"type": "number"}),
        ("bool, optional", {"type": "boolean"}),
        ("List", {"type": "array"}),
        ("List[int]", {"type": "array", "items": {"type": "integer"}}),
        (
            "typing.List[List[float]], optional",
            {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
        ),
        ("List[Union[int, float]]", {"type": "array", "items": {"type": ["integer", "number"]}}),
        ("List[Any]", {"type": "array"}),
        ("Tuple[float, float]", {"type": "array", "items": {"type": "number"}}),
        ("Tuple[int, ...]", {"type": "array", "items": {"type": "integer"}}),
        ("Tuple[str, int]", {"type": "array"}),
        ("Dict[str, List[int]]", {"type": "object"}),
        ("dict", {"type": "object"}),
        ("Optional[int]", {"type": ["integer", "null"]}),
        (
            "Union[int, List[int]]",
            {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "integer"}}]},
        ),
        (["string", "null"], {"type": ["string", "null"]}),
        ("Callable[[float], float]", {}),
        ("Any", {}),
        ("Union[int, Any]", {}),
        ("List[int", {"type": "array"}),
        ("int[3]", {}),
        ("", {}),
        (None, {}),
        ([], {}),
        ({"type": "int"}, {}),
        ("List[" * 10_000 + "int" + "]" * 10_000, None),
        ([[[[[[[[[[["int"]]]]]]]]]]], {}),
    ],
)
def test_types_in_free_text(text: Any, expected: dict[str, Any] | None) -> None:
    schema = type_schema(text)
    if expected is not None:
        assert schema == expected
