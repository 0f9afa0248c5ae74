"""Settings that must not change what is learned: each is trained through the command line, and gives the same curve."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

from cahl_pl.cli import main

TAGS = ("loss", "grad_norm", "reward/mean", "entropy")
PLAIN = (
    "--trainer.callbacks=[]",
    "--data.test=null",
    "--data.tasks_per_round=4",
    "--trainer.max_steps=4",
)


def curve(folder: Path, *arguments: str) -> dict[tuple[int, str], float]:
    """Train the shipped model for four steps, and return step and tag -> value of what both roles logged."""
    places = {"save_dir": str(folder), "name": "run", "version": 0}
    logger = json.dumps({"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": places})
    main(["fit", "-c", "quickstart", f"--trainer.logger={logger}", *PLAIN, *arguments])
    with (folder / "run" / "version_0" / "metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    tags = [f"{role}/{tag}" for role in ("planner", "executor") for tag in TAGS]
    return {
        (int(row["step"]), tag): float(row[tag])
        for row in rows
        for tag in tags
        if row.get(tag) and tag.split("/")[0] == ("planner" if int(row["step"]) % 2 else "executor")
    }


@pytest.fixture(scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # with several, sums are not the same to the last digit
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def plain(tmp_path_factory, one_thread) -> dict[tuple[int, str], float]:
    return curve(tmp_path_factory.mktemp("plain"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param((), id="again"),
        pytest.param(("--model.max_tokens_per_micro_batch=600",), id="micro_batches"),
        pytest.param(("--model.policy.gradient_checkpointing=true",), id="checkpointing"),
        pytest.param(("--model.policy.attention=eager",), id="eager"),
    ],
)
def test_the_curve_is_the_same(tmp_path, plain, arguments):
    found = curve(tmp_path, *arguments)
    assert len(plain) == 16
    assert found.keys() == plain.keys()
    for key, value in plain.items():
        assert found[key] == pytest.approx(value, rel=2e-4, abs=2e-6), key


@pytest.mark.slow
def test_a_run_in_two_parts_is_the_run(tmp_path, plain):
    """Stopped after its first round and started again: the second part logs what the whole run has logged there."""
    saved = '--trainer.callbacks=[{"class_path": "cahl_pl.callbacks.Checkpoints", "init_args": {"every_n_steps": 2}}]'
    curve(tmp_path / "whole", saved)
    checkpoint = tmp_path / "whole" / "run" / "version_0" / "checkpoints" / "step-000002.ckpt"
    rest = curve(tmp_path / "rest", f"--ckpt_path={checkpoint}")
    assert {step for step, _ in rest} == {3, 4}
    assert rest == {key: value for key, value in plain.items() if key[0] > 2}
