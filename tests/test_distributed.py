"""Several processes, here two over gloo: one policy, each task once, no one waits for ever, and the gradient of one."""

from __future__ import annotations

import json
import math
import os
import re
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy

import cahl_pl.module
from cahl_pl.distributed import AdapterDDPStrategy, lost_processes_told
from cahl_pl.errors import ConfigError, PolicyError, ProcessLostError
from cahl_pl.module import CAHLModule
from cahl_pl.policy.config import PolicyConfig

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = '''
import json, sys, warnings
from pathlib import Path
import torch
from lightning.pytorch import Callback
from cahl_pl.cli import main
from cahl_pl.distributed import gather_over_processes

class Watch(Callback):
    """Writes, after each step, how far the processes' adapters are apart, and which tasks they drew."""
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        mine = torch.cat([p.detach().flatten() for r in ("planner", "executor") for p in module.policy.parameters_of(r)])
        indices = list(getattr(trainer.datamodule.round_tasks, "indices", ()))  # none yet where a checkpoint's batches wait
        size = sum(len(g.rewards) for g in batch.groups)
        parts = gather_over_processes((mine, indices, size))
        if trainer.is_global_zero:
            apart = max(float((part[0] - mine).abs().max()) for part in parts)
            drawn = [i for part in parts for i in part[1]]
            row = dict(step=trainer.global_step, role=batch.role, apart=apart, drawn=drawn, sizes=[part[2] for part in parts],
                       norm=float(mine.norm()))
            with open(OUT, "a") as file:
                file.write(json.dumps(row) + "\\n")

class Reward:
    """Any difference between samples will do; the second process sees none."""
    environment, reads_probabilities = None, False
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
            "seed_everything": "false",  # the first process's adapters are everyone's
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


def test_processes_whose_adapters_differ_do_not_train(tiny_model, monkeypatch):
    module = CAHLModule(PolicyConfig(model=str(tiny_model), lora_rank=2))
    module.policy.load()
    monkeypatch.setattr(cahl_pl.module, "differing_processes", lambda tensors: [1, 3])
    with pytest.raises(
        PolicyError, match=r"the planner's adapter in process 1, 3 is not that of process 0: every process"
    ):
        module.on_train_start()


PAIR = """
import json, sys
import torch
import torch.distributed as dist
from cahl_pl.grpo.advantages import Scoring, fill_advantages
from cahl_pl.rollout.dynamic_sampling import refilled
from cahl_pl.grpo.config import GRPOConfig
from cahl_pl.rollout.episode import Round
from cahl_pl.grpo.selection import select
from cahl_pl.distributed import broadcast, differing_processes
from cahl_pl.types import Group

rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)

def group(rewards, comparison_id=0):
    rewards = torch.tensor(rewards)
    zeros = torch.zeros(len(rewards))
    sampled = [torch.arange(rank + 1)] * len(rewards)
    return Group(torch.arange(2), sampled, rewards, {"a": rewards}, zeros, zeros.bool(), comparison_id)

def signal(role, groups):
    return {g.comparison_id for g in groups if g.rewards.max() > g.rewards.min()}

parameter = torch.nn.Parameter(torch.full((2,), float(rank + 7)))
apart = differing_processes([torch.zeros(3), parameter])
broadcast([parameter])
out = {"broadcast": parameter.tolist(), "apart": [apart, differing_processes([torch.zeros(3), parameter])]}
own = [[group([0.0, 1.0])], [group([0.0, 4.0]), group([3.0, 3.0], 1)]][rank]
for name, config in (
    ("batch", GRPOConfig(scale_rewards="batch", epsilon=0.0)),
    ("gdpo", GRPOConfig(aggregate_rewards="normalize_then_sum", epsilon=0.0)),
):
    found = fill_advantages(own, Scoring(config, {}, 9))
    out[name] = [g.advantages.tolist() for g in own]
    selected = select(own, found, config)
    out["sizes"] = [*selected.size, *select(own, found, GRPOConfig(kl=1.0)).regularised]
fill_advantages([], Scoring(GRPOConfig(scale_rewards="batch"), {}, 9))  # a process without tasks

asked = []
def sample(attempt, share):
    asked.append(share)
    return Round({"planner": [group([0.0, 1.0])] if rank else [], "executor": []}, [], {})
first = Round({"planner": [group([[0.0, 1.0], [5.0, 5.0]][rank], p) for p in range(2)], "executor": []}, [], {})
refilled(first, ("planner",), 3, signal, sample)
out["asked"] = asked
print(json.dumps(out))
"""


def test_two_processes_have_one_batch_and_one_start(tmp_path):
    (tmp_path / "pair.py").write_text(PAIR)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, "pair.py", str(rank), str(tmp_path / "meeting")],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    first, second = (json.loads(process.communicate(timeout=120)[0].splitlines()[-1]) for process in running)
    assert first["broadcast"] == second["broadcast"] == [7.0, 7.0]
    assert first["apart"] == second["apart"] == [[1], []]
    # rewards 0, 1, 0, 4, 3, 3: mean 11/6, sum of squares 35, variance (35 - 121/6) / 5 = 2.96667
    std = math.sqrt((35 - 121 / 6) / 5)
    assert first["batch"] == [pytest.approx([-0.5 / std, 0.5 / std])]
    assert second["batch"] == [pytest.approx([-2 / std, 2 / std]), [0.0, 0.0]]
    # two groups of -+sqrt(.5) and one of zeros: variance (4 * 0.5) / 5
    one = math.sqrt(0.5) / math.sqrt(2 / 5)
    assert first["gdpo"] == [pytest.approx([-one, one])]
    assert second["gdpo"] == [pytest.approx([-one, one]), [0.0, 0.0]]
    # the first process has 2 completions of one token, the second 4 of two, half of them without a signal
    assert first["sizes"] == second["sizes"] == [4, 6, 6, 10]
    # of four groups the second process's two lack a signal; it then finds one, and one more
    assert first["asked"] == second["asked"] == [0.5, 0.25]


LOST = """
import datetime, os, sys, time
import torch
import torch.distributed as dist
from cahl_pl.distributed import lost_processes_told, sum_over_processes
from cahl_pl.errors import ProcessLostError

rank, meeting, how = int(sys.argv[1]), sys.argv[2], sys.argv[3]
if how == "absent" and rank:
    sys.exit()
try:
    with lost_processes_told():
        patience = datetime.timedelta(seconds=2)
        dist.init_process_group("gloo", init_method="tcp://" + meeting, rank=rank, world_size=2, timeout=patience)
        sum_over_processes([1.0])
        if rank and how == "ends":
            os._exit(0)
        if rank and how == "hangs":
            time.sleep(8)
            os._exit(0)
        for _ in range(2):
            sum_over_processes([1.0])
except ProcessLostError as error:
    print(error)
os._exit(0)
"""


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("ends", r"of this run on \S+ has lost the others \((Connection closed by peer|Read error|Broken pipe|.*reset)"),
        ("hangs", r"of this run on \S+ has lost the others \(Timed out waiting 2000ms for recv"),
        ("absent", r"of this run on \S+ has not met the others \("),
    ],
)
def test_a_process_that_has_lost_the_others_says_so_in_one_sentence(tmp_path, how, words):
    (tmp_path / "lost.py").write_text(LOST)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "SLURM_PROCID")}
    running = [
        subprocess.Popen(
            [sys.executable, "lost.py", str(rank), meeting, how],
            cwd=tmp_path,
            env={**environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said, _ = [process.communicate(timeout=200)[0] for process in running]
    assert re.match(f"the process {words}", said), said
    assert said.count("\n") == 1
    assert ".cc" not in said  # gloo's source
    assert ". " not in said


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="shapes") as raised, lost_processes_told():
        raise RuntimeError("shapes do not fit")
    assert not isinstance(raised.value, ProcessLostError)


@pytest.mark.parametrize(
    ("nodes", "own", "main", "interface", "refused"),
    [
        (2, "127.0.1.1", "10.0.0.1", "", True),
        (2, "10.0.0.2", "10.0.0.1", "", False),
        (2, "127.0.1.1", "10.0.0.1", "eth0", False),
        (2, "127.0.1.1", "127.0.0.1", "", False),  # two "machines" that are one
        (1, "127.0.1.1", "10.0.0.1", "", False),
        (2, None, "10.0.0.1", "", False),  # a name that nobody knows
    ],
)
def test_a_machine_that_others_could_not_reach_is_refused_before_they_wait(
    monkeypatch, nodes, own, main, interface, refused
):
    def address(name):
        if name == "here" and own is None:
            raise socket.gaierror("unknown")
        return own if name == "here" else name

    monkeypatch.setattr(socket, "gethostname", lambda: "here")
    monkeypatch.setattr(socket, "gethostbyname", address)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", interface)
    met = []
    monkeypatch.setattr(DDPStrategy, "setup_distributed", lambda self: met.append(self))
    monkeypatch.setenv("MASTER_ADDR", main)
    strategy = AdapterDDPStrategy(
        accelerator=CPUAccelerator(),
        parallel_devices=[torch.device("cpu")],
        cluster_environment=LightningEnvironment(),
    )
    strategy.num_nodes = nodes
    if refused:
        with pytest.raises(ConfigError, match=r"this machine's name, here, .* set GLOO_SOCKET_IFNAME"):
            strategy.setup_distributed()
    else:
        strategy.setup_distributed()
    assert bool(met) is not refused
