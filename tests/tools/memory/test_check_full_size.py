"""The planner beside a run without its memory, on a model small enough to be measured in seconds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tools.memory.check_full_size import Work, at_the_end, measure
from tools.memory.check_memory_plan import Case
from tools.memory.shadows import BLOCK, shadows

CASE = Case("small", 512, 2048, 2, 8, 2, 4096, 192, 32, 4, 4, 2, 2048, True, "nf4", "bfloat16")
SAMPLING = Work("sample", "planner", 8, 4, 192, 32)


def test_what_is_alive_is_counted():
    with shadows() as mode:
        before = mode.start_again()
        kept = torch.zeros(1000, 1000, 1000)  # no memory is taken
        torch.empty(2**40 // 4)
        assert mode.live - before == 4_000_000_000
        assert mode.peak - before == 4_000_000_000 + 2**40
        places = torch.arange(5)  # whole numbers are real, and take a block
        assert places.tolist() == [0, 1, 2, 3, 4]
        assert mode.live - before == 4_000_000_000 + BLOCK
        assert torch.zeros(5, 3)[places > 2].shape == (2, 3)
        del kept
        assert mode.live - before == BLOCK


@pytest.mark.parametrize(
    "work",
    [
        SAMPLING,
        at_the_end(SAMPLING, 3),
        Work("update", "planner", 4, 4, 192, 32, update=True),
        Work("update one row", "planner", 1, 32, 192, 32, update=True),
    ],
    ids=lambda work: work.name,
)
def test_the_peak_is_what_was_planned(work):
    counted, total, peak = measure(CASE, work)
    assert peak <= total
    assert 0.94 * counted < peak <= 1.02 * counted


def test_the_end_has_the_final_lengths():
    end = at_the_end(SAMPLING, 3)
    assert end.prompt + end.size * end.completion == SAMPLING.prompt + SAMPLING.size * SAMPLING.completion


def test_a_weight_that_is_not_planned_is_seen():
    """The full base in place of the packed one."""
    counted, _, peak = measure(replace(CASE, quantization="none"), SAMPLING)
    packed, _, less = measure(CASE, SAMPLING)
    assert counted > packed
    assert peak > less
