"""A few steps of training on completions that depend on the prompt alone, so that it does not matter which process asks.

As a program, one of two processes with a sharded base, which run two fits one after the other.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import cahl_pl

# isort: split
import torch
from lightning.pytorch import Callback

import cahl_pl.rollout.two_level
from cahl_pl.callbacks.memory import weights_gib
from cahl_pl.cli import main
from cahl_pl.distributed import gather_over_processes
from cahl_pl.engines.base import Completion, Engine
from cahl_pl.types import ROLES, Plan, SubTask

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "quickstart.yaml"


class Elsewhere(Engine):
    """Stands for a server: the same completions of the same prompt at the same version of the policy."""

    def check_sharded_base(self):
        pass

    def generate(self, policy, role, prompts, num_samples, sampling, generator):
        return [[self._one(policy, prompt, i, sampling) for i in range(num_samples)] for prompt in prompts]

    def _one(self, policy, prompt, index, sampling):
        numbers = hashlib.sha256(f"{list(prompt)} {index} {policy.version}".encode()).digest()
        numbers = numbers[: 1 + numbers[-1] % sampling.max_new_tokens]
        ids, logprobs = ([3 + n for n in numbers], [-n / 64 for n in numbers])
        return Completion(torch.tensor(ids), torch.tensor(logprobs), False)


class Planner:
    """Any difference between samples will do."""

    environment, reads_probabilities, reads_outcome, weights = None, False, False, {}

    def start_round(self, index):
        pass

    def total(self, components):
        return components["x"]

    def components(self, plan, trajectories):
        return {"x": of_text(trajectories[0].plan_text)}


class Executor(Planner):
    def components(self, step, target, episode, index):
        return {"x": of_text(step.text)}


def of_text(text: str) -> float:
    return (len(text) + 7 * len(set(text))) % 11 / 10


class Watch(Callback):
    """Keeps, of each step, its loss and gradient, both adapters, and what each process has of the round and of the base."""

    def __init__(self):
        self.rows = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        policy = module.policy
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in policy.parameters_of(batch.role)]
        tag = "warm_start/loss" if batch.objective == "supervised" else "loss"
        loss = float(trainer.callback_metrics[f"{batch.role}/{tag}"])
        parts = gather_over_processes((loss, len(batch.groups), weights_gib(policy.lm)["memory/base_gib"]))
        self.rows.append(
            {
                "step": trainer.global_step,
                "role": batch.role,
                "loss": sum(part[0] for part in parts),
                "gradient": torch.cat([g.flatten() for g in gradients]).clone(),
                "adapters": torch.cat([p.detach().flatten() for r in ROLES for p in policy.parameters_of(r)]),
                "groups": [part[1] for part in parts],
                "held": [part[2] for part in parts],
                "shards": policy.shards,
            }
        )


def fit(model: str, folder: str, steps: int, checkpoint: str | None = None, **more: object) -> list[dict]:
    """Train up to a step, in a folder; a row a step."""
    cahl_pl.rollout.two_level.parse_plan = lambda text: Plan((SubTask("do it", "tool"),))
    values = {
        "trainer.max_steps": steps,
        "trainer.logger.init_args.save_dir": folder,
        "trainer.logger.init_args.version": 0,
        "trainer.callbacks.init_args.every_n_steps": 5,
        "trainer.callbacks.init_args.keep": 10,
        "model.policy.model": model,
        "model.grpo.kl": 0.1,
        "model.grpo.pool_equal_plans": "false",  # all plans are equal here
        "model.planner.lr_schedule": "constant",  # the other ends with the run
        "model.executor.lr_schedule": "constant",
        "model.max_tokens_per_micro_batch": 700,
        "data.train.init_args.size": 5,
        "data.tasks_per_round": 4,  # the second round of an epoch has one task: one process has none
        "data.warm_start_rounds": 1,  # after which a copy of each adapter is the reference of the KL divergence
        "data.rollout.planner.max_new_tokens": 8,
        "data.rollout.executor.max_new_tokens": 8,
        "data.test": "null",
    }
    arguments = [f"--{key}={value}" for key, value in (values | more).items()]
    cli = main(["-c", str(CONFIG), *arguments], run=False)
    rollout = cli.datamodule.rollout
    rollout.engine, rollout.planner_reward, rollout.executor_reward = Elsewhere(), Planner(), Executor()
    watch = Watch()
    cli.trainer.callbacks.append(watch)
    cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=checkpoint, weights_only=True)
    return watch.rows


def saved(folder: str, step: int) -> str:
    """The checkpoint of a step of a run in a folder."""
    return str(Path(folder) / "quickstart" / "version_0" / "checkpoints" / f"step-{step:06d}.ckpt")


if __name__ == "__main__":
    two = {"trainer.num_nodes": 2, "trainer.strategy": "adapter_ddp", "model.policy.shard_base": "true"}
    sys.argv, orders = sys.argv[:1], json.loads(sys.argv[1])
    for order in orders:
        rows = fit(**order["fit"], **two)
        torch.save(rows, order["rows"])  # the same in both processes
