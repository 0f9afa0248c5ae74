"""The verb `serve`: which pair and which configuration it takes, what it refuses, and its life as a process."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import yaml

pytest.importorskip("uvicorn", reason="serving needs uvicorn: pip install 'cahl-pl[serve]'")

from cahl_pl.commands import console, serve
from cahl_pl.commands.configured import read_config
from cahl_pl.policy.policy import Policy
from cahl_pl.serving.asked import read_request
from cahl_pl.serving.episode import Reply
from cahl_pl.types import ROLES, ToolCall

ROOT = Path(__file__).resolve().parents[2]
TOOL = {
    "name": "get",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


@pytest.fixture
def run_folder(make_policy, tiny_model, tmp_path):
    """A run's folder with one checkpoint, and its policy."""
    policy = make_policy()
    policy.version = {"planner": 3, "executor": 2}
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    content = {"state_dict": policy.adapter_state(), "policy_version": policy.version}
    torch.save({**content, "policy_config": asdict(policy.config)}, folder / "checkpoints" / "step-000005.ckpt")
    config = {
        "trainer": {"accelerator": "cpu"},
        "model": {
            "policy": {"model": str(tiny_model), "lora_rank": 4, "lora_alpha": 8},
            "grpo": {"dual_clip": float("inf")},
        },
        "data": {
            "train": {"class_path": "cahl_pl.toolworld.ToolWorld", "init_args": {"size": 4}},
            "environment": {"class_path": "cahl_pl.environments.RecordedEnvironment"},
            "rollout": {"planner": {"max_new_tokens": 8}, "executor": {"max_new_tokens": 8}},
        },
        "ckpt_path": None,
        "weights_only": True,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder, policy


def arguments(*words):
    return serve._parser().parse_known_args([*map(str, words)])


def loaded(words, aside):
    args, rest = arguments(*words)
    config = read_config(serve._with_checkpoint(args, rest, aside))
    return serve.load_pair(args, config)


@pytest.mark.parametrize("named", ["folder", "checkpoint", "adapters"])
def test_a_runs_folder_a_checkpoint_and_exported_folders_are_the_same_pair(run_folder, tmp_path, named):
    folder, policy = run_folder
    aside = tmp_path / "aside"
    aside.mkdir()
    words = ["--ckpt_path", folder]
    if named == "checkpoint":
        words = ["--ckpt_path", folder / "checkpoints" / "step-000005.ckpt"]
    if named == "adapters":
        policy.lm.save_pretrained(tmp_path / "out", selected_adapters=list(ROLES))
        config = yaml.safe_load((folder / "config.yaml").read_text())
        (tmp_path / "config.yaml").write_text(yaml.safe_dump({k: config[k] for k in ("trainer", "model", "data")}))
        words = ["-c", tmp_path / "config.yaml", "--adapters", tmp_path / "out"]
    pair = loaded(words, aside)
    state, expected = pair.policy.adapter_state(), policy.adapter_state()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in state)
    assert pair.rollout.planner.max_new_tokens == 8
    pair.engine.close()


