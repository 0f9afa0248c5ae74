from __future__ import annotations

import numpy as np
import pytest

from cahl_pl.rewards.similarity import call_similarity, similarity_matrix
from cahl_pl.types import ToolCall, ToolSpec

GOLD = ToolCall("f", {"a": 1, "b": "x"})


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (GOLD, 1.0),
        (ToolCall("f", {"b": "x", "a": 1.0}), 1.0),
        (ToolCall("g", {"a": 1, "b": "x"}), 0.0),
        (ToolCall("f", {}), 1 / 3),
        (ToolCall("f", {"a": 2, "b": "y"}), (1 + 1 + 0) / 3),
        (ToolCall("f", {"a": True, "b": "x"}), (1 + 1 + 1 / 2) / 3),
        (ToolCall("f", {"a": 1}), (1 + 1 / 2 + 1 / 2) / 3),
        (ToolCall("f", {"a": 1, "b": "x "}), (1 + 1 + 1 / 2) / 3),  # the tool sees the blank
        (ToolCall("f", {"a": 1, "b": "x", "c": 0, "d": 0}), (1 + 1 / 2 + 1 / 2) / 3),  # surplus costs what missing does
        (ToolCall("f", {"a": 1, "c": "x"}), (1 + 1 / 3 + 1 / 2) / 3),
    ],
)
def test_call_similarity(call, expected):
    assert call_similarity(call, GOLD) == pytest.approx(expected)


def test_calls_without_parameters():
    assert call_similarity(ToolCall("f", {}), ToolCall("f", {})) == 1.0
    assert call_similarity(ToolCall("f", {"a": 1}), ToolCall("f", {})) == pytest.approx(1 / 3)
    assert call_similarity(ToolCall("f", {}), ToolCall("f", {"a": 1})) == pytest.approx(1 / 3)


def test_matrix_coerces_both_sides():
    tool = ToolSpec("f", "", {"type": "object", "properties": {"a": {"type": "integer"}}})
    matrix = similarity_matrix(
        [ToolCall("f", {"a": "1"}), None], [ToolCall("f", {"a": 1}), ToolCall("f", {"a": "2"})], [tool]
    )
    np.testing.assert_allclose(matrix, [[1, 2 / 3], [0, 0]])
    assert similarity_matrix([], [GOLD], []).shape == (0, 1)
    assert similarity_matrix([GOLD, None], [], []).shape == (2, 0)
