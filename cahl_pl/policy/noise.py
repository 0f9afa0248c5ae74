"""No randomness in a forward pass: samples are scored as they were sampled.

Sampling runs in eval mode, and recomputing activations needs train mode. So only the layers that are recomputed are put
into it, not their parts (a router that explores in train mode stays in eval mode), and every rate of noise that such a
layer could still read is 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import nn

_NOISE = re.compile(r"drop|jitter|noise")
_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def remove_noise(base: nn.Module) -> None:
    """Set every rate of dropout, layer drop and router jitter of modules and their configurations to 0."""
    holders: dict[int, object] = {}
    for module in base.modules():
        if isinstance(module, _DROPOUT):
            module.p = 0.0
        holders[id(module)] = module
        if (config := getattr(module, "config", None)) is not None:
            holders[id(config)] = config
    for holder in holders.values():
        for name, value in list(vars(holder).items()):
            if isinstance(value, float) and _NOISE.search(name.lower()):
                setattr(holder, name, 0.0)


def layers_of(base: nn.Module) -> list[nn.Module]:
    """Return the layers of a model, in their order, as transformers knows them; empty if it knows none."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [module for module in base.modules() if isinstance(module, GradientCheckpointingLayer)]


def recomputed_layers(base: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules whose activations gradient checkpointing recomputes if they are in train mode."""
    layers = layers_of(base)
    # models without such layers have their own switch
    yield from layers or (module for module in base.modules() if getattr(module, "gradient_checkpointing", False))
