"""What one evaluation counts, and where."""

from __future__ import annotations

from cahl_pl.benchmarks.evaluation import Evaluation


def test_counts_lie_on_the_device_on_which_processes_add_up():
    evaluation = Evaluation(None, ["a", "b"], device="meta")
    assert [metric.counts.device.type for metric in evaluation.metrics.values()] == ["meta", "meta"]
    assert Evaluation(None, ["a"]).metrics["a"].counts.device.type == "cpu"
