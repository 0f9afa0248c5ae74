"""Training with a base in parts on two processes, over gloo: losses, gradients and adapters are those of one process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import cahl_pl.rollout.two_level
from cahl_pl.cli import main
from cahl_pl.commands.export import run as export
from cahl_pl.errors import ConfigError
from cahl_pl.types import ROLES
from tests.sharded_run import CONFIG, fit, saved

ROOT = Path(__file__).resolve().parents[1]


def two_processes(orders: list[dict], folder: Path) -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    running = [
        subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "sharded_run.py"), json.dumps(orders[rank])],
            cwd=folder,
            env={**os.environ, **meeting, "NODE_RANK": str(rank), "LOCAL_RANK": "0"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=600)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], "\n".join(text[-3000:] for text in said)


@pytest.fixture(scope="module")
def runs(tiny_model, tmp_path_factory) -> dict[str, list[dict]]:
    """Rows of each run: 20 steps by one process and by two, and from step 10 on by two, from step 15 on by one again."""
    folder = tmp_path_factory.mktemp("runs")
    parse_plan = cahl_pl.rollout.two_level.parse_plan
    model = str(tiny_model)
    try:
        one = fit(model, str(folder / "one"), 20)
        orders = [
            [
                {"fit": {"model": model, "folder": str(folder / "two"), "steps": 20}, "rows": str(folder / f"two-{rank}")},
                {
                    "fit": {
                        "model": model,
                        "folder": str(folder / "went_on"),
                        "steps": 15,
                        "checkpoint": saved(str(folder / "one"), 10),
                    },
                    "rows": str(folder / f"went_on-{rank}"),
                },
            ]
            for rank in range(2)
        ]
        two_processes(orders, folder)
        back = fit(model, str(folder / "back"), 20, saved(str(folder / "went_on"), 15))
    finally:
        cahl_pl.rollout.two_level.parse_plan = parse_plan
    two, went_on = (torch.load(folder / f"{name}-0") for name in ("two", "went_on"))
    return {"folder": folder, "one": one, "two": two, "second": torch.load(folder / "two-1"), "resumed": went_on + back}


def check_equal(rows, others):
    assert [row["step"] for row in rows] == [row["step"] for row in others]
    for row, other in zip(rows, others, strict=True):
        assert row["role"] == other["role"]
        assert row["loss"] == pytest.approx(other["loss"], abs=1e-5)
        torch.testing.assert_close(row["gradient"], other["gradient"], atol=1e-5, rtol=0)
        torch.testing.assert_close(row["adapters"], other["adapters"], atol=1e-5, rtol=0)


@pytest.mark.timeout(1200)
def test_losses_gradients_and_adapters_of_20_steps_are_those_of_one_process(runs):
    one, two = runs["one"], runs["two"]
    assert len(one) == 20
    assert all(row["gradient"].any() for row in one)
    check_equal(two, one)
    assert [row["groups"] for row in two if row["role"] == "planner"][:2] == [[2, 2], [1, 0]]  # the second has none
    for row, other in zip(two, runs["second"], strict=True):
        assert torch.equal(row["adapters"], other["adapters"])


@pytest.mark.timeout(1200)
def test_each_process_holds_half_of_the_base(runs):
    whole = runs["one"][0]["held"][0]
    assert [row["shards"] for row in (runs["one"][0], runs["two"][0])] == [1, 2]
    for row in runs["two"]:
        assert row["held"] == pytest.approx([whole / 2, whole / 2], rel=0.02)


@pytest.mark.timeout(1200)
def test_a_run_goes_on_from_one_process_to_two_and_back(runs):
    assert [row["shards"] for row in runs["resumed"]] == [2] * 5 + [1] * 5
    check_equal(runs["resumed"], runs["one"][10:])


@pytest.mark.timeout(1200)
def test_exported_adapters_are_equal(runs, tiny_model, tmp_path):
    for name in ("one", "two"):
        checkpoint = saved(str(runs["folder"] / name), 20)
        model = f"--model.policy.model={tiny_model}"
        export(["--out", str(tmp_path / name), "-c", str(CONFIG), "--ckpt_path", checkpoint, model])
    for role in ROLES:
        one, two = (load_file(tmp_path / name / role / "adapter_model.safetensors") for name in ("one", "two"))
        assert one.keys() == two.keys()
        for tensor in one:
            torch.testing.assert_close(one[tensor], two[tensor], atol=1e-5, rtol=0)


@pytest.fixture
def two_at_once(small, monkeypatch):
    """Sets a module up as one of two processes."""

    def set_up(stage, *arguments):
        cli = main(["-c", str(CONFIG), *small, "--model.policy.shard_base=true", *arguments], run=False)
        monkeypatch.setattr(type(cli.trainer), "world_size", 2)
        cli.trainer.datamodule, cli.model.trainer = cli.datamodule, cli.trainer
        cli.model.setup(stage)

    return set_up


SERVER = ["--data.engine=cahl_pl.engines.ServerEngine", "--data.engine.base_url=http://127.0.0.1:1"]


@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_sampling_in_this_process_is_refused(two_at_once, stage):
    with pytest.raises(ConfigError, match=r"shard_base is true, but .* a TransformersEngine, samples in this process"):
        two_at_once(stage)


def test_a_reward_that_asks_the_executor_is_refused(two_at_once):
    with pytest.raises(ConfigError, match=r"data\.planner_reward asks the executor in each process"):
        two_at_once("fit", *SERVER, "--data.planner_reward=cahl_pl.rewards.PlannerReward", "--data.planner_reward.w_prob=1")


def test_servers_may_sample(two_at_once):
    two_at_once("fit", *SERVER)
