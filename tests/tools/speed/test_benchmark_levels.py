"""Systems take turns, each in a process of its own, and everything is written."""

from __future__ import annotations

import json

from tools.speed import benchmark_levels, levels_ratios


def test_systems_take_turns_and_everything_is_written(tmp_path, monkeypatch, capsys):
    jobs = []

    def measure(job, model, options):
        jobs.append((*job, model))
        return {"seconds": 1.0, "generated": 1, "computed": 1, "passes": 1}

    tool, ratios = benchmark_levels, levels_ratios
    monkeypatch.setattr(tool, "measure", measure)
    words = ["--repeats", "2", "--tasks", "4", "--adapters", "alora", "--model", "toolworld"]
    tool.main(["inference", *words, "--out", str(tmp_path / "new" / "levels.json")])
    turn = [(system, "alora", at_once, "toolworld") for at_once in (1, 4) for system in ratios.SYSTEMS["inference"]]
    assert jobs == turn + turn
    content = json.loads((tmp_path / "new" / "levels.json").read_text())
    assert len(content["results"]["alora, 4"][ratios.ONE]) == 2
    assert content["machine"]["threads"] == 1
    assert content["options"]["tasks"] == 4
    assert "planner + executor: 1.000, met; alora, 4, planner + executor, drafts: 1.000, met" in " ".join(
        capsys.readouterr().out.split()
    )
