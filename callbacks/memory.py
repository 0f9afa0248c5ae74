"""Measurement of memory, an early stop of runs that would not fit, and a base in 4 bits."""

from __future__ import annotations

import sys
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from cahl_pl.errors import ConfigError
from cahl_pl.memory_plan import GIB, made_to_fit, overrides, plan_of, worst_stage
from cahl_pl.policy.four_bit import weight_sizes
from cahl_pl.types import RolloutBatch


class FourBitMemory(Callback):
    """Callback that loads the frozen base in 4 bits, and logs training's memory against a budget.

    | tag (all in GiB) | value |
    | --- | --- |
    | `memory/base_gib` | the frozen base in memory, with constants of its quantisation; if sharded, this process's part |
    | `memory/base_bf16_gib` | the same weights at 2 bytes each |
    | `memory/saved_gib` | the difference; negative where the base is wider than bfloat16 |
    | `memory/adapters_gib` | the weights of both LoRA adapters |
    | `memory/peak_gib` | the peak; see below |
    | `memory/reserved_gib` | CUDA only: the most that PyTorch's allocator held, with free space between blocks |
    | `memory/alloc_retries` | CUDA only, a count: how often a step found no room, released all free blocks and tried again |

    The first four once, when training starts, the others after every step; the x-axis is `trainer.global_step`.
    The peak on CUDA is the most that was allocated since the previous step, sampling included; elsewhere it is
    the most host memory that the process has ever held. If far more is reserved than the peak, memory is fragmented, and
    each retry waits for the device: a run that fits by its peak may still be slow, or end, because of these.

    Before the base is loaded, the peak is planned (`cahl_pl.memory_plan`: the longest prompts and completions that the
    configuration allows). A run that would not fit is stopped, with the change that would make it fit.

    Args:
        budget_gib: budget of each device. A peak above it causes one RuntimeWarning.
        quantization: how the base is loaded if the policy's own `quantization` is null; a value there takes precedence.
        stop: whether to stop a run whose planned peak exceeds the budget or, on CUDA without a budget, the device's memory.
            Set it to false if the plan is too cautious because prompts are shorter than they may be.

    Raises:
        ValueError: the budget is not positive.
    """

    def __init__(
        self,
        budget_gib: float | None = None,
        quantization: Literal["none", "nf4"] = "nf4",
        stop: bool = True,
    ) -> None:
        if budget_gib is not None and budget_gib <= 0:
            raise ValueError(f"FourBitMemory.budget_gib is {budget_gib}: give more than 0, or null for no budget")
        self.budget_gib = budget_gib
        self.quantization = quantization
        self.stop = stop
        self._warned = False
        self._retries = 0  # of the allocator, up to the last step

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose how the base will be loaded, and plan; Lightning calls this before the model is built.

        Raises:
            RuntimeError: the base is loaded already, in another way.
            ConfigError: the run would not fit.
        """
        self._choose_quantization(pl_module.policy)
        if stage == "fit" and self.stop:
            self._check_plan(trainer, pl_module)

    def _choose_quantization(self, policy: Any) -> None:
        undecided = policy.config.quantization is None
        if undecided and self.quantization != "none" and policy.lm is not None:
            raise RuntimeError(
                f"FourBitMemory cannot change the base to quantization={self.quantization!r}: it is already "
                "loaded without; give 'none', or a policy not loaded yet"
            )
        policy.config.decide_quantization(self.quantization)

    def _check_plan(self, trainer: Trainer, module: Any) -> None:
        planned = plan_of(trainer, module)
        limit = None if planned is None else self._limit(trainer)
        if planned is None or limit is None:
            return
        shape, settings = planned
        worst = worst_stage(shape, settings)
        if worst.total <= limit:
            return
        fitting = made_to_fit(shape, settings, limit)
        advice = "no change of settings known here would help: take a smaller model or a larger device"
        if fitting is not None:
            advice = f"add {' '.join(overrides(settings, fitting))}"
        raise ConfigError(
            f"this run may take {worst.total / GIB:.1f} GiB on a device ({worst.name}), but has {limit / GIB:.1f}: {advice}; "
            "cahl-pl plan-memory shows the parts, and FourBitMemory with stop: false to run anyway"
        )

    def _limit(self, trainer: Trainer) -> int | None:
        """Return the bytes of a device; None if there is no limit to compare a plan with."""
        if self.budget_gib is not None:
            return int(self.budget_gib * GIB)
        device = trainer.strategy.root_device
        return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the memory of base and adapters."""
        policy: Any = pl_module.policy
        if trainer.ckpt_path is None:  # a resumed run already has these in its log
            self._log(trainer, weights_gib(policy.lm))
        self._warned = False
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)
            self._retries = _retries(pl_module.device)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Log the peak since the last step, and compare it with the budget."""
        device = pl_module.device
        allocator = {}
        if device.type == "cuda":  # before the peak is read, which resets all of them
            before, self._retries = self._retries, _retries(device)
            allocator["memory/reserved_gib"] = torch.cuda.max_memory_reserved(device) / GIB
            allocator["memory/alloc_retries"] = float(self._retries - before)
        peak = _peak_gib(device)
        if peak is None:
            return
        self._log(trainer, {"memory/peak_gib": peak, **allocator})
        if self.budget_gib is not None and peak > self.budget_gib and not self._warned:
            self._warned = True
            rank_zero_warn(
                f"FourBitMemory: {peak:.2f} GiB in use at the peak of step {trainer.global_step}, above "
                f"budget_gib={self.budget_gib:g}: turn on gradient_checkpointing, or lower batch and lengths",
                category=RuntimeWarning,
            )

    def _log(self, trainer: Trainer, values: dict[str, float]) -> None:
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)


def weights_gib(lm: nn.Module) -> dict[str, float]:
    """Return the GiB of a model's weights, by tag; see the table of `FourBitMemory`.

    Args:
        lm: a PEFT model; parameters with `lora_` in their names are the adapters', all others the base's.
    """
    base = base_bf16 = adapters = 0
    for name, parameter in lm.named_parameters():
        if "lora_" in name:
            adapters += parameter.nbytes
            continue
        size, weights = weight_sizes(parameter, lm.get_submodule(name.rpartition(".")[0]))
        base += size
        base_bf16 += 2 * weights
    return {
        "memory/base_gib": base / GIB,
        "memory/base_bf16_gib": base_bf16 / GIB,
        "memory/saved_gib": (base_bf16 - base) / GIB,
        "memory/adapters_gib": adapters / GIB,
    }


def _retries(device: torch.device) -> int:
    """Return how often CUDA's allocator has found no room and tried again in the process's life; 0 before its first use."""
    return int(torch.cuda.memory_stats(device).get("num_alloc_retries", 0))


def _peak_gib(device: torch.device) -> float | None:
    """Return the peak since the last call on CUDA, elsewhere that of the process's life; None if it is unknown."""
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return peak / GIB
    if sys.platform == "win32":
        return None
    import resource  # POSIX only

    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return rss * (1 if sys.platform == "darwin" else 1024) / GIB
