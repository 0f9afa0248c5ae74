"""Checkpoints on the command line: which are taken, where a run goes on, and what is left alone when it is refused."""

from __future__ import annotations

import os
import pickle
import signal
import sys
from pathlib import Path
from typing import ClassVar

import pytest
import torch
import yaml
from lightning.pytorch import Callback

from cahl_pl.cli import main
from cahl_pl.commands import console
from cahl_pl.errors import ConfigError, PolicyError
from cahl_pl.runs.files import lock

TEST_SET = ["--data.test", '{"small": {"class_path": "cahl_pl.toolworld.ToolWorld", "init_args": {"size": 1}}}']


def test_the_command_line_wins_over_a_checkpoint(config, tmp_path):
    path = tmp_path / "first.ckpt"
    first = main(["fit", "-c", str(config)])
    first.trainer.save_checkpoint(path)
    # what another program may have stored must not come back either
    content = torch.load(path, weights_only=True)
    torch.save({**content, "hyper_parameters": {"max_tokens_per_micro_batch": 7}}, path)
    arguments = ["--ckpt_path", str(path), "--trainer.max_steps", "3", "--model.grpo.clip_high", "0.28"]
    resumed = main(["fit", "-c", str(config), *arguments])
    assert resumed.trainer.global_step == 3
    assert resumed.model.grpo["planner"].clip_high == 0.28
    assert resumed.model.max_tokens_per_micro_batch == 16384


def test_a_checkpoint_is_never_unpickled(config, tmp_path):
    path = tmp_path / "hostile.ckpt"
    first = main(["fit", "-c", str(config)])
    first.trainer.save_checkpoint(path)
    torch.save({**torch.load(path, weights_only=True), "more": Path("code")}, path)
    with pytest.raises(pickle.UnpicklingError):
        main(["fit", "-c", str(config), "--ckpt_path", str(path)])


def test_a_damaged_checkpoint_is_named(fail, tmp_path):
    path = tmp_path / "half.ckpt"
    path.write_bytes(b"PK")
    shown = fail("--ckpt_path", str(path))
    assert shown.startswith(f"error: --ckpt_path names '{path}', which is damaged (File is not a zip file): ")
    other = path.rename(tmp_path / "rows.jsonl")
    shown = fail("--ckpt_path", str(other))
    assert shown.startswith(f"error: --ckpt_path names '{other}', which is no checkpoint of this trainer: give one that ")


def test_an_archive_that_is_no_checkpoint_of_ours_is_named(fail, tmp_path):
    path = tmp_path / "other.ckpt"
    torch.save({"state_dict": {}, "policy_version": {}}, path)
    assert "which is no checkpoint of this trainer" in fail("--ckpt_path", str(path))


def test_last_starts_from_the_beginning_and_then_goes_on(config, tmp_path, capsys):
    arguments = ["fit", "-c", str(config), "--ckpt_path", "last"]
    arguments += ["--trainer.callbacks", "Checkpoints", "--trainer.enable_checkpointing", "true"]
    first = main(arguments)
    again = main([*arguments, "--trainer.max_steps", "4", "--model.planner.lr", "3e-4"])
    assert again.trainer.global_step == 4
    assert again.model.policy.version == {"planner": 2, "executor": 2}
    assert again.trainer.optimizers[0].param_groups[0]["lr"] == 3e-4
    out = capsys.readouterr().out
    assert f"no checkpoint in {tmp_path} yet: starting from the beginning" in out
    assert f"going on from {tmp_path}/checkpoints/step-000002.ckpt\n" in out
    assert first.trainer.global_step == 2


