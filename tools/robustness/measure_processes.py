"""Train with several processes and check at every step that adapters are equal and gradients those of one process.

    python -m tools.robustness.measure_processes --out runs/processes --steps 50 -- -c configs/quickstart.yaml

Runs `fit` over gloo on the CPU with the arguments after `--`, without test sets. Before each step the first process collects
the batches of all and computes the gradient of the whole, as one process would; after the step it compares this with the
processes' summed gradient, and the adapters of all processes with its own. One line per step goes to OUT/steps.jsonl:

    apart     largest difference of a parameter of either adapter between two processes (should be 0)
    gradient  largest difference of an entry between the summed gradient and that of one process, with the largest
              entry; null if no process had samples that differ in reward

Gradients are not clipped, so that the summed gradients are compared.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cahl_pl  # noqa: F401 - before torch: it decides how torch's threads wait

# isort: split
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from cahl_pl.cli import main as build
from cahl_pl.commands.pipes import reader_may_leave
from cahl_pl.distributed import gather_over_processes
from cahl_pl.grpo.advantages import fill_advantages
from cahl_pl.grpo.loss import Size
from cahl_pl.grpo.selection import Selection
from cahl_pl.module import CAHLModule
from cahl_pl.plurals import counted
from cahl_pl.startup.library_warnings import quiet_libraries
from cahl_pl.types import ROLES, Role, RolloutBatch


class Compare(Callback):
    """Callback that writes one line per step; every process must have it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._alone: Tensor | None = None  # the gradient of all processes' batches, computed by this process
        self._gradient: dict[str, float] | None = None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Collect all processes' groups; compute their gradient in the first process."""
        assert isinstance(pl_module, CAHLModule)
        parts = [RolloutBatch.from_state(state) for state in gather_over_processes(batch.state())]
        # different numbers for the comparisons of different processes
        groups = [
            replace(g, comparison_id=g.comparison_id + 1_000_000 * rank)
            for rank, part in enumerate(parts)
            for g in part.groups
        ]
        self._alone = self._gradient = None
        if not trainer.is_global_zero:
            return
        signal = fill_advantages(groups, pl_module.scoring(batch.role))
        kept = [group for group in groups if group.comparison_id in signal]
        if kept:
            lengths = [len(ids) for group in kept for ids in group.completion_ids]
            pl_module.policy.lm.zero_grad(set_to_none=True)  # of the previous step
            size = Size(len(lengths), sum(lengths))  # not by `select`, which all processes would have to call
            pl_module.updates.accumulate(Selection(kept, size, size), batch, pl_module.manual_backward)
            self._alone = flat_gradient(pl_module, batch.role)
            pl_module.policy.lm.zero_grad(set_to_none=True)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Compare the gradients, now that they are summed."""
        if self._alone is None:
            return
        assert isinstance(pl_module, CAHLModule)
        role = ROLES[[o.optimizer is optimizer or o is optimizer for o in pl_module.optimizers()].index(True)]  # type: ignore[union-attr]
        difference = (flat_gradient(pl_module, role) - self._alone).abs().max()
        self._gradient = {"difference": difference.item(), "largest": self._alone.abs().max().item()}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Compare the adapters and write the line."""
        assert isinstance(pl_module, CAHLModule)
        own = torch.cat([p.detach().flatten() for role in ROLES for p in pl_module.policy.parameters_of(role)])
        parts = gather_over_processes(own)
        if trainer.is_global_zero:
            apart = max((part - own).abs().max().item() for part in parts)
            line = {"step": trainer.global_step, "role": batch.role, "apart": apart, "gradient": self._gradient}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def flat_gradient(module: CAHLModule, role: Role) -> Tensor:
    """Return the gradient of a role's adapter as one vector, zero where a parameter has none."""
    parameters = module.policy.parameters_of(role)
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])


def summary(lines: Sequence[dict[str, Any]]) -> str:
    """Return a three-line summary of the lines."""
    compared = [line["gradient"] for line in lines if line["gradient"] is not None]
    differences = [gradient["difference"] for gradient in compared]
    return "\n".join(
        [
            f"{counted(len(lines), 'step')}; gradients compared in {len(compared)}",
            f"adapters of the processes apart by at most {max(line['apart'] for line in lines):.3g}",
            f"gradients apart by at most {max(differences, default=0.0):.3g}; their largest entries lie between "
            f"{min((g['largest'] for g in compared), default=0.0):.3g} and "
            f"{max((g['largest'] for g in compared), default=0.0):.3g}",
        ]
    )


@reader_may_leave()
def main() -> None:
    """Train, compare, report. The other processes are started by the same command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run and the lines")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("arguments", nargs="+", help="of `python -m cahl_pl`, after --")
    options = parser.parse_args()
    values = {
        "trainer.max_steps": options.steps,
        "trainer.accelerator": "cpu",
        "trainer.devices": options.processes,
        "trainer.strategy": "adapter_ddp",
        "trainer.logger.init_args.save_dir": options.out,
        "model.planner.max_grad_norm": 1e9,
        "model.executor.max_grad_norm": 1e9,
        "data.test": "null",
    }
    quiet_libraries()
    cli = build([*options.arguments, *(f"--{key}={value}" for key, value in values.items())], run=False)
    path = options.out / "steps.jsonl"
    if cli.trainer.is_global_zero:
        options.out.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
    cli.trainer.callbacks.append(Compare(path))  # type: ignore[attr-defined]
    cli.trainer.fit(cli.model, cli.datamodule)
    if cli.trainer.is_global_zero:
        print(summary([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]))


if __name__ == "__main__":
    main()
