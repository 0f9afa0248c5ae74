"""What plans are paid, beside what they are worth: a small measurement of the shipped model."""

from __future__ import annotations

from cahl_pl.toolworld import ToolWorld
from tools.quality.measure_credit import ADVANTAGES, CREDITS, measure


def test_a_small_measurement():
    world = ToolWorld("train", 3, seed=1)
    found = measure([world[i] for i in range(3)], executions=6, repeats=2, seed=0)
    assert [len(row) for row in found["worth"]] == [4, 4, 4]
    assert all(0 <= value <= 1 for row in found["worth"] for value in row)
    for name in CREDITS:
        row = found[name]
        assert abs(row["bias"]) < 0.2
        assert row["variance"] >= 0
        assert set(row["cosine"]) == set(ADVANTAGES)
        assert row["cosine"]["none"] > 0.5
