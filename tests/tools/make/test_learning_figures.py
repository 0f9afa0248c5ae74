"""The figures of docs/learning.md are drawn from what is stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tools.make import learning_figures

ROOT = Path(__file__).resolve().parents[3]


def test_all_three_are_drawn(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(learning_figures, "IMAGES", tmp_path / "images")
    names = [path.name for path in learning_figures.draw()]
    assert names == ["learning_rounds.png", "learning_credit.png", "learning_paid.png"]
    assert all((tmp_path / "images" / name).stat().st_size > 10_000 for name in names)


def test_running_mean_and_interval_by_hand():
    assert learning_figures.smoothed(np.array([[1.0, 2.0, 6.0]])).tolist() == [[1.5, 3.0, 4.0]]
    # mean of (1, 3): deviation sqrt(2), of the mean 1; t of one degree of freedom: 12.706
    assert learning_figures.interval(np.array([1.0, 3.0])) == pytest.approx(12.706, abs=1e-3)
