"""What one evaluation counts, and where."""

from __future__ import annotations

import pytest
import torch.distributed as dist

from cahl_pl.benchmarks.evaluation import Evaluation
from cahl_pl.benchmarks.runs import efficiency
from cahl_pl.metrics import ToolUse


@pytest.fixture
def as_nccl(tmp_path, monkeypatch):
    """A group of one process that takes nothing from the host, as NCCL's; its barrier is its own."""
    dist.init_process_group("cuda:gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    monkeypatch.setattr(dist, "barrier", lambda *args, **kwargs: None)
    yield
    dist.destroy_process_group()


def test_records_of_one_process_are_added_up_without_the_others(as_nccl):
    metric = ToolUse()
    metric.update([{"trajectories": 1}])
    with pytest.raises(RuntimeError, match="No backend type associated with device type cpu"):
        metric.compute()
    record = {"counts": {"trajectories": 1, "calls": 2}, "tokens": 5, "seconds": 1.0}
    values = efficiency([record, record])
    assert values["tools/calls_per_task"] == 2
    assert values["tokens_per_task"] == 5


def test_counts_lie_on_the_device_on_which_processes_add_up():
    evaluation = Evaluation(None, ["a", "b"], device="meta")
    assert [metric.counts.device.type for metric in evaluation.metrics.values()] == ["meta", "meta"]
    assert Evaluation(None, ["a"]).metrics["a"].counts.device.type == "cpu"
