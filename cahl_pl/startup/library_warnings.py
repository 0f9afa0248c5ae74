"""Third-party warnings that are suppressed, each with its reason."""

from __future__ import annotations

import logging
import warnings

EXPECTED_WARNINGS = (
    ".*isinstance\\(treespec, LeafSpec\\). is deprecated",  # between lightning and torch
    ".*is_gradient_checkpointing.* is deprecated",  # between peft and transformers
    ".*gradient_checkpointing_enable.* is deprecated",  # the new name is younger than the oldest version we run with
    ".*does not have many workers",  # the policy lives in this process, so rollouts have no worker processes
    ".*IterableDataset. has .__len__. defined",  # on purpose: it keeps Lightning from fetching ahead
    ".*module\\(s\\) in eval mode at the start of training",  # on purpose: train mode would turn the KV cache off
    ".*Total length of .* across ranks is zero",  # no validation tasks
    ".*It is recommended to use .self.log.*sync_dist=True",  # logged values already cover all processes
    ".*number of training batches .* is smaller than the logging interval",  # short runs
    ".*Checkpoint directory .* exists and is not empty",  # a resumed run writes where the first one did
    ".*your dataloader is not resumable",  # the data module is: it saves and restores the position
    ".*Using ModelCheckpoint with manual optimization",  # the state after the step is what we want saved
    "\\s*By default only one JsonargparseDeprecationWarning",  # goes before the next one
    "\\s*(``instantiate_classes``|skip_none parameter) was deprecated",  # between lightning and jsonargparse
)


def quiet_libraries() -> None:
    """Silence the notices; the command line does so before anything else."""
    for message in EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_of_use)


def silence_kernel_notice() -> None:
    """Silence the advice to install a kernel that nothing here would use; call it before bitsandbytes is imported.

    On CPUs with avx512_bf16 bitsandbytes looks for a kernel for 4-bit products in inference. `Policy` turns that path off,
    because its gradients are wrong (docs/troubleshooting.md), so the kernel makes no difference.
    """
    logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(_is_no_kernel_notice)


def _is_no_kernel_notice(record: logging.LogRecord) -> bool:
    return "Failed to load CPU gemm_4bit_forward" not in record.getMessage()


def _is_of_use(record: logging.LogRecord) -> bool:
    """Return whether it is neither an advertisement nor about missing hardware that we would not use."""
    message = record.getMessage()
    return not any(text in message for text in ("litlogger", "litmodels", "TPU available: False"))