def test_a_pair_is_served_within_grammars(run_folder, tmp_path):
    pytest.importorskip("llguidance", reason="grammars need llguidance: pip install 'cahl-pl[constrained]'")
    pair = loaded(["--ckpt_path", run_folder[0], "--data.inference.constrained", "true"], tmp_path)
    parts = []
    body = {"model": "cahl", "messages": [{"role": "user", "content": "Weather?"}], "tools": [TOOL]}
    Reply(pair, read_request(body, 64), parts.append).make()
    assert parts[0].text.startswith("<plan>\n")
    assert parts[-1].tokens == 8
    pair.engine.close()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--ckpt_path", "nowhere"], "--ckpt_path names 'nowhere', which does not exist"),
        (["--ckpt_path", "."], "--ckpt_path names the folder '.', in which there is no whole checkpoint"),
        (["--ckpt_path", "last", "--adapters", "x"], "give one of --ckpt_path, --adapters and --base-url"),
        (["--host", "0.0.0.0"], "--host 0.0.0.0 lets others than this machine ask: give --api-key-env"),
        (
            ["--api-key-env", "NO_SUCH_KEY"],
            "the environment variable NO_SUCH_KEY, which is to hold the key, is not set",
        ),
        (["--queue", "-1"], "--queue: must be at least 0, not -1"),
        (["--timeout", "0"], "--timeout: must be above 0, not 0"),
        (["--port", "70000"], "--port: must be at most 65535"),
    ],
)
def test_what_cannot_be_served_is_one_sentence(words, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as raised:
        console(["serve", "-c", str(ROOT / "configs" / "quickstart.yaml"), *words])
    assert raised.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert sentence in error
    assert error.count("\n") == 1


def test_a_run_that_is_named_with_a_configuration_takes_that_one(run_folder, tmp_path):
    folder, _ = run_folder
    args, rest = arguments("--ckpt_path", folder, "-c", "mine.yaml")
    assert serve._with_checkpoint(args, rest, tmp_path) == ["-c", "mine.yaml"]
    assert args.ckpt_path.endswith("step-000005.ckpt")
    assert isinstance(args, argparse.Namespace)


def post(url, body, timeout=60):
    request = urllib.request.Request(
        url + "/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        return json.load(answer)


@pytest.mark.slow
def test_a_process_that_is_killed_and_started_again_goes_on_and_ends_at_sigterm(run_folder, tmp_path):
    folder, _ = run_folder
    body = {
        "model": "cahl",
        "messages": [{"role": "user", "content": "Go."}],
        "tools": [{"type": "function", "function": TOOL}],
    }

    def start(log):
        words = [sys.executable, "-m", "cahl_pl", "serve", "--ckpt_path", str(folder), "--port", "0"]
        with open(tmp_path / log, "w") as out:
            process = subprocess.Popen(words, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT, env={**os.environ})
        deadline = time.monotonic() + 240
        while "/v1" not in (text := (tmp_path / log).read_text()):
            assert process.poll() is None, text
            assert time.monotonic() < deadline, text
            time.sleep(0.2)
        return process, text.rpartition(" at ")[2].strip()

    process, url = start("first")
    first = post(url, body)["choices"][0]
    assert first["finish_reason"] in ("stop", "tool_calls", "length")
    process.kill()
    process.wait(30)
    began = time.monotonic()
    with pytest.raises(urllib.error.URLError):
        post(url, body)
    assert time.monotonic() - began < 5
    process, url = start("second")
    again = post(url, body)["choices"][0]
    assert again["message"]["content"] == first["message"]["content"]
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) in (-signal.SIGTERM, 143)
    assert "Traceback" not in (tmp_path / "second").read_text()


def test_a_vllm_server_behind_is_asked_with_the_tokenizer_alone(request, run_folder, tmp_path, monkeypatch):
    folder, _ = run_folder
    asked = []

    def answer(path, headers, body):
        asked.append(body["model"])
        call = '<tool_call>{"name": "get", "parameters": {"city": "Gage"}}</tool_call>'
        plan = '<plan>\n{"task": "look", "tool": "get", "parameters": {"city": "Gage"}}\n</plan>'
        return 200, {"choices": [{"text": plan if body["model"] == "planner" else call, "finish_reason": "stop"}]}

    monkeypatch.setattr(Policy, "load", lambda *args: pytest.fail("weights were loaded"))
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({k: config[k] for k in ("trainer", "model", "data")}))
    pair = loaded(["-c", tmp_path / "config.yaml", "--base-url", request.getfixturevalue("serve")(answer)], tmp_path)
    tools = [{"type": "function", "function": TOOL}]
    body = {"model": "cahl", "messages": [{"role": "user", "content": "Go."}], "tools": tools}
    parts = []
    Reply(pair, read_request(body, 1000), parts.append).make()
    assert asked == ["planner", "executor"]
    assert parts[1].call == ToolCall("get", {"city": "Gage"})
    assert parts[2].reason == "tool_calls"
