"""Checks of Lightning's precision and of the attention that training can use."""

from __future__ import annotations

import torch
from lightning.pytorch import Trainer

from cahl_pl.errors import ConfigError
from cahl_pl.policy.config import PolicyConfig


def check_precision(trainer: Trainer) -> None:
    """Refuse every `trainer.precision` but 32-true.

    Sampling is not part of the training step, so that autocast (`bf16-mixed`, `16-mixed`) would train in another precision
    than that of sampling, and loss scaling would clip scaled gradients; the `-true` ones would round the adapters too, whose
    updates are too small for that.

    Raises:
        ConfigError: it is another one.
    """
    if trainer.precision != "32-true":
        raise ConfigError(
            f"trainer.precision is {trainer.precision!r}, which would train in another precision than it samples in, or "
            "round the adapters: leave it out, and choose the base's with model.policy.dtype (bfloat16)"
        )


def check_attention(device: torch.device, config: PolicyConfig) -> None:
    """Refuse FlexAttention where it cannot train.

    Args:
        device: the device to train on.
        config: the policy's configuration.

    Raises:
        ConfigError: torch has no backward pass of it there.
    """
    if config.attention == "flex_attention" and device.type != "cuda":
        raise ConfigError(
            f"model.policy.attention is flex_attention, which torch cannot train with on a {device.type} device (it has no "
            "backward pass there): set it to sdpa"
        )
