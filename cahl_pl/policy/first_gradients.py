"""Check of each role's first gradients: if they were wrong, training would silently do nothing, or too much."""

from __future__ import annotations

from typing import Final

from torch import nn

from cahl_pl.types import ROLES, Role

STEPS_WITHOUT_GRADIENT: Final = 20
"""Steps of a role in a row whose gradients may all be 0: the advantages of equal completions cancel."""


class FirstGradientCheck:
    """Check of each role's gradients, until they have been right once."""

    def __init__(self) -> None:
        self._checked: set[Role] = set()
        self._without_gradient: dict[Role, int] = dict.fromkeys(ROLES, 0)

    def check(self, model: nn.Module, role: Role) -> None:
        """Check that the role's adapter, and nothing else, has received gradients.

        Args:
            model: the base with both adapters, after a backward pass.
            role: the role of the step.

        Raises:
            RuntimeError: gradients are missing, or went elsewhere.
        """
        if role in self._checked:
            return
        named = list(model.named_parameters())
        own = [(n, p) for n, p in named if f".{role}." in n]
        missing = [n for n, p in own if p.grad is None]
        # lora_A's gradient is 0 while lora_B is
        if not missing and not any(p.grad is not None and p.grad.any() for n, p in own if "lora_B" in n):
            self._without_gradient[role] += 1
            if self._without_gradient[role] < STEPS_WITHOUT_GRADIENT:
                return
            missing = ["any lora_B"]
        stray = [n for n, p in named if f".{role}." not in n and p.grad is not None]
        if missing or stray:
            raise RuntimeError(
                f"the first {role} step gave no gradient to {missing[:2]} and a gradient to {stray[:2]}: the {role}'s "
                "adapter alone must receive gradients; this is an error of the program or of an installed version of peft"
            )
        self._checked.add(role)
