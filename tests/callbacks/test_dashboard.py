"""What Dashboard writes, read back from the event file of a real fit on the tiny model."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from cahl_pl.callbacks import Dashboard
from cahl_pl.cli import main

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "quickstart.yaml"


@pytest.fixture
def run(tiny_model, tmp_path, monkeypatch):
    """Fits the tiny model for four steps, two rounds of both roles; gives the events."""

    def fit(*arguments: str) -> EventAccumulator:
        monkeypatch.setattr(sys, "argv", ["cahl_pl"])
        monkeypatch.chdir(tmp_path)
        small = {
            "trainer.max_steps": 4,
            "model.policy.model": tiny_model,
            "data.tasks_per_round": 2,
            "data.rollout.planner.max_new_tokens": 6,
            "data.rollout.executor.max_new_tokens": 6,
            "data.test": "null",
        }
        cli = main(["-c", str(CONFIG), *(f"--{k}={v}" for k, v in small.items()), *arguments], run=False)
        cli.trainer.callbacks = [Dashboard(every_n_rounds=1)]
        cli.trainer.fit(cli.model, cli.datamodule)
        events = EventAccumulator(str(tmp_path / "runs" / "quickstart" / "version_0"), {"histograms": 0, "tensors": 0})
        return events.Reload()

    return fit


def test_histograms_of_every_round_that_has_samples(run):
    events = run()
    found = {tag: events.Histograms(tag) for tag in events.Tags()["histograms"]}
    assert {"planner/rewards", "planner/advantages", "planner/lengths"} <= found.keys()
    rewards = found["planner/rewards"]
    assert [event.step for event in rewards] == [1, 3]  # the planner steps first in each round
    assert rewards[0].histogram_value.num == 2 * 4  # tasks x plans
    assert 1 <= found["planner/lengths"][0].histogram_value.max <= 6


def test_the_charts_put_both_roles_side_by_side(run):
    events = run()
    (event,) = events.Tensors("custom_scalars__config__")
    found = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    charts = {chart.title: list(chart.multiline.tag) for category in found.category for chart in category.chart}
    assert charts["reward/mean"] == ["planner/reward/mean$", "executor/reward/mean$"]
    assert "outcome" in charts["executor"][0]


def test_settings_stand_beside_the_final_metrics(run):
    events = run()
    assert "final/success" in events.Tags()["scalars"]
    assert "final/planner/reward" in events.Tags()["scalars"]
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"planner_group_size" in content
    assert b"lora_rank" in content


def test_a_negative_interval_is_refused():
    with pytest.raises(ValueError, match=r"Dashboard\.every_n_rounds is -1"):
        Dashboard(-1)
