"""What the measurement of decoding steps says: both ways in turns, on the same prompts, to the same tokens."""

from __future__ import annotations

import json
import sys

import cahl_pl.engines.local as engine_code
from cahl_pl.policy.folded_attention import folded_attention
from tools.speed import measure_decoding


def test_steps_are_timed_from_one_draw_to_the_next(policy):
    seconds, found = measure_decoding.steps_of(policy, [[5, 6, 7, 8]], 2, 5, "plain")
    longest = max(len(completion.ids) for (group,) in [found] for completion in group)
    assert len(seconds) == longest - 2  # between draws, without the first one, which ends with the prompts' logits
    assert all(second > 0 for second in seconds)
    assert engine_code.folded_attention is folded_attention
    assert "logits" in type(policy).__dict__


def test_both_ways_are_measured_and_written(tmp_path, monkeypatch, capsys):
    sizes = {"layers": 2, "width": 32, "heads": 4, "key-heads": 2, "prompts": 2, "length": 20, "samples": 2, "new": 6}
    words = [word for name, size in sizes.items() for word in (f"--{name}", str(size))]
    monkeypatch.setattr(sys, "argv", ["x", *words, "--repeats", "1", "--out", str(tmp_path / "out.json")])
    measure_decoding.main()
    printed = capsys.readouterr().out
    assert "| folded | " in printed
    assert "same tokens: yes" in printed
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["same_tokens"] is True
    assert written["ratio"] == written["ms"]["plain"]["median"] / written["ms"]["folded"]["median"]
