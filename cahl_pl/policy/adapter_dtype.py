"""Adapters computed in the base's bfloat16, with weights kept in float32.

PEFT computes them in the dtype of their weights: each layer's input is copied to float32, and two products run there. The
updates need those digits, the products do not (vLLM computes adapters in bfloat16 too).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional


class LinearInInputDtype(nn.Linear):
    """A linear layer that rounds its weight to the dtype of its input, for the product alone."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the product [..., out] in the input's dtype."""
        return functional.linear(input, self.weight.to(input.dtype))


def compute_in_base_dtype(lm: Any) -> None:
    """Make all adapters of a PEFT model compute in the dtype that their layers' inputs have.

    Args:
        lm: a PEFT model with LoRA adapters on linear layers; adapters added later are not affected.
    """
    for layer in lm.modules():
        for adapters in (getattr(layer, "lora_A", None), getattr(layer, "lora_B", None)):
            if adapters is None:
                continue
            layer.cast_input_dtype_enabled = False
            for name, linear in adapters.items():
                if type(linear) is nn.Linear:
                    rounding = LinearInInputDtype(linear.in_features, linear.out_features, bias=False, device="meta")
                    rounding.weight = linear.weight
                    adapters[name] = rounding
