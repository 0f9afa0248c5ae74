"""Exported adapters, loaded by plain PEFT, write the very tokens that the trainer's own policy writes."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM

from cahl_pl.commands import console
from cahl_pl.commands.export import _training
from cahl_pl.engines import TransformersEngine
from cahl_pl.engines.base import Sampling
from cahl_pl.prompts import PromptBuilder, PromptConfig
from cahl_pl.toolworld import ToolWorld
from cahl_pl.types import ROLES, SubTask

PROMPTS = {"tool_format": "compact", "system": "Tools:", "planner": "Plan", "executor": "Do {subtask}"}


@pytest.fixture(params=["lora", "alora"])
def trained(request, make_policy, tiny_model, tmp_path):
    """A policy, its checkpoint and its configuration."""
    policy = make_policy(adapter=request.param)
    policy.version = {"planner": 3, "executor": 2}
    checkpoint = tmp_path / "run" / "checkpoints" / "step-000005.ckpt"
    checkpoint.parent.mkdir(parents=True)
    content = {"state_dict": policy.adapter_state(), "policy_version": policy.version}
    torch.save({**content, "policy_config": asdict(policy.config)}, checkpoint)
    (tmp_path / "run" / "summary.json").write_text(json.dumps({"test": {"before": 0.1, "after": 0.25}, "details": {}}))
    config = tmp_path / "config.yaml"
    content = {
        "trainer": {"accelerator": "cpu", "logger": False, "default_root_dir": str(tmp_path)},
        "model": {"policy": {"model": str(tiny_model), "lora_rank": 4, "lora_alpha": 8, "adapter": request.param}},
        "data": {
            "train": {"class_path": "cahl_pl.toolworld.ToolWorld", "init_args": {"size": 4}},
            "environment": {"class_path": "cahl_pl.environments.RecordedEnvironment"},
            "prompts": PROMPTS,
        },
    }
    config.write_text(yaml.safe_dump(content))
    return policy, checkpoint, config


def export(*arguments):
    console(["export", *map(str, arguments)])


@pytest.mark.parametrize("role", ROLES)
def test_plain_peft_writes_the_same_tokens(trained, tiny_model, tmp_path, role):
    policy, checkpoint, config = trained
    export("--out", tmp_path / "out", "-c", config, "--ckpt_path", checkpoint)
    builder = PromptBuilder(policy.tokenizer, PromptConfig(**PROMPTS))
    policy.invocation = {r: builder.invocation(r) for r in ROLES}
    tasks = [ToolWorld("test", 3)[i] for i in range(3)]
    subtask = SubTask("do it", "tool", {"a": 1})
    prompts = [builder.planner(t) if role == "planner" else builder.executor(t, subtask) for t in tasks]
    ours = TransformersEngine().generate(policy, role, prompts, 1, Sampling(0.0, 1.0, 12), torch.Generator())
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    plain = PeftModel.from_pretrained(base, tmp_path / "out" / role, adapter_name=role)
    for prompt, (completion,) in zip(prompts, ours, strict=True):
        theirs = plain.generate(input_ids=torch.tensor([prompt]), do_sample=False, max_new_tokens=12)
        assert theirs[0, len(prompt) :].tolist() == completion.ids.tolist()
    saved = json.loads((tmp_path / "out" / role / "adapter_config.json").read_text())
    expected = builder.invocation(role) if policy.config.adapter == "alora" else None
    assert saved["alora_invocation_tokens"] == expected


def test_the_card_says_what_was_trained_and_what_came_of_it(trained, tmp_path):
    _, checkpoint, config = trained
    export("--out", tmp_path / "out", "-c", config, "--ckpt_path", checkpoint)
    card = (tmp_path / "out" / "executor" / "README.md").read_text()
    assert "- Data: ToolWorld, 4 tasks\n- Reward: ExecutorReward\n- Optimiser steps of this role: 2\n" in card
    assert "test: 0.100 before, 0.250 after training" in card
    assert "The prompts that it was trained with, which it has to be asked with:" in card
    assert json.dumps("executor") + ": " in card


@pytest.mark.parametrize(
    ("content", "planner", "executor"),
    [
        ({}, "trained together by GRPO (arXiv 2606.09371).", "trained together by GRPO (arXiv 2606.09371)."),
        (
            {"warm": list(ROLES)},
            "trained by imitating gold alone (the warm start), and not",
            "trained by imitating gold alone",
        ),
        (
            {"warm": ["planner"]},
            "trained by imitating gold alone",
            "by GRPO (arXiv 2606.09371), while the planner only",
        ),
        (
            {"policy_version": {"planner": 0, "executor": 4}},
            "not trained by the run: it is as it was at the start.",
            "trained by GRPO (arXiv 2606.09371), while the planner was not trained.",
        ),
    ],
)
def test_the_card_says_how_each_role_was_trained(content, planner, executor):
    content = {"policy_version": {"planner": 3, "executor": 2}} | content
    for role, said in (("planner", planner), ("executor", executor)):
        assert said.removesuffix(".") in _training(role, content)


def test_a_folder_that_holds_something_else_is_refused_and_an_earlier_export_is_not(trained, tmp_path, capsys):
    _, checkpoint, config = trained
    out = tmp_path / "out"
    out.mkdir()
    (out / "README.md").write_text("mine")
    with pytest.raises(SystemExit):
        export("--out", out, "-c", config, "--ckpt_path", checkpoint)
    said = f"error: --out names {str(out)!r}, which holds files that are no earlier export: delete it, or give another --out\n"
    assert capsys.readouterr().err == said
    assert [path.name for path in out.iterdir()] == ["README.md"]
    (out / "README.md").unlink()
    export("--out", out, "-c", config, "--ckpt_path", checkpoint)
    (out / "README.md").write_text("mine")
    export("--out", out, "-c", config, "--ckpt_path", checkpoint)
    assert (out / "README.md").read_text() == "mine"
    (out / "executor" / "README.md").write_text("another model")
    with pytest.raises(SystemExit):
        export("--out", out, "-c", config, "--ckpt_path", checkpoint)
    with pytest.raises(SystemExit):
        export("--out", config, "-c", config, "--ckpt_path", checkpoint)
    assert capsys.readouterr().err.endswith("which is a file: give a folder\n")


def test_another_user_can_read_what_was_written(trained, tmp_path):
    _, checkpoint, config = trained
    export("--out", tmp_path / "out", "-c", config, "--ckpt_path", checkpoint)
    mask = os.umask(0)
    os.umask(mask)
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) >= 6
    assert {path.stat().st_mode & 0o777 for path in files} == {0o666 & ~mask}


def test_a_checkpoint_that_cannot_be_read_is_named(trained, tmp_path, capsys):
    *_, config = trained
    (tmp_path / "no.ckpt").write_bytes(b"?")
    with pytest.raises(SystemExit):
        export("--out", tmp_path / "out", "-c", config, "--ckpt_path", tmp_path / "no.ckpt")
    assert capsys.readouterr().err.startswith("error: --ckpt_path names ")


class Hub:
    """Stands in for HfApi and keeps what it is asked."""

    asked: list[tuple]

    def create_repo(self, *arguments, **options):
        self.asked.append(("create", arguments, options))

    def upload_folder(self, **options):
        self.asked.append(("upload", (), options))
        return SimpleNamespace(commit_url="https://hub/me/pair/commit/1")


def test_both_folders_and_nothing_else_are_pushed(trained, tmp_path, monkeypatch, capsys):
    _, checkpoint, config = trained
    monkeypatch.setattr(Hub, "asked", [], raising=False)
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    out = tmp_path / "out"
    export("--out", out, "--push_to_hub", "me/pair", "-c", config, "--ckpt_path", checkpoint)
    assert Hub.asked == [
        ("create", ("me/pair",), {"private": True, "exist_ok": True}),
        ("upload", (), {"repo_id": "me/pair", "folder_path": out, "allow_patterns": ["planner/*", "executor/*"]}),
    ]
    assert capsys.readouterr().out.endswith("pushed: https://hub/me/pair/commit/1\n")


def test_a_hub_that_refuses_is_one_sentence_and_the_folders_stay(trained, tmp_path, monkeypatch, capsys):
    _, checkpoint, config = trained

    def refuse(self, *arguments, **options):
        raise ConnectionError("no route\nto the hub")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    out = tmp_path / "out"
    with pytest.raises(SystemExit):
        export("--out", out, "--push_to_hub", "me/pair", "-c", config, "--ckpt_path", checkpoint)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: --push_to_hub me/pair failed (no route): log in")
    assert (out / "planner" / "adapter_model.safetensors").is_file()


def test_the_newest_checkpoint_is_found(trained, tmp_path):
    _, checkpoint, config = trained
    run = tmp_path / "runs" / "mine" / "version_3" / "checkpoints"
    run.mkdir(parents=True)
    shutil.copy(checkpoint, run / "step-000004.ckpt")
    logger = {
        "class_path": "lightning.pytorch.loggers.CSVLogger",
        "init_args": {"save_dir": str(tmp_path / "runs"), "name": "mine"},
    }
    export("--out", tmp_path / "last", "-c", config, "--ckpt_path", "last", f"--trainer.logger={json.dumps(logger)}")
    export("--out", tmp_path / "named", "-c", config, "--ckpt_path", checkpoint)
    for role in ROLES:
        last, named = (tmp_path / name / role / "adapter_model.safetensors" for name in ("last", "named"))
        assert last.read_bytes() == named.read_bytes()


def test_without_a_run_there_is_no_newest_checkpoint(trained, tmp_path, capsys):
    _, _, config = trained
    logger = {
        "class_path": "lightning.pytorch.loggers.CSVLogger",
        "init_args": {"save_dir": str(tmp_path), "name": "none"},
    }
    with pytest.raises(SystemExit, match="2"):
        export("--out", tmp_path / "out", "-c", config, "--ckpt_path", "last", f"--trainer.logger={json.dumps(logger)}")
    assert "there is no checkpoint in" in capsys.readouterr().err
