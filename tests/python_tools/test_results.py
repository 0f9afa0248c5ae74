from __future__ import annotations

import subprocess
import sys
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from itertools import count
from pathlib import PurePosixPath
from uuid import UUID

import numpy as np
import pytest
import torch
from pydantic import BaseModel

from cahl_pl.python_tools.results import MAX_ITEMS, json_text, plain, result_text


class Colour(StrEnum):
    RED = "red"


@dataclass
class Box:
    colour: Colour
    parts: set[str] = field(default_factory=set)


class Row(BaseModel):
    day: date
    box: Box


class Silent:
    pass


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Colour.RED, "red"),
        (Box(Colour.RED, {"b", "a"}), {"colour": "red", "parts": ["a", "b"]}),
        (
            [Row(day=date(2024, 1, 2), box=Box(Colour.RED))],
            [{"day": "2024-01-02", "box": {"colour": "red", "parts": []}}],
        ),
        (datetime(2024, 1, 2, 3, tzinfo=timezone.utc), "2024-01-02T03:00:00Z"),  # noqa: UP017
        (timedelta(hours=1), "PT1H"),
        (Decimal("1.10"), "1.10"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (PurePosixPath("a/b"), "a/b"),
        (Fraction(1, 3), "1/3"),
        (deque([1, (2, 3)]), [1, [2, 3]]),
        (OrderedDict({1: None, (1, 2): True}), {1: None, "[1, 2]": True}),
        ({3, 1, 2}, [1, 2, 3]),
        ((n * n for n in range(3)), [0, 1, 4]),
        (map(str, [1]), ["1"]),
        (np.float32(0.5), 0.5),
        (np.arange(3), [0, 1, 2]),
        (torch.ones(2), [1.0, 1.0]),
        (b"abc", "abc"),
    ],
)
def test_results_in_jsons_own_types(value, expected):
    assert plain(value) == expected


def test_a_generator_is_read_so_far():
    assert plain(iter(range(MAX_ITEMS))) == list(range(MAX_ITEMS))
    endless = plain({"n": count()})["n"]
    assert endless == [*range(MAX_ITEMS), "..."]


@pytest.mark.parametrize("value", [object(), Silent(), Silent, len, lambda: 1, [{"a": object()}], sys])
def test_what_json_has_no_form_for_is_named(value):
    with pytest.raises(TypeError, match=r"^the tool's result holds something that JSON has no form for: [a-zA-Z_]+$"):
        plain(value)


def test_a_cycle_ends():
    cycle: list = []
    cycle.append(cycle)
    with pytest.raises(RecursionError):
        plain(cycle)


def test_json_text_that_a_tool_has_made_stays():
    assert result_text(' {"a": [1,2]}\n') == '{"a": [1,2]}'
    assert result_text("[see below") == '"[see below"'
    assert result_text("7") == '"7"'
    assert result_text("\ud800") == json_text("\ud800") == '"?"'


def printed(code: str, **variables: str) -> str:
    environment = {"PYTHONPATH": ":".join(sys.path), **variables}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True).stdout


def test_the_order_of_a_set_does_not_depend_on_the_process():
    code = "from cahl_pl.python_tools.results import json_text; print(json_text({'a', 'b', 'c', 'd', 'e'}))"
    assert {printed(code, PYTHONHASHSEED=seed) for seed in "123"} == {'["a", "b", "c", "d", "e"]\n'}


def test_no_torch_is_imported_for_tools():
    code = "import sys, cahl_pl.python_tools.toolkit, cahl_pl.python_tools.awaiting; print('torch' in sys.modules)"
    assert printed(code) == "False\n"
