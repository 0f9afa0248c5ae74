"""What the lines of a run with several processes say."""

from __future__ import annotations

from tools.robustness import measure_processes


def test_the_summary_tells_the_largest_differences():
    lines = [
        {"step": 1, "role": "planner", "apart": 0.0, "gradient": {"difference": 1e-8, "largest": 0.5}},
        {"step": 2, "role": "executor", "apart": 2e-7, "gradient": {"difference": 3e-8, "largest": 0.25}},
        {"step": 3, "role": "planner", "apart": 0.0, "gradient": None},
    ]
    assert measure_processes.summary(lines).splitlines() == [
        "3 steps; gradients compared in 2",
        "adapters of the processes apart by at most 2e-07",
        "gradients apart by at most 3e-08; their largest entries lie between 0.25 and 0.5",
    ]
