"""What StartSummary prints and writes."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from cahl_pl.callbacks import StartSummary, TokenBudget
from cahl_pl.datamodule import RolloutDataModule
from cahl_pl.datasets import LoadReport
from cahl_pl.environments import RecordedEnvironment
from cahl_pl.memory_plan import GIB, peak, settings_of, shape_of
from cahl_pl.rollout.config import RolloutConfig
from cahl_pl.toolworld import ToolWorld
from tools.quality.check_bases import load
from tools.quality.random_bases import FAMILIES, build


@pytest.fixture
def trainer(tmp_path):
    train = ToolWorld(size=20)
    train.report = LoadReport(
        "rows.json", ["a"] * 15, [("b", "no tool 'x'")], [(f"row {i}", "no gold") for i in range(4)]
    )
    data = RolloutDataModule(
        train,
        RecordedEnvironment(),
        test={"held_out": ToolWorld("test", 3)},
        tasks_per_round=8,
        rollout=RolloutConfig(),  # of its own: tests change it
    )
    folder = str(tmp_path / "run")
    data.trainer = SimpleNamespace(
        datamodule=data,
        is_global_zero=True,
        loggers=[],
        callbacks=[],
        default_root_dir=folder,
        world_size=1,
        max_steps=-1,
        max_epochs=2,
    )
    return data.trainer


@pytest.fixture
def module(policy):
    return SimpleNamespace(policy=policy, max_tokens_per_micro_batch=4096, grpo={})


def test_adapters_to_start_from_are_named(trainer, module, policy, capsys, monkeypatch):
    monkeypatch.setattr(policy.config, "adapters", "runs/pair")
    StartSummary().on_fit_start(trainer, module)
    assert "start      the adapters in runs/pair, but for what a checkpoint holds" in capsys.readouterr().out


def test_counts_are_printed_and_every_row_is_written(trainer, module, policy, capsys, tmp_path):
    StartSummary(show=2).on_fit_start(trainer, module)
    lines = capsys.readouterr().out.splitlines()
    assert "(qwen2), in float32" in lines[0]
    assert lines[3:] == [
        "round      8 tasks x 2 plans x 4 outputs a step, 3 rounds an epoch (the last one of 4 tasks)",
        "run        12 optimiser steps in 6 rounds: planner 6, executor 6",
        "train      rows.json: 15 rows kept, 1 with a relaxed schema, 4 dropped",
        "  relaxed b: no tool 'x'",
        "  dropped row 0: no gold",
        "  dropped row 1: no gold",
        "    and 2 more dropped, alike",
        "held_out   3 tasks",
        "           each of these rows: data.txt in the run's folder",
    ]
    planner = sum(p.numel() for p in policy.parameters_of("planner"))
    assert f"planner {planner:,}, executor {planner:,} parameters (LoRA rank 4)" in lines[1]
    assert "dropped row 3: no gold" in (tmp_path / "run" / "data.txt").read_text()


def test_the_round_is_the_one_that_will_be(trainer, module, capsys):
    """Not the one that there would be with more tasks, a planner or another branching."""

    def lines(**changes):
        trainer.datamodule.tasks_per_round = changes.pop("tasks_per_round", 8)
        trainer.datamodule.single_level = changes.pop("single_level", False)
        trainer.datamodule.warm_start_rounds = changes.pop("warm_start_rounds", 0)
        trainer.max_steps = changes.pop("max_steps", -1)
        trainer.max_epochs = changes.pop("max_epochs", -1)
        trainer.callbacks = changes.pop("callbacks", [])
        for name, value in changes.items():
            setattr(trainer.datamodule.rollout.config, name, value)
        StartSummary().on_fit_start(trainer, module)
        printed = capsys.readouterr().out.splitlines()
        return [line for line in printed if line.startswith(("round ", "run "))]

    assert lines(tasks_per_round=64) == ["round      20 tasks x 2 plans x 4 outputs a step, 1 round an epoch"]
    assert lines(tasks_per_round=5, max_steps=3, warm_start_rounds=1) == [
        "round      5 tasks x 2 plans x 4 outputs a step, 4 rounds an epoch",
        "run        3 optimiser steps in 2 rounds: planner 2, executor 1; the first round imitates gold",
    ]
    assert lines(single_level=True)[0].startswith("round      8 tasks x 4 outputs a turn, ")
    assert lines(branching="trajectory", planner_group_size=1)[0].startswith(
        "round      8 tasks x 1 plan x 4 executions, "
    )
    assert lines(callbacks=[TokenBudget(120_000)], max_epochs=1000)[1] == (
        "run        until the rounds have sampled 120,000 tokens"
    )


def test_the_memory_is_that_of_the_tasks_that_there_are(trainer, module, capsys):
    def memory(tasks_per_round):
        trainer.datamodule.tasks_per_round = tasks_per_round
        StartSummary().on_fit_start(trainer, module)
        return capsys.readouterr().out.splitlines()[2]

    assert memory(20) == memory(10_000)


def test_the_planned_memory_is_that_of_the_memory_planner(trainer, module, policy, capsys):
    data = trainer.datamodule
    StartSummary().on_fit_start(trainer, module)
    settings = settings_of(
        policy.config, data.rollout.config, 4096, 8, data.rollout.engine, 1, False, data.eval_batch_size
    )
    gib = peak(shape_of(policy.config), settings) / GIB
    line = capsys.readouterr().out.splitlines()[2]
    assert re.fullmatch(rf"memory     {gib:.1f} GiB at most \([a-z ]+\), planned for .*", line)


def test_no_memory_is_promised_where_another_engine_samples(trainer, module, capsys):
    trainer.datamodule.rollout.engine = object()
    StartSummary().on_fit_start(trainer, module)
    assert "memory " not in capsys.readouterr().out


def test_names_longer_than_the_column_widen_it(trainer, module, capsys):
    trainer.datamodule.test_tasks = {"test_unseen_tools": ToolWorld("test", 3)}
    StartSummary(show=0).on_fit_start(trainer, module)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2] == "test_unseen_tools 3 tasks"
    assert any(line.startswith("train             rows.json") for line in lines)


def test_only_the_first_process_speaks(trainer, module, capsys):
    trainer.is_global_zero = False
    StartSummary().on_fit_start(trainer, module)
    assert capsys.readouterr().out == ""


def test_what_four_bits_leave_out_is_said(trainer, module, tmp_path, capsys):
    build(FAMILIES["Mixtral"], tmp_path / "base")
    module.policy = load(tmp_path / "base", quantization="nf4")
    StartSummary().on_fit_start(trainer, module)
    weights = 4 * 8 * 3 * 64 * 96  # layers, experts, matrices of each
    expected = f"           {weights:,} weights of experts stay in float32: NF4 is for linear layers alone"
    assert expected in capsys.readouterr().out.splitlines()
