"""How often sampling and the loss wait for the device: each time that a value of a tensor is asked for on the host."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cahl_pl.engines import local
from cahl_pl.engines.base import Sampling
from cahl_pl.engines.local import TransformersEngine
from cahl_pl.grpo.config import GRPOConfig
from cahl_pl.grpo.loss import grpo_loss
from cahl_pl.grpo.selection import Size

PROMPTS = [list(range(10, 30)), list(range(40, 47)), list(range(100, 133))]


class Waits(TorchDispatchMode):
    """Counts what a device would have to be waited for: reads of single values, and copies to the host."""

    READS = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "masked_select", "unique")

    def __init__(self, monkeypatch):
        super().__init__()
        self.count = 0
        for name in ("cpu", "tolist"):
            monkeypatch.setattr(torch.Tensor, name, self._counted(getattr(torch.Tensor, name)))

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function.overloadpacket.__name__.startswith(self.READS)
        return function(*args, **(kwargs or {}))

    def _counted(self, method):
        def call(tensor):
            self.count += 1
            return method(tensor)

        return call


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_token_of_all_completions_waits_once(policy, monkeypatch, temperature):
    monkeypatch.setattr(local, "stop_ids", lambda policy: {10**6})  # nothing ends: each step is like the last one

    def waits(tokens):
        policy.prefixes.forget()
        sampling, generator = Sampling(temperature, 1.0, tokens), torch.Generator().manual_seed(0)
        with monkeypatch.context() as patched, Waits(patched) as found:
            TransformersEngine().generate(policy, "planner", PROMPTS, 3, sampling, generator)
        return found.count

    assert waits(9) - waits(4) == 5


def test_the_loss_waits_once_for_all_that_is_logged_of_it(monkeypatch):
    logprobs = torch.randn(3, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with monkeypatch.context() as patched, Waits(patched) as found:
        grpo_loss(
            logprobs,
            None,
            logprobs.detach() - 0.1,
            torch.tensor([-1.0, 0.0, 1.0]),
            torch.ones(3, 8, dtype=torch.bool),
            GRPOConfig(kl=0.1, importance="sequence_mask"),
            Size(3, 24),
            engine_logprobs=logprobs.detach() + 0.1,
        )
    assert found.count == 1
