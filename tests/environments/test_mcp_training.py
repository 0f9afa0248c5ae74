"""A run whose tools are those of an MCP server that is killed in between."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mcp", reason="MCP servers need the package mcp")

import torch

from cahl_pl.cli import main
from cahl_pl.engines.base import Completion
from cahl_pl.engines.local import TransformersEngine
from cahl_pl.environments import mcp_connection
from cahl_pl.environments.mcp_tools import _McpSession, _started
from cahl_pl.errors import ConfigError

TOYS = str(Path(__file__).with_name("mcp_toys.py"))


@pytest.fixture
def arguments(small, tmp_path: Path):
    """Make the arguments of a run on the toys' tools, and end the server after the test."""

    def make(server: dict) -> list[str]:
        servers, rows, overlay = tmp_path / "servers.json", tmp_path / "rows.jsonl", tmp_path / "overlay.yaml"
        servers.write_text(json.dumps({"mcpServers": {"toys": server}}))
        gold = [{"name": "add", "arguments": {"a": 1, "b": 2}, "result": 3}]
        row = {"messages": [{"role": "user", "content": "How much is 1 + 2?"}], "tools": ["add", "say"], "gold": gold}
        rows.write_text("".join(json.dumps({"id": str(i), **row}) + "\n" for i in range(4)))
        source = {
            "class_path": "cahl_pl.datasets.JsonlDataset",
            "init_args": {"path": str(rows), "tools": str(servers)},
        }
        environment = {
            "class_path": "cahl_pl.environments.McpEnvironment",
            "init_args": {"servers": str(servers), "start_seconds": 60.0},
        }
        often = [{"class_path": "cahl_pl.callbacks.Checkpoints", "init_args": {"every_n_steps": 1}}]
        data = {"train": source, "test": {"toys": source}, "environment": environment}
        overlay.write_text(json.dumps({"trainer": {"callbacks": often}, "data": data}))
        keys = [key for key in small if "data.test" not in key]
        return [
            *["fit", "-c", "configs/quickstart.yaml", "-c", str(overlay), *keys, "--trainer.max_steps=4"],
            f"--trainer.logger.init_args.save_dir={tmp_path / 'runs'}",
        ]

    yield make
    for connection in set(mcp_connection._live):
        connection.close()
    _started.clear()


PLAN = '<plan>\n{"task": "add them", "tool": "add", "parameters": {"a": 1, "b": 2}}\n</plan>'
CALLS = [f'<tool_call>{{"name": "add", "parameters": {{"a": 1, "b": {b}}}}}</tool_call>' for b in (2, 5)]


@pytest.fixture
def play(monkeypatch):
    """Have the policy plan and call; before the n-th request for samples something is done."""

    def start(at: int = 0, action=None) -> list[str]:
        requests, answers = [0], []

        def generate(self, policy, role, prompts, num_samples, sampling, generator):
            requests[0] += 1
            if requests[0] == at:
                action()

            def completion(i: int) -> Completion:
                text = PLAN if role == "planner" else CALLS[i % 2]
                ids = torch.tensor([*policy.tokenizer(text).input_ids, policy.tokenizer.eos_token_id])
                return Completion(ids, torch.full((len(ids),), -5.0), ended=True)

            return [[completion(i) for i in range(num_samples)] for _ in prompts]

        def call(self, written):
            feedback = called(self, written)
            answers.append(feedback.text)
            return feedback

        called = _McpSession.call
        monkeypatch.setattr(_McpSession, "call", call)
        monkeypatch.setattr(TransformersEngine, "generate", generate)
        return answers

    return start


def kill(log: Path) -> None:
    os.kill(int(log.read_text().split()[-1]), signal.SIGKILL)


def steps(tmp_path: Path) -> int:
    return max(int(path.stem.split("-")[1]) for path in (tmp_path / "runs").rglob("step-*.ckpt"))


def test_a_run_goes_on_when_its_program_is_killed(arguments, play, tmp_path: Path) -> None:
    log = tmp_path / "pids"
    answers = play(3, lambda: kill(log))
    main(arguments({"command": sys.executable, "args": [TOYS, "0", str(log)]}))
    assert steps(tmp_path) == 4
    assert len(log.read_text().split()) == 2
    lost = [text for text in answers if "its server was lost and has been started again" in text]
    assert len(lost) == 1
    assert {"3", "6"} <= set(answers)
    assert len(answers) == 16  # two rounds of two tasks, a plan each, four samples of its call


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_run_stops_when_its_server_is_gone_and_is_resumed(arguments, play, tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "pids"
    program = [sys.executable, TOYS, str(port), str(log)]
    running = subprocess.Popen(program)
    server = {"url": f"http://127.0.0.1:{port}/mcp"}

    def gone() -> None:
        running.kill()
        running.wait()
        (connection,) = mcp_connection._live
        connection.start_seconds = 2

    try:
        answers = play(3, gone)
        with pytest.raises(
            ConfigError, match=r"server 'toys' .* cannot be reached again .*resume with --ckpt_path last$"
        ):
            main(arguments(server))
        assert 0 < steps(tmp_path) < 4
        before = len(answers)
    finally:
        running.kill()
        running.wait()
    running = subprocess.Popen(program)
    try:
        for connection in set(mcp_connection._live):
            connection.close()
        _started.clear()
        answers = play()
        main([*arguments(server), "--ckpt_path=last"])
        assert steps(tmp_path) == 4
        assert before
        assert {"3", "6"} <= set(answers)
    finally:
        running.kill()
        running.wait()
