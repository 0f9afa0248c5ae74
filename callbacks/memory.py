"""Two policies in the memory of one: the base in 4 bits, and what that takes."""

from __future__ import annotations

import sys
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from cahl_pl.types import RolloutBatch

GIB = 2**30


class FourBitMemory(Callback):
    """Loads the frozen base in 4 bits and logs the memory that training takes, against a budget.

    | tag (all in GiB) | value |
    | --- | --- |
    | `memory/base_gib` | the frozen base as it lies in memory, quantisation constants included |
    | `memory/base_bf16_gib` | the same weights at 2 bytes each |
    | `memory/saved_gib` | the difference; negative where the base is wider than bfloat16 |
    | `memory/adapters_gib` | the weights of both LoRA adapters |
    | `memory/peak_gib` | the peak; see below |

    The first four once, when training starts, the last after every step; the x-axis is `trainer.global_step`.
    The peak on CUDA is the most that was allocated since the step before, sampling included; elsewhere it is
    the most host memory that the process has ever held.

    Args:
        budget_gib: warn once, with a RuntimeWarning, when the peak exceeds it.
        quantization: how the base is loaded where the policy's own `quantization` is null; what is set there holds.

    Raises:
        ValueError: the budget is not positive.
    """

    def __init__(self, budget_gib: float | None = None, quantization: Literal["none", "nf4"] = "nf4") -> None:
        if budget_gib is not None and budget_gib <= 0:
            raise ValueError(f"FourBitMemory.budget_gib is {budget_gib}: give more than 0, or null for no budget")
        self.budget_gib = budget_gib
        self.quantization = quantization
        self._warned = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose how the base will be loaded; Lightning calls this before the model is built.

        Raises:
            RuntimeError: the base is loaded already, in another way.
        """
        policy: Any = pl_module.policy
        if policy.config.quantization is not None or self.quantization == "none":
            return
        if policy.lm is not None:
            raise RuntimeError(
                f"FourBitMemory cannot change the base to quantization={self.quantization!r}: it is already "
                "loaded without; give 'none', or a policy not loaded yet"
            )
        policy.config.quantization = self.quantization

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what base and adapters take."""
        policy: Any = pl_module.policy
        if trainer.ckpt_path is None:  # a resumed run has these in its log already
            self._log(trainer, weights_gib(policy.lm))
        self._warned = False
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Log the peak since the last step, and hold it against the budget."""
        peak = _peak_gib(pl_module.device)
        if peak is None:
            return
        self._log(trainer, {"memory/peak_gib": peak})
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
    """GiB of a model's weights, by tag; see the table of `FourBitMemory`.

    Args:
        lm: a PEFT model; parameters with `lora_` in their name are the adapters', all others the base's.
    """
    base = base_bf16 = adapters = 0
    for name, parameter in lm.named_parameters():
        if "lora_" in name:
            adapters += parameter.nbytes
            continue
        # a 4-bit parameter of bitsandbytes holds two weights a byte, and its true shape beside it
        quantized = getattr(parameter, "quant_state", None)
        base += parameter.nbytes + _constants_bytes(quantized)
        base_bf16 += 2 * (parameter.numel() if quantized is None else quantized.shape.numel())
    return {
        "memory/base_gib": base / GIB,
        "memory/base_bf16_gib": base_bf16 / GIB,
        "memory/saved_gib": (base_bf16 - base) / GIB,
        "memory/adapters_gib": adapters / GIB,
    }


def _constants_bytes(quantized: Any) -> int:
    """Bytes of a bitsandbytes QuantState; with double quantisation, its scales have a state of their own."""
    if quantized is None:
        return 0
    tensors = (quantized.absmax, quantized.code, quantized.offset)
    return sum(t.nbytes for t in tensors if isinstance(t, Tensor)) + _constants_bytes(quantized.state2)


def _peak_gib(device: torch.device) -> float | None:
    """On CUDA the peak since the last call, elsewhere of the process's life; None where it is unknown."""
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return peak / GIB
    if sys.platform == "win32":
        return None
    import resource  # POSIX only

    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return rss * (1 if sys.platform == "darwin" else 1024) / GIB
