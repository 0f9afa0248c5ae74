"""Engine that samples a round ahead (`data.lag: 1`) in this process, with a second copy of the base: no server is needed.

    python -m cahl_pl compare --out runs/lag -c configs/quickstart.yaml --seeds 0 1 2 --tokens 300000 \
      now=tools/quality/second_copy.yaml ahead=tools/quality/second_copy.yaml,tools/quality/ahead.yaml

The effect of a lag on learning does not depend on where samples come from, as long as log-probabilities are those of the
policy that sampled. This engine saves no time: both threads share the same cores.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import cahl_pl  # noqa: F401 - before torch: it decides how torch's threads wait

# isort: split
import torch
from torch import Tensor

from cahl_pl.engines.base import Completion, Engine, Sampling
from cahl_pl.engines.local import TransformersEngine
from cahl_pl.policy.policy import Policy
from cahl_pl.policy.saved_adapters import adapter_weights
from cahl_pl.types import Role


class SecondCopy(TransformersEngine):
    """Engine that samples in this process, a round ahead, on a second base with the adapters of the round's start."""

    copy: Policy | None = None

    def check_lag(self) -> None:
        """See `Engine.check_lag`: the copy has separate weights."""

    def freeze(self, policy: Policy, abandoned: threading.Event) -> Engine:
        """See `Engine.freeze`."""
        if self.copy is None:
            self.copy = Policy(policy.config)
            self.copy.load(policy.device)
            self.copy.eval()
        for name in ("invocation", "end_of_turn", "thinks_in_tokens"):  # known once prompts have been made
            setattr(self.copy, name, getattr(policy, name))
        return _Frozen(self, self.copy, adapter_weights(policy))


class _Frozen(Engine):
    """Engine that samples with given weights; only one thread uses it, one round after another."""

    def __init__(self, engine: TransformersEngine, copy: Policy, weights: Mapping[str, Tensor]) -> None:
        self.engine = engine
        self.copy = copy
        self.weights: Mapping[str, Tensor] | None = weights

    def generate(
        self,
        policy: Policy,
        role: Role,
        prompts: Sequence[Sequence[int]],
        num_samples: int,
        sampling: Sampling,
        generator: torch.Generator,
    ) -> list[list[Completion]]:
        """See `Engine.generate`; the policy is ignored."""
        if self.weights is not None:
            self.copy.load_adapter_state(dict(self.weights))
            self.weights = None
        return self.engine.generate(self.copy, role, prompts, num_samples, sampling, generator)
