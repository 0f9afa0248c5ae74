"""Values that a model may write and that break naive code."""

from __future__ import annotations

from typing import Any

import pytest


def deep_list(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


HOSTILE = {
    "nan": float("nan"),
    "infinity": float("-inf"),
    "huge int": 10**5000,
    "huge int in a list": [10**5000],
    "deep": deep_list(50_000),
    "lone surrogate": "\ud800",
    "digits": "9" * 10_000,
    "exponent": "1e999",
    "deep json": "[" * 50_000 + "]" * 50_000,
    "open json": "[" * 50_000,
    "json nan": "[NaN]",
    "nul": "\x00",
    "none": None,
    "empty": "",
    "wide": [None] * 10_000,
}


@pytest.fixture(params=HOSTILE.values(), ids=HOSTILE.keys())
def hostile(request: pytest.FixtureRequest) -> Any:
    return request.param
