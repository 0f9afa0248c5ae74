"""What StartSummary prints and writes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from cahl_pl.callbacks import StartSummary
from cahl_pl.datamodule import RolloutDataModule
from cahl_pl.datasets import LoadReport
from cahl_pl.environments import RecordedEnvironment
from cahl_pl.toolworld import ToolWorld


@pytest.fixture
def trainer(tmp_path):
    train = ToolWorld(size=20)
    train.report = LoadReport(
        "rows.json", ["a"] * 15, [("b", "no tool 'x'")], [(f"row {i}", "no gold") for i in range(4)]
    )
    data = RolloutDataModule(train, RecordedEnvironment(), test={"held_out": ToolWorld("test", 3)}, tasks_per_round=8)
    return SimpleNamespace(datamodule=data, is_global_zero=True, loggers=[], default_root_dir=str(tmp_path / "run"))


def test_counts_are_printed_and_every_row_is_written(trainer, policy, capsys, tmp_path):
    StartSummary(show=2).on_fit_start(trainer, SimpleNamespace(policy=policy))
    lines = capsys.readouterr().out.splitlines()
    assert "(qwen2), none quantization" in lines[0]
    assert lines[2:] == [
        "round      8 tasks x 2 plans x 4 outputs a step, 3 rounds an epoch",
        "train      rows.json: 15 rows kept, 1 with a relaxed schema, 4 dropped",
        "  relaxed b: no tool 'x'",
        "  dropped row 0: no gold",
        "  and 3 more, named in data.txt in the run's folder",
        "held_out   3 tasks",
    ]
    planner = sum(p.numel() for p in policy.parameters_of("planner"))
    assert f"planner {planner:,}, executor {planner:,} parameters (LoRA rank 4)" in lines[1]
    assert "dropped row 3: no gold" in (tmp_path / "run" / "data.txt").read_text()


def test_only_the_first_process_speaks(trainer, policy, capsys):
    trainer.is_global_zero = False
    StartSummary().on_fit_start(trainer, SimpleNamespace(policy=policy))
    assert capsys.readouterr().out == ""