def test_others_than_fit_find_the_last_checkpoint_too(config, fail, monkeypatch, tmp_path, capfd):
    options = ["--trainer.callbacks", "Checkpoints", "--trainer.enable_checkpointing", "true"]
    main(["fit", "-c", str(config), *options])
    validation = ["--data.validation", "cahl_pl.toolworld.ToolWorld", "--data.validation.size", "1"]
    main(["validate", "-c", str(config), *validation, "--ckpt_path", "last"])
    assert f"checkpoint: {tmp_path}/checkpoints/step-000002.ckpt\n" in capfd.readouterr().out
    shown = fail("--ckpt_path", "step-000002")  # what comes behind it has been forgotten
    assert shown.startswith("error: --ckpt_path names 'step-000002', which does not exist")
    monkeypatch.setattr(sys, "argv", ["cahl_pl", "validate", "-c", str(config), "--ckpt_path", "best"])
    with pytest.raises(SystemExit):
        console()
    assert "names 'best', which does not exist" in capfd.readouterr().err


def test_a_run_that_is_refused_leaves_the_other_ones_configuration(config, fail, tmp_path):
    options = ["--trainer.callbacks", "Checkpoints", "--trainer.enable_checkpointing", "true"]
    main(["fit", "-c", str(config), *options])
    before = (tmp_path / "config.yaml").read_text()
    unlock = lock(tmp_path / ".lock")
    assert "another run is writing into" in fail(*options, "--model.planner.lr", "0.5")
    assert (tmp_path / "config.yaml").read_text() == before
    unlock()


def test_a_resume_that_is_refused_leaves_the_configuration_as_it_was(config, fail, tmp_path, monkeypatch):
    options = ["--trainer.callbacks", "Checkpoints", "--trainer.enable_checkpointing", "true", "--ckpt_path", "last"]
    main(["fit", "-c", str(config), *options])
    before = (tmp_path / "config.yaml").read_text()
    assert "data.tasks_per_round = 2, now it is 1" in fail(
        *options, "--trainer.max_steps", "4", "--data.tasks_per_round", "1"
    )
    assert "with LoRA rank 3" in fail(*options, "--trainer.max_steps", "4", "--model.policy.lora_rank", "3")
    assert (tmp_path / "config.yaml").read_text() == before
    monkeypatch.setattr(sys, "argv", ["cahl_pl"])
    main(["fit", "-c", str(config), *options, "--trainer.max_steps", "4"])  # one that is not refused is written down
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["trainer"]["max_steps"] == 4


def test_a_checkpoint_that_is_not_there_is_named(fail):
    shown = fail("--ckpt_path", "no/last.ckpt")
    assert shown.startswith("error: --ckpt_path names 'no/last.ckpt', which does not exist: ")


def test_a_refused_start_is_no_run_for_last(tmp_path, tiny_model, monkeypatch, capsys):
    """A typo between two starts must not send `last` to an empty folder, from which training would begin anew."""
    monkeypatch.chdir(tmp_path)
    small = [
        f"--model.policy.model={tiny_model}",
        "--trainer.max_steps=2",
        "--trainer.callbacks=[{class_path: cahl_pl.callbacks.Checkpoints, init_args: {every_n_steps: 1}}]",
        "--data.test=null",
        "--data.tasks_per_round=2",
        "--data.rollout.planner.max_new_tokens=4",
        "--data.rollout.executor.max_new_tokens=4",
    ]
    main(["fit", "-c", "quickstart", *small])
    with pytest.raises(PolicyError):
        main(["fit", "-c", "quickstart", *small, "--model.policy.model=/nowhere"])
    main(["fit", "-c", "quickstart", *small, "--trainer.max_steps=3", "--ckpt_path=last"])
    folder = tmp_path / "runs" / "quickstart" / "version_0" / "checkpoints"
    assert f"going on from {Path('runs/quickstart/version_0/checkpoints/step-000002.ckpt')}" in capsys.readouterr().out
    run = Path("runs/quickstart/version_0")
    then, now = (yaml.safe_load((run / n).read_text()) for n in ("config.until-step-000002.yaml", "config.yaml"))
    assert (then["trainer"]["max_steps"], now["trainer"]["max_steps"]) == (2, 3)
    assert (folder / "step-000003.ckpt").is_file()
    (run / "config.yaml").write_bytes(b"trainer:\n  max\n ue\xff: 3\n")  # damaged: kept as it is, and the run goes on
    main(["fit", "-c", "quickstart", *small, "--trainer.max_steps=4", "--ckpt_path=last"])
    assert (run / "config.until-step-000003.yaml").read_bytes().endswith(b"ue\xff: 3\n")
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["max_steps"] == 4


