"""Benchmarks run by the trainer: the shipped configurations, a restart, validation, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from lightning.pytorch import Trainer

from cahl_pl.benchmarks import APIBank
from cahl_pl.benchmarks.settings import fingerprint
from cahl_pl.cli import main
from cahl_pl.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

SYSTEM = (
    "**Available Tools**\nIn your response, you can use the following tools:\n1. Name: Add\nDescription: Adds.\n"
    "Parameters: {'a': {'type': 'int', 'description': 'First.'}}\n\n**Steps for Each Turn**\n"
)


def row(number: int) -> dict:
    return {
        "system": SYSTEM,
        "user": f"<user> Add {number}. </user>",
        "answer": [{"name": "Add", "parameters": {"a": number}}],
        "other": {"sample_id": number // 2, "api_id": number},
    }


@pytest.fixture
def arguments(tiny_model, tmp_path, monkeypatch):
    """Makes a shipped configuration small enough for a test."""
    monkeypatch.setattr(sys, "argv", ["cahl_pl"])
    monkeypatch.chdir(tmp_path)
    for level in (1, 2, 3):
        rows = [row(number) for number in range(4)]
        (tmp_path / f"level-{level}-api_processed.json").write_text(json.dumps(rows))
    (tmp_path / "bamboogle.json").write_text('[{"Question": "q", "Answer": "a"}, {"Question": "r", "Answer": "b"}]')
    (tmp_path / "answers.json").write_text("{}")
    shared = {
        "model.policy.model": str(tiny_model),
        "data.rollout.planner.max_new_tokens": "6",
        "data.rollout.executor.max_new_tokens": "6",
        "data.eval_batch_size": "2",
        "data.results": str(tmp_path / "results"),
        "trainer.default_root_dir": str(tmp_path),
    }

    def make(name, **own):
        values = {**shared, **{f"data.test.{name}.init_args.{key}": value for key, value in own.items()}}
        return ["-c", str(CONFIGS / f"{name}.yaml"), *(f"--{key}={value}" for key, value in values.items())]

    return make


OWN = {
    "api_bank": {"folder": ".", "max_tasks": "5"},
    "bamboogle": {},
    "bfcl": {"max_tasks": "3", "categories": "[multiple,multi_turn_base,live_relevance]"},
}


def report(tmp_path, name):
    return json.loads((tmp_path / "results" / f"{name}.json").read_text())


@pytest.mark.parametrize("name", OWN)
def test_shipped_configurations_run(name, arguments, tmp_path):
    if name == "bfcl" and importlib.util.find_spec("bfcl_eval") is None:
        pytest.skip("bfcl-eval is not installed: pip install --no-deps bfcl-eval mpmath")
    cli = main(["test", *arguments(name, **OWN[name])])
    lines = (tmp_path / "results" / f"{name}.jsonl").read_text().splitlines()
    written = report(tmp_path, name)
    assert len(lines) == written["tasks"] == len(cli.datamodule.benchmarks[name])
    assert written["complete"] is True
    assert set(written["scores"]) == {
        k.removeprefix(f"{name}/") for k in cli.trainer.callback_metrics if k != "step"
    } - set(written["efficiency"])
    # the tiny model never ends a plan: no call, and six tokens each but where the prompt is too long
    assert 0 < written["efficiency"]["tokens_per_task"] <= 6
    assert written["efficiency"]["plan/parse_error_rate"] == 1
    assert written["run"]["policy"]["model"] == cli.model.policy.config.model


def test_an_interrupted_run_goes_on_where_it_stopped(arguments, tmp_path, monkeypatch):
    asked = []
    check = APIBank.check

    def interrupted(self, index, trajectory):
        asked.append(self.ids[index])
        if len(asked) == 4:
            raise RuntimeError("power cut")
        return check(self, index, trajectory)

    monkeypatch.setattr(APIBank, "check", interrupted)
    command = ["test", *arguments("api_bank", folder=".", max_tasks="6", sequences="false")]
    with pytest.raises(RuntimeError, match="power cut"):
        main(command)
    path = tmp_path / "results" / "api_bank.jsonl"
    before = path.read_bytes()
    assert before.count(b"\n") == 2  # the second batch was lost with its third row
    main(command)
    assert path.read_bytes().startswith(before)
    assert path.read_bytes().count(b"\n") == 6
    assert len(asked) == 4 + 4
    assert set(asked[4:]).isdisjoint(asked[:2])
    assert report(tmp_path, "api_bank")["denominators"] == {"overall": 6, "level-1": 2, "level-2": 2, "level-3": 2}
    main(command)
    assert len(asked) == 8
    for key, value, named in (
        ("rollout.max_prompt_tokens", "900", "run.max_prompt_tokens"),
        ("rollout.too_long", "truncate", "run.too_long"),
        ("inference.plans", "3", "run.inference.plans"),
        ("inference.replans", "1", "run.inference.replans"),
        ("inference.single_level", "true", "run.inference.single_level"),
        ("seed", "5", "run.seed"),
    ):
        with pytest.raises(ConfigError, match=rf"api_bank\.jsonl holds records of another run .*{re.escape(named)}"):
            main([*command, f"--data.{key}", value])


def test_contents_are_told_apart_whatever_their_names(tmp_path):
    assert fingerprint(None) is None
    assert fingerprint("owner/model-on-the-hub") is None
    for folder, text in (("a", "x"), ("b", "x"), ("c", "y")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "weights").write_text(text * 3_000_000)
        (tmp_path / f"{folder}.ckpt").write_text("z" * 3_000_000 + text + "z" * 3_000_000)
    for end in ("", ".ckpt"):
        first, same, other = (fingerprint(tmp_path / f"{name}{end}") for name in "abc")
        assert first == same != other


def test_a_benchmark_may_validate(arguments, tmp_path):
    command = [*arguments("api_bank", folder="."), "--data.test", "null"]
    validation = ["--data.validation", "cahl_pl.benchmarks.APIBank", "--data.validation.init_args.folder", "."]
    cli = main(["validate", *command[:2], *command[3:], *validation, "--data.validation.init_args.max_tasks", "3"])
    assert cli.trainer.callback_metrics["val/level-2"] == 0
    assert cli.trainer.callback_metrics["val/tokens_per_task"] == 6
    assert not (tmp_path / "results").exists()


def test_a_checkpoint_of_other_training_data_can_be_tested(arguments):
    data = main(arguments("api_bank", folder="."), run=False).datamodule
    position = {**data.state_dict(), "epoch": 3}
    data.trainer = SimpleNamespace(testing=True)
    data.load_state_dict({**position, "shape": {**position["shape"], "tasks_per_round": 99}})
    assert data.stream.epoch == 0
    data.trainer = SimpleNamespace(testing=False, global_rank=0, world_size=1)
    data.load_state_dict(position)
    assert data.stream.epoch == 3


def test_several_processes_are_refused(arguments, monkeypatch):
    cli = main(arguments("api_bank", folder="."), run=False)
    cli.model.trainer, cli.trainer.datamodule = cli.trainer, cli.datamodule
    monkeypatch.setattr(Trainer, "world_size", 2)
    with pytest.raises(ConfigError, match=r"api_bank runs in one process.*--trainer\.devices 1"):
        cli.model.on_test_epoch_start()
