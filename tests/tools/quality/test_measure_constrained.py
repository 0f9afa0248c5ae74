"""The table of grammars at inference: a small run, and the time that is counted."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

pytest.importorskip("llguidance", reason="grammars need llguidance: pip install 'cahl-pl[constrained]'")

from tools.quality import measure_constrained

CONFIG = str(Path(__file__).resolve().parents[3] / "configs" / "quickstart.yaml")


def test_a_small_run_has_a_row_with_grammars_and_one_without(tiny_model, capsys):
    limits = ("--data.rollout.planner.max_new_tokens=40", "--data.rollout.executor.max_new_tokens=8")
    words = ("-c", CONFIG, f"--model.policy.model={tiny_model}", "--model.policy.lora_rank=2", *limits)
    measure_constrained.run(["--tasks", "2", "--repeats", "1", *words])
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [row[0] for row in rows] == [
        "grammar",
        ["---", "---:", "---:", "---:", "---:", "---:", "---:"][0],
        "no",
        "yes",
    ]
    free, held = ([float(value) for value in row[1:]] for row in rows[2:])
    assert free[1] == 100.0  # an untrained model writes no plan
    assert free[5] == 0.0
    assert held[5] > 0.0


def test_the_time_of_some_methods_is_counted_and_the_methods_are_put_back():
    class Slow:
        def wait(self, seconds):
            time.sleep(seconds)
            return seconds

    clock, kept = measure_constrained.Clock(), Slow.wait
    with clock.on((Slow, "wait")):
        assert Slow().wait(0.02) == 0.02
    Slow().wait(0.02)
    assert Slow.wait is kept
    assert 0.02 <= clock.seconds < 0.04 + 1