def test_a_folder_is_no_checkpoint(tmp_path, capsys):
    with pytest.raises(ConfigError, match="which is a folder: give a checkpoint in it, or `last`"):
        main(["test", "-c", "quickstart", f"--ckpt_path={tmp_path}"])


def test_a_run_that_has_nothing_left_to_train_says_so(config, capsys):
    arguments = ["fit", "-c", str(config), "--ckpt_path", "last"]
    arguments += ["--trainer.callbacks", "Checkpoints", "--trainer.enable_checkpointing", "true"]
    main(arguments)
    capsys.readouterr()
    for steps in (2, 1):
        main([*arguments, "--trainer.max_steps", str(steps)])
        said = f"there is nothing left to train: the checkpoint is of step 2, and trainer.max_steps is {steps}; raise it to go"
        assert capsys.readouterr().out.count(said) == 1
    main([*arguments, "--trainer.max_steps", "3"])
    assert "nothing left" not in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:Experiment logs directory")
def test_what_was_logged_as_csv_is_kept_when_a_run_goes_on(config, tmp_path, capsys):
    arguments = ["fit", "-c", str(config), "--ckpt_path", "last", "--trainer.log_every_n_steps", "1"]
    arguments += ["--trainer.callbacks", "Checkpoints", "--trainer.enable_checkpointing", "true"]
    arguments += ["--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", str(tmp_path / "runs")]
    main(arguments)
    (before,) = (tmp_path / "runs").rglob("metrics.csv")
    content = before.read_text()
    assert "planner/length/max" in content
    main([*arguments, "--trainer.max_steps", "4"])
    assert before.with_name("metrics.until-step-000002.csv").read_text() == content
    assert f"kept: {before} so far as metrics.until-step-000002.csv\n" in capsys.readouterr().out


class Leaving(Callback):
    """Ends a run before its first step, as Ctrl-C does."""

    def on_fit_start(self, trainer, pl_module):
        raise KeyboardInterrupt


def test_a_start_that_is_interrupted_before_the_first_step_does_not_hide_the_run_before_it(config, tmp_path, capfd):
    logged = ["--trainer.logger", "TensorBoardLogger", "--trainer.logger.save_dir", str(tmp_path / "runs")]
    words = ["fit", "-c", str(config), *logged, "--trainer.callbacks", "Checkpoints"]
    words += ["--trainer.enable_checkpointing", "true"]
    main(words)
    with pytest.raises(SystemExit) as stopped:
        console([*words, f"--trainer.callbacks+={__name__}.Leaving"])
    assert stopped.value.code == 130
    assert capfd.readouterr().err.splitlines()[-1] == "error: interrupted"
    assert [path.name for path in (tmp_path / "runs" / "lightning_logs").iterdir()] == ["version_0"]
    assert main([*words, "--ckpt_path", "last", "--trainer.max_steps", "3"]).trainer.global_step == 3
    assert "version_0/checkpoints/step-000002.ckpt" in capfd.readouterr().out


class Terminated(Callback):
    """Sends SIGTERM while something is measured before training, and notes whether it was gone on."""

    went_on: ClassVar[list[str]] = []

    def on_fit_start(self, trainer, pl_module):
        os.kill(os.getpid(), signal.SIGTERM)
        self.went_on.append("fit")

    def on_test_batch_start(self, *_):
        os.kill(os.getpid(), signal.SIGTERM)
        self.went_on.append("test")


@pytest.mark.parametrize("verb", ["fit", "test"])
def test_sigterm_before_training_and_while_testing_is_obeyed_at_once(config, verb):
    with pytest.raises(SystemExit) as stopped:
        console([verb, "-c", str(config), f"--trainer.callbacks+={__name__}.Terminated", *TEST_SET])
    assert (stopped.value.code, Terminated.went_on) == (143, [])
