"""Settings that must not change what is learned: each trains through the command line, and gives the curve that is stored."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cahl_pl import updates
from cahl_pl.cli import main
from cahl_pl.engines import Engine, TransformersEngine, local
from cahl_pl.policy.logprobs import micro_batches
from tests.stored.rounds import ARGUMENTS, STORED, curve_of, run

ROOT = Path(__file__).resolve().parents[1]
REPLAYED = (*ARGUMENTS, "--data.engine=tests.stored.rounds.StoredEngine")
SAMPLED = ("--trainer.callbacks=[]", "--data.test=null", "--data.tasks_per_round=4", "--trainer.max_steps=4")
SAVING = '--trainer.callbacks=[{"class_path": "cahl_pl.callbacks.Checkpoints", "init_args": {"every_n_steps": %d}}]'
# Of one processor's AVX-512, AVX2 and SSE kernels, two threads and all settings below, gradient norms were apart by at most
# 1.1e-5 of their size, losses by 3.7e-5 of theirs or, around 0, by 1.4e-7. grpo.epsilon 1e-3 in place of 1e-4, a change of
# the advantages' scale by about 0.2 %, moves both by 2e-3.
CLOSE = {"rel": 2e-4, "abs": 1e-6}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # with several, sums are not the same to the last digit
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def stored() -> dict[str, float]:
    curve: dict[str, float] = json.loads(STORED.read_text(encoding="utf-8"))["curve"]
    for step in range(1, 5):  # one that teaches nothing would compare nothing
        assert curve[f"{step} {'planner' if step % 2 else 'executor'}/grad_norm"] > 1e-3
    return curve


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param((), id="plain"),
        pytest.param(("--model.max_tokens_per_micro_batch=600",), id="micro_batches"),
        pytest.param(("--model.max_tokens_per_micro_batch=1",), id="one_sequence_a_row"),
        pytest.param(("--model.policy.gradient_checkpointing=true",), id="checkpointing"),
        pytest.param(("--model.policy.attention=eager",), id="eager"),
    ],
)
def test_the_curve_is_the_stored_one(tmp_path, stored, arguments, monkeypatch):
    packed = []

    def parts(*args):
        for part in micro_batches(*args):
            packed.append(len(part.samples))
            yield part

    monkeypatch.setattr(updates, "micro_batches", parts)
    run(tmp_path, *REPLAYED, *arguments)
    assert (max(packed) == 1) == ("--model.max_tokens_per_micro_batch=1" in arguments)
    assert curve_of(tmp_path) == pytest.approx(stored, **CLOSE)


def test_another_scale_of_the_advantages_is_another_curve(tmp_path, stored):
    run(
        tmp_path,
        *REPLAYED,
        "--model.grpo.epsilon=1e-3",
        "--trainer.max_steps=2",
    )
    found = curve_of(tmp_path)
    for key in ("1 planner/grad_norm", "2 executor/grad_norm"):
        assert found[key] != pytest.approx(stored[key], **CLOSE)


def test_two_processes_give_the_stored_curve(tmp_path, stored):
    """After the first step of one process, two take over: they share the batches that wait, those of the next three steps."""
    run(tmp_path, *REPLAYED, SAVING % 1, "--trainer.max_steps=1")
    checkpoint = tmp_path / "run" / "version_0" / "checkpoints" / "step-000001.ckpt"
    logger = {
        "class_path": "lightning.pytorch.loggers.CSVLogger",
        "init_args": {"save_dir": "two", "name": "run", "version": 0},
    }
    words = ["fit", "-c", "quickstart", f"--trainer.logger={json.dumps(logger)}", *REPLAYED]
    words += ["--trainer.devices=2", "--trainer.strategy=adapter_ddp", f"--ckpt_path={checkpoint}"]
    result = subprocess.run(
        [sys.executable, "-m", "cahl_pl", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    found = curve_of(tmp_path / "two")
    # the first process logs the loss of its own share; the gradient is that of both
    for key in ("2 executor/grad_norm", "3 planner/grad_norm", "4 executor/grad_norm"):
        assert found[key] == pytest.approx(stored[key], **CLOSE), key


def test_a_run_in_two_parts_is_the_run(tmp_path):
    """Stopped after its first round and started again: the second part samples and logs what the whole run has there."""
    run(tmp_path / "whole", *SAMPLED, SAVING % 2)
    checkpoint = tmp_path / "whole" / "run" / "version_0" / "checkpoints" / "step-000002.ckpt"
    run(tmp_path / "rest", *SAMPLED, f"--ckpt_path={checkpoint}")
    rest = curve_of(tmp_path / "rest")
    assert {key[0] for key in rest} == {"3", "4"}
    assert rest == {key: value for key, value in curve_of(tmp_path / "whole").items() if key[0] in "34"}


def test_drafts_do_not_change_what_is_measured(tmp_path, monkeypatch):
    def measured(name: str) -> dict[str, str]:
        logger = {
            "class_path": "lightning.pytorch.loggers.CSVLogger",
            "init_args": {"save_dir": str(tmp_path), "name": name, "version": "here"},
        }
        words = [f"--trainer.logger={json.dumps(logger)}", "--trainer.callbacks=[]"]
        words += [f"--data.test.{name}.init_args.size=8" for name in ("test", "test_unseen_tools")]
        main(["test", "-c", "quickstart", *words])
        with (tmp_path / name / "here" / "metrics.csv").open(encoding="utf-8") as file:
            (row,) = csv.DictReader(file)
        return row

    drafts, verify = [], local._verify
    monkeypatch.setattr(local, "_verify", lambda *args: drafts.extend(filter(None, args[2])) or verify(*args))
    with_drafts = measured("with_drafts")
    assert 0 < float(with_drafts["test/task/success"]) < 1
    assert drafts
    drafts.clear()
    monkeypatch.setattr(TransformersEngine, "generate_from_drafts", Engine.generate_from_drafts)
    assert measured("without_drafts") == with_drafts
    assert not drafts
