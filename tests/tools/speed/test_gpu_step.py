"""The program that measures a real GPU, tried on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tools.speed import gpu_step

ROOT = Path(__file__).resolve().parents[3]


def test_every_work_has_its_figures(tmp_path, monkeypatch, capsys):
    out = tmp_path / "small.json"
    monkeypatch.setattr(sys, "argv", ["gpu_step", "--small", "--device", "cpu", "--out", str(out)])
    gpu_step.main()
    result = json.loads(out.read_text())
    assert result["model"] == "small"
    assert [row["name"] for row in result["rows"]] == [
        "sample planner, end",
        "sample executor, end",
        "sample executor, usual lengths",
        "update planner, long prompts",
        "update executor, long prompts",
        "update executor, one row",
        "update executor, usual lengths",
    ]
    for row in result["rows"]:
        assert row["tokens_per_second"] * row["seconds"] == pytest.approx(row["tokens"])
        assert row["tokens"] > 0
        assert ("step" in row) == row["name"].startswith("sample")
        assert 0 <= row.get("step", 0) < row["seconds"]
        assert 0 < row["counted_gib"] < row["planned_gib"]
    shown = capsys.readouterr().out
    assert "| update executor, one row |" in shown
    assert "| - |" in shown  # no CUDA memory here


def test_the_script_is_one():
    assert subprocess.run(["bash", "-n", "tools/speed/gpu_check.sh"], cwd=ROOT, check=False).returncode == 0
