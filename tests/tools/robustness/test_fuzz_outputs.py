"""The fuzzer finds what it is for: it passes now, and stops at a reward that leaves its range or raises."""

from __future__ import annotations

import json

import pytest

from cahl_pl.rewards import ToolN1Reward
from tools.robustness import fuzz_outputs


def test_hostile_outputs_are_read_and_scored():
    scorer, slowest = fuzz_outputs.fuzz(1500, seed=0, report=lambda line: None)
    assert min(scorer.read.values()) > 20  # mutations leave enough of them readable
    assert scorer.high["executor"] == 1.0
    assert scorer.low["toolrl"] == -3.0
    assert 0 < slowest < 200


@pytest.mark.parametrize("defect", [lambda self, components: 1.5, lambda self, components: 1 / 0])
def test_a_defect_stops_it_and_keeps_the_output(tmp_path, monkeypatch, defect):
    monkeypatch.setattr(ToolN1Reward, "total", defect)
    with pytest.raises(SystemExit, match=r"^error: output 0: (ValueError: tool_n1 is 1\.5|ZeroDivisionError)"):
        fuzz_outputs.main(["--outputs", "5", "--failure", str(tmp_path / "failure.txt")])
    assert isinstance(json.loads((tmp_path / "failure.txt").read_text()), str)
