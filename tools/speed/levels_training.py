"""Peak memory and time of training two levels and one: the first part of benchmark_levels.py.

configs/quickstart.yaml (CAHL) and the same overridden by configs/ablations/single_level.yaml (the executor's adapter
alone) run on the same ToolWorld tasks, `--rounds` rounds after a warm-up round. Both have the same group sizes, limits of
new tokens, completions decoded at once and tokens of a micro-batch; both fill these, so that a system which samples more
(CAHL samples outputs for each step of each plan) takes more time in a round, but not more memory for that reason alone.
Peak is the peak resident memory of the process (VmHWM), including the interpreter and all libraries; beside it is the
memory before the first round. Time is that of rounds, sampling and updates, per sampled token. glibc's allocator returns
large blocks at once (`process_memory.RELEASE`) in both, which costs both some time. Adapters, gradients and moments are
counted in bytes of their tensors. Single-level training loads the planner's adapter too but never uses it: its bytes are
subtracted from its peak before the ratio is computed. The model must be able to write plans: otherwise the executor has
nothing to do.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import cahl_pl  # noqa: F401 - before torch: it decides how torch's threads wait

# isort: split
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from cahl_pl.policy.policy import Policy
from cahl_pl.types import ROLES
from tools.memory.process_memory import resident
from tools.speed.levels_ratios import ONE, TWO, ratio, spread, verdict

MIB = 2**20


class Meter(Callback):
    """Callback that measures a training run after each optimiser step.

    Attributes:
        loaded: resident bytes before the first round.
        ends: time of each step's end.
        tokens: tokens sampled in the step's round.
        held: bytes of the tensors that learning adds, the maximum over steps.
    """

    def __init__(self) -> None:
        self.loaded = 0
        self.ends: list[float] = []
        self.tokens: list[float] = []
        self.held: dict[str, int] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the memory: base and adapters are loaded; nothing has been sampled."""
        self.loaded = resident("VmRSS")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record time and sizes."""
        self.ends.append(time.perf_counter())
        self.tokens.append(batch.metrics["rollout/tokens"])
        policy: Any = pl_module.policy
        for name, size in held_bytes(policy, trainer.optimizers).items():
            self.held[name] = max(size, self.held.get(name, 0))


def held_bytes(policy: Policy, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, int]:
    """Return the bytes of each adapter, of all gradients, and of the optimisers' moments (with their step counts)."""
    sizes = {f"{role} adapter": sum(p.nbytes for p in policy.parameters_of(role)) for role in ROLES}
    gradients = [p.grad for role in ROLES for p in policy.parameters_of(role) if p.grad is not None]
    states = [value for optimizer in optimizers for state in optimizer.state.values() for value in state.values()]
    moments = sum(value.nbytes for value in states if isinstance(value, Tensor))
    return {**sizes, "gradients": sum(g.nbytes for g in gradients), "moments": moments}


def train(system: str, model: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run one system in this process; return seconds and tokens of each round but the first, and memory in bytes."""
    from cahl_pl.cli import main as build

    configs = ["quickstart"]
    if system == ONE:
        configs.append("ablations/single_level")
    steps = 1 if system == ONE else 2  # per round
    values: dict[str, Any] = {
        "seed_everything": options.seed,
        "trainer.max_steps": steps * (options.rounds + 1),
        "trainer.logger": "false",
        "trainer.callbacks": "null",
        "trainer.enable_checkpointing": "false",
        "model.policy.model": model,
        "model.max_tokens_per_micro_batch": options.micro_batch,
        "data.seed": options.seed,
        "data.test": "null",
        "data.engine": "cahl_pl.engines.TransformersEngine",
        "data.engine.init_args.batch_size": options.batch_size,
        "data.tasks_per_round": options.tasks,
        "data.rollout.planner_group_size": options.group_size,
        "data.rollout.executor_group_size": options.group_size,
        "data.rollout.max_steps": 5,
        "data.rollout.planner.max_new_tokens": options.new_tokens,
        "data.rollout.executor.max_new_tokens": options.new_tokens,
    }
    arguments = [word for config in configs for word in ("-c", config)]
    meter = Meter()
    with tempfile.TemporaryDirectory() as folder:  # Lightning writes the configuration into it
        values["trainer.default_root_dir"] = folder
        cli = build([*arguments, *(f"--{key}={value}" for key, value in values.items())], run=False)
        cli.trainer.callbacks.append(meter)  # type: ignore[attr-defined]
        cli.trainer.fit(cli.model, cli.datamodule)
    ends = meter.ends[steps - 1 :: steps]
    return {
        "seconds": [end - start for start, end in itertools.pairwise(ends)],
        "tokens": meter.tokens[steps - 1 :: steps][1:],
        "peak": resident("VmHWM"),
        "loaded": meter.loaded,
        "held": meter.held,
    }


def training_table(results: dict[str, list[dict[str, Any]]]) -> str:
    """Return Markdown: one row per system.

    Args:
        results: system -> results of `train`, one per repeat.
    """
    idle = results[ONE][0]["held"]["planner adapter"]
    peak = {s: [run["peak"] - (idle if s == ONE else 0) for run in runs] for s, runs in results.items()}
    grown = {s: [run["peak"] - run["loaded"] for run in runs] for s, runs in results.items()}
    cost = {s: [1000 * sum(r["seconds"]) / sum(r["tokens"]) for r in runs] for s, runs in results.items()}
    lines = [
        "| system | peak, MiB | ratio | before the first round, MiB | peak less that, MiB | ratio | sampled tokens | "
        "ms a sampled token | ratio | adapters, KiB | gradients, KiB | moments, KiB |",
        "| --- |" + " ---: |" * 11,
    ]
    for system, runs in results.items():
        held = runs[0]["held"]
        used = sum(held[f"{role} adapter"] for role in ROLES) - (idle if system == ONE else 0)
        cells = [
            spread([p / MIB for p in peak[system]]),
            ratio(peak, system),
            f"{statistics.median(run['loaded'] for run in runs) / MIB:.1f}",
            spread([g / MIB for g in grown[system]]),
            ratio(grown, system),
            f"{sum(runs[0]['tokens']):,.0f}",
            spread(cost[system], 3),
            ratio(cost, system),
            *(f"{size / 1024:,.0f}" for size in (used, held["gradients"], held["moments"])),
        ]
        lines.append(f"| {system} | " + " | ".join(cells) + " |")
    told = verdict("training", {"peak memory": statistics.median(peak[TWO]) / statistics.median(peak[ONE])})
    note = f"The planner's adapter that single-level training carries unused, {idle / 1024:,.0f} KiB, is taken off."
    return "\n".join([*lines, "", note, told])
