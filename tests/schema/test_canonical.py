from __future__ import annotations

import time
from typing import Any

import pytest

from cahl_pl.schema import canonical


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (0.0, -0.0),
        ({"a": 1, "b": [2]}, {"b": [2.0], "a": 1.0}),
        ([1, 2], (1, 2)),
        (float("nan"), float("nan")),
        (10**400, 10**400),
        (1e300, int(1e300)),
    ],
)
def test_same_values_have_the_same_canonical_form(one: Any, other: Any) -> None:
    assert canonical(one) == canonical(other)


def test_blanks_can_be_left_out() -> None:
    assert canonical({" a": [" Bern\n"]}, strip=True) == canonical({" a": ["Bern"]}, strip=True)


def test_different_values_have_different_canonical_forms() -> None:
    values = [
        *(1, True, "1", "True", None, "None", [1], {"1": 1}, 1.5, "1.5", "", [], {}, "0x1"),
        *(
            [[]],
            [[], []],
            ["a,b"],
            ["a", "b"],
            ["a", ["b"]],
            {"a": "b"},
            ["a:b"],
            "Bern",
            "bern",
            " Bern",
            "Bern\n",
            2**53,
            2**53 + 1,
        ),
        *(float("nan"), float("inf"), float("-inf"), -1, 0, False, "\ud800", "\udfff", "\\ud800"),
        *({"a": {"b": 1}}, {"a": {}, "b": 1}),
    ]
    assert len({canonical(value) for value in values}) == len(values)


def test_canonical_takes_hostile_values(hostile: Any) -> None:
    assert canonical(hostile) == canonical(hostile)
    assert canonical(hostile) != canonical({"a": hostile})


def test_canonical_takes_linear_time() -> None:
    def seconds(value: Any) -> float:
        times = []
        for _ in range(3):
            start = time.perf_counter()
            canonical(value)
            times.append(time.perf_counter() - start)
        return min(times)

    def nested(depth: int) -> list[Any]:
        value: list[Any] = []
        for _ in range(depth):
            value = [value]
        return value

    # Quadratic time would be 400 times as much, and minutes.
    small, large = nested(10_000), nested(200_000)
    assert seconds(large) < 100 * seconds(small)
    assert seconds(1 << 4_000_000) < 1
