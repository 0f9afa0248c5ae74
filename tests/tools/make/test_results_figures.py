"""The figure and the table of the results, from runs that are made here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cahl_pl.errors import ConfigError
from tools.make import results_figures
from tools.make.results_figures import bootstrap, collect, draw, smoothed, solved, table

TAGS = {"tools/calls_per_success": 1.5, "tools/invalid_rate": 0.1, "tools/redundant_rate": 0.0}


def run(text, unseen="0101"):
    return {
        "tokens": [100, 200, 300],
        "success": [0.1, 0.2, 0.6],
        "training": {"steps": 6, "tokens": 300_000},
        "solved": {"test": text, "test_unseen_tools": unseen},
        "test": TAGS,
    }


SYSTEMS = {
    "start": {"0": run("1000")},
    "freeze_high": {"0": run("1000"), "1": run("1100")},
    "joint": {"0": run("1111"), "1": run("1110")},
}


def test_the_interval_is_over_seeds_and_tasks(monkeypatch):
    assert bootstrap(np.ones((3, 20))) == (1.0, 1.0)
    by_seed = np.array([[1.0] * 50, [0.0] * 50])  # seeds alone differ: both drawn alike in half of the draws
    assert bootstrap(by_seed) == (0.0, 1.0)
    by_task = np.array([[1.0] * 50 + [0.0] * 50] * 2)  # tasks alone: a mean of 0.5 with a deviation of 0.05
    low, high = bootstrap(by_task)
    assert low == pytest.approx(0.4, abs=0.015)
    assert high == pytest.approx(0.6, abs=0.015)
    assert bootstrap(by_task, by_task) == (0.0, 0.0)  # the same tasks are drawn for both


def test_running_mean_by_hand():
    assert smoothed(np.array([[1.0, 2.0, 6.0]]), 3).tolist() == [[1.5, 3.0, 4.0]]


def test_the_table_has_the_best_first_and_says_how_far_others_are():
    lines = table(SYSTEMS).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| joint", "| freeze_high", "| start"]
    assert "87.5 [" in lines[2]
    assert "100.0, 75.0" in lines[2]
    assert "-50.0 [" in lines[3]
    assert "| 1.50 | 10.0 | 0.0 | 300k |" in lines[3]
    assert solved(SYSTEMS["joint"], "test").tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]


def test_the_figure_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(results_figures, "IMAGES", tmp_path / "images")
    assert draw("small", SYSTEMS).stat().st_size > 10_000


def test_runs_are_read_from_their_folders(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    folder = tmp_path / "joint-3" / "quickstart" / "version_0"
    writer = SummaryWriter(str(folder))
    for step in range(4):  # both roles' steps of a round log its tokens, the first its success
        writer.add_scalar("rollout/tokens", 100 + step // 2, step)
        if step % 2 == 0:
            writer.add_scalar("task/success", 0.25 * step, step)
    writer.close()
    details = {"test": {"before": {"task/success": 0.5}, "after": TAGS, "solved": "10"}}
    (folder / "summary.json").write_text(json.dumps({"details": {**details, "training": {"steps": 4, "tokens": 203}}}))
    (found,) = collect(tmp_path)["joint"].values()
    assert found["tokens"] == [100, 201]
    assert found["success"] == [0.0, 0.5]
    assert found["solved"] == {"test": "10"}
    with pytest.raises(ConfigError, match="holds no finished run"):
        collect(tmp_path / "none")


def test_systems_that_imitate_or_are_only_tested_are_read_too(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    folder = tmp_path / "supervised-0" / "version_0"
    writer = SummaryWriter(str(folder))
    writer.add_scalar("planner/warm_start/loss", 0.5, 1)
    writer.close()
    details = {"test": {"before": None, "after": TAGS, "solved": "11"}, "training": {"steps": 4, "tokens": 90}}
    (folder / "summary.json").write_text(json.dumps({"details": details}))
    (tmp_path / "low_only-0" / "version_0").mkdir(parents=True)
    tested = {**{f"test/{tag}": value for tag, value in TAGS.items()}, "solved": {"test": "01"}}
    (tmp_path / "low_only-0" / "version_0" / "test.json").write_text(json.dumps(tested))
    found = collect(tmp_path)
    assert found["supervised"]["0"]["success"] == []
    assert found["low_only"]["0"]["solved"] == {"test": "01"}
    assert [line.split(" | ")[:2] for line in table(found).splitlines()[2:]] == [
        ["| supervised", "100.0 [100.0, 100.0]"],
        ["| low_only", "50.0 [0.0, 100.0]"],
    ]


def test_runs_are_stored_beside_others_or_in_their_place(tmp_path, monkeypatch):
    monkeypatch.setattr(results_figures, "DATA", tmp_path / "data")
    monkeypatch.setattr(results_figures, "collect", lambda folder: {folder.name: {"1": run("11")}})
    results_figures.store("small", "joint,start", {"joint": {"2": run("10"), "1": run("00")}})
    stored = json.loads((tmp_path / "data" / "small.json").read_text())
    assert {name: list(runs) for name, runs in stored.items()} == {"joint": ["1", "2"], "start": ["1"]}
    assert stored["joint"]["1"]["solved"]["test"] == "11"
    monkeypatch.setattr("sys.argv", ["results_figures", "--collect", "small=start"])
    monkeypatch.setattr(results_figures, "draw", lambda world, systems: world)
    results_figures.main()
    assert list(json.loads((tmp_path / "data" / "small.json").read_text())) == ["start"]
    monkeypatch.setattr("sys.argv", ["results_figures", "--add", "small=joint"])
    results_figures.main()
    assert list(json.loads((tmp_path / "data" / "small.json").read_text())) == ["joint", "start"]


def test_runs_on_other_tasks_are_not_compared(tmp_path, monkeypatch):
    monkeypatch.setattr(results_figures, "collect", lambda folder: {"start": {"0": run("110")}})
    monkeypatch.setattr(results_figures, "DATA", tmp_path / "data")
    with pytest.raises(ConfigError, match="joint-1 was tested on 2 tasks of 'test' and start-0 on 3"):
        results_figures.store("small", "start", {"joint": {"1": run("10")}})
    assert not (tmp_path / "data").exists()


def test_what_is_stored_makes_a_table(monkeypatch):
    root = Path(__file__).resolve().parents[3]
    monkeypatch.setattr(results_figures, "DRAWS", 20)
    for path in sorted((root / results_figures.DATA).glob("*.json")):
        systems = json.loads(path.read_text(encoding="utf-8"))
        assert len(table(systems).splitlines()) == len(systems) + 2


def test_a_folder_without_runs_is_one_sentence(tmp_path):
    command = [sys.executable, "-m", "tools.make.results_figures", "--add", f"small={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert done.returncode == 2
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("error: ")
