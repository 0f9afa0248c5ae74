"""Two processes, as two machines of one node each, that train on rounds which one server samples meanwhile."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = '''
import json, os, sys
from pathlib import Path
import torch
from lightning.pytorch import Callback
import cahl_pl.rollout.two_level
from cahl_pl.cli import main
from cahl_pl.distributed import gather_over_processes
from cahl_pl.types import Plan, SubTask

cahl_pl.rollout.two_level.parse_plan = lambda text: Plan((SubTask("do it", "tool"),))

class Watch(Callback):
    """Writes, after each step, what sampled the batch, and how far the processes' adapters are apart."""
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        mine = torch.cat([p.detach().flatten() for r in ("planner", "executor") for p in module.policy.parameters_of(r)])
        parts = gather_over_processes((mine, len(batch.groups)))
        if trainer.is_global_zero:
            row = dict(step=trainer.global_step, role=batch.role, version=batch.version, lag=batch.lag,
                       apart=max(float((part[0] - mine).abs().max()) for part in parts),
                       groups=[part[1] for part in parts], norm=mine.double().norm().item())
            with open(OUT, "a") as file:
                file.write(json.dumps(row) + "\\n")

class Planner:
    reads_probabilities = False
    reads_outcome = False
    environment = None
    weights = {}
    def start_round(self, index): pass
    def total(self, components): return components["x"]
    def components(self, plan, trajectories): return {"x": len(trajectories[0].plan_text) % 7 / 7}

OUT, arguments = sys.argv[1], sys.argv[2:]
sys.argv = sys.argv[:1]
cli = main(arguments, run=False)
cli.datamodule.rollout.planner_reward = Planner()
cli.trainer.callbacks.append(Watch())
last = sorted(Path("runs/quickstart/version_0/checkpoints").glob("step-*.ckpt"))
cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=last[-1] if last else None, weights_only=True)
'''


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture
def run(tiny_model, tmp_path, stub):
    """Runs two processes up to a step, in a folder of their own; gives a row a step."""
    server = stub()

    def fit(name: str, steps: int) -> list[dict]:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "script.py").write_text(SCRIPT)
        rows = folder / "rows.jsonl"
        rows.unlink(missing_ok=True)
        values = {
            "data.engine": "cahl_pl.engines.ServerEngine",
            "data.engine.base_url": server.url,
            "data.engine.adapter_folder": "adapters",
            "data.lag": 1,
            "model.grpo.importance": "token_truncate",
            "model.grpo.pool_equal_plans": "false",  # all plans are equal here
            "model.planner.lr_schedule": "constant",  # the other ends with the run
            "model.executor.lr_schedule": "constant",
            "trainer.max_steps": steps,
            "trainer.num_nodes": 2,
            "trainer.devices": 1,
            "trainer.strategy": "adapter_ddp",
            "trainer.logger.init_args.version": 0,
            "model.policy.model": tiny_model,
            "data.train.init_args.size": 8,
            "data.tasks_per_round": 4,
            "data.rollout.replans": 1,  # every call fails
            "data.rollout.planner.max_new_tokens": 5,
            "data.rollout.executor.max_new_tokens": 5,
            "data.test": "null",
        }
        command = [sys.executable, "script.py", str(rows), "-c", str(ROOT / "configs" / "quickstart.yaml")]
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
        running = [
            subprocess.Popen(
                [*command, *(f"--{key}={value}" for key, value in values.items())],
                cwd=folder,
                env={**os.environ, **meeting, "PYTHONPATH": str(ROOT), "NODE_RANK": str(rank), "LOCAL_RANK": "0"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in range(2)
        ]
        said = [process.communicate(timeout=400)[0] for process in running]
        assert [process.returncode for process in running] == [0, 0], "\n".join(text[-3000:] for text in said)
        return [json.loads(line) for line in rows.read_text().splitlines()]

    return fit


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_two_machines_sample_while_they_train_and_go_on_as_if_they_had_not_been_stopped(run):
    whole = run("whole", 8)
    assert [(row["version"], row["lag"]) for row in whole] == [(0, 0)] * 2 + [(0, 1)] * 2 + [(1, 1)] * 2 + [(2, 1)] * 2
    assert [row["apart"] for row in whole] == [0.0] * 8
    assert all(row["groups"][0] and row["groups"][1] for row in whole)
    assert len({row["norm"] for row in whole}) == 4  # the planner learns
    first = run("stopped", 3)
    assert first == whole[:3]
    assert run("stopped", 8) == whole[3:]
