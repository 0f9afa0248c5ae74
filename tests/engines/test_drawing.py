"""Tokens are drawn by their probabilities, in deterministic mode too, where CUDA adds up no floats."""

from __future__ import annotations

import pytest
import torch

from cahl_pl.engines.base import Sampling
from cahl_pl.engines.drawing import ROWS_AT_A_TIME, draw, outcome
from cahl_pl.errors import ConfigError


@pytest.fixture
def deterministic(monkeypatch):
    """Deterministic mode, in which adding up floats fails here as it does on CUDA."""
    cumsum = torch.Tensor.cumsum

    def whole(values, *args, **kwargs):
        if values.is_floating_point():
            raise RuntimeError("cumsum_cuda_kernel does not have a deterministic implementation")
        return cumsum(values, *args, **kwargs)

    torch.use_deterministic_algorithms(True)
    monkeypatch.setattr(torch.Tensor, "cumsum", whole)
    yield
    torch.use_deterministic_algorithms(False)


LOGITS = torch.randn(3 * ROWS_AT_A_TIME + 1, 500, generator=torch.Generator().manual_seed(0)) * 3


@pytest.fixture(params=[1.0, 0.7])
def usual(request):
    """What is drawn otherwise, with one top_p and the other."""
    sampling = Sampling(0.8, request.param)
    return sampling, draw(LOGITS, sampling, torch.Generator().manual_seed(1))


def test_deterministic_mode_draws_the_same(usual, deterministic):
    sampling, (tokens, logprobs) = usual
    again, of_again = draw(LOGITS, sampling, torch.Generator().manual_seed(1))
    assert torch.equal(tokens, again)
    assert torch.equal(logprobs, of_again)


def test_what_has_no_probability_is_not_drawn_in_deterministic_mode(deterministic):
    logits = torch.full((64, 50), -torch.inf)
    logits[:, [7, 9]] = 0.0
    tokens, logprobs = draw(logits, Sampling(), torch.Generator().manual_seed(0))
    assert set(tokens.tolist()) == {7, 9}
    assert logprobs.exp() == pytest.approx(torch.full((64,), 0.5))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_no_numbers_are_told_in_deterministic_mode(deterministic, value):
    logits = LOGITS.clone()
    logits[20, 3] = value
    tokens, _ = draw(logits, Sampling(), torch.Generator())
    with pytest.raises(ConfigError, match="the model's logits are not numbers"):
        outcome(tokens[:, None], torch.tensor([0]))
    assert not outcome(tokens[:20, None], torch.tensor([-5])).any()  # the rows before hold numbers
