"""Several processes, here two over gloo: one policy, each task once, no one waits for ever, and the gradient of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = '''
import json, sys, warnings
from pathlib import Path
import torch
from lightning.pytorch import Callback
from cahl_pl.cli import main
from cahl_pl.strategy import gather_over_processes

class Watch(Callback):
    """Writes, after each step, how far the processes' adapters are apart, and which tasks they drew."""
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        mine = torch.cat([p.detach().flatten() for r in ("planner", "executor") for p in module.policy.parameters_of(r)])
        parts = gather_over_processes((mine, list(trainer.datamodule._drawn), sum(len(g.rewards) for g in batch.groups)))
        if trainer.is_global_zero:
            apart = max(float((part[0] - mine).abs().max()) for part in parts)
            drawn = [i for part in parts for i in part[1]]
            row = dict(step=trainer.global_step, role=batch.role, apart=apart, drawn=drawn, sizes=[part[2] for part in parts],
                       norm=float(mine.norm()))
            with open(OUT, "a") as file:
                file.write(json.dumps(row) + "\\n")

class Reward:
    """Any difference between samples will do; the second process sees none."""
    environment = None
    def __init__(self, rank): self.rank = rank
    def start_round(self, index): pass
    def total(self, components): return components["x"]
class Planner(Reward):
    def components(self, plan, trajectories):
        text = trajectories[0].plan_text
        return {"x": 0.0 if self.rank == 1 else (len(text) + 7 * len(set(text))) % 11 / 10}

if __name__ == "__main__":
    OUT, arguments = sys.argv[1], sys.argv[2:]
    keep, sys.argv = sys.argv, sys.argv[:1]
    cli = main(arguments, run=False)
    sys.argv = keep  # the second process is started by the same words
    data = cli.datamodule
    data.rollout.planner_reward = Planner(cli.trainer.global_rank)
    cli.trainer.callbacks.append(Watch())
    last = sorted(Path("runs/quickstart/version_0/checkpoints").glob("step-*.ckpt"))
    cli.trainer.fit(cli.model, data, ckpt_path=last[-1] if last else None, weights_only=True)
'''


@pytest.fixture
def run(tiny_model, tmp_path):
    """Runs the script with so many processes up to a step; gives a row a step."""
    (tmp_path / "script.py").write_text(SCRIPT)
    rows = tmp_path / "rows.jsonl"

    def fit(processes: int, steps: int) -> list[dict]:
        rows.unlink(missing_ok=True)
        values = {
            "trainer.max_steps": steps,
            "trainer.devices": processes,
            "trainer.strategy": "adapter_ddp" if processes > 1 else "auto",
            "trainer.logger.init_args.version": 0,
            "model.policy.model": tiny_model,
            "data.train.init_args.size": 5,
            "data.tasks_per_round": 4,  # the second round of an epoch has one task: one process has none
            "data.rollout.planner.max_new_tokens": 5,
            "data.rollout.executor.max_new_tokens": 5,
            "data.test": "null",
        }
        command = [sys.executable, "script.py", str(rows), "-c", str(ROOT / "configs" / "quickstart.yaml")]
        result = subprocess.run(
            [*command, *(f"--{key}={value}" for key, value in values.items())],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert result.returncode == 0, result.stderr[-3000:]
        return [json.loads(line) for line in rows.read_text().splitlines()]

    return fit


@pytest.mark.timeout(900)
def test_two_processes_train_one_policy_and_go_on_as_one_and_as_two_again(run):
    rows = run(2, 8)  # two epochs of two rounds of both roles
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert [row["apart"] for row in rows] == [0.0] * 8
    assert rows[-1]["norm"] != rows[0]["norm"]  # the first process alone has a signal, and both learn from it
    rounds = [row["drawn"] for row in rows if row["role"] == "planner"]
    for epoch in (rounds[:2], rounds[2:]):
        assert Counter(i for drawn in epoch for i in drawn) == Counter(range(5))
    planner_sizes = [row["sizes"] for row in rows if row["role"] == "planner"]
    assert planner_sizes == [[8, 8], [4, 0], [8, 8], [4, 0]]
    alone = run(1, 11)  # in the middle of a round: the executor's batch waits
    assert [row["step"] for row in alone] == [9, 10, 11]
    again = run(2, 12)
    assert [(row["step"], row["role"], row["apart"]) for row in again] == [(12, "executor", 0.0)]
