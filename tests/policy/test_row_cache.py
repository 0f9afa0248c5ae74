"""Bases with states: each sequence has a row of its own, and samples start from copies of what their prompt left."""

from __future__ import annotations

import pytest
import torch

from cahl_pl.engines import TransformersEngine
from cahl_pl.engines.base import Sampling
from cahl_pl.policy.packing import pack
from cahl_pl.policy.row_cache import RowCache, own_cache
from tools.quality.check_bases import TOLERANCE, greedy_error, groups_of, sampling_error, scoring_error

# a linear attention's state, a convolution's alone, both beside attention in one layer
HYBRIDS = ["Qwen3.5", "LFM2", "Falcon-H1"]


@pytest.mark.parametrize("name", HYBRIDS)
def test_sequences_are_scored_sampled_and_drafted_as_in_plain_passes(on_base, name):
    policy, groups = on_base(name), groups_of(60)
    assert scoring_error(policy, groups) < TOLERANCE
    assert sampling_error(policy, groups) < TOLERANCE
    assert greedy_error(policy, groups) < TOLERANCE


def test_activations_of_a_hybrid_are_recomputed(on_base):
    assert scoring_error(on_base("Granite 4-H", gradient_checkpointing=True), groups_of(60)) < TOLERANCE


def test_sequences_that_cannot_share_a_row_have_one_each():
    sequences = [[1, 2, 3], [1, 2, 4], [1, 2]]
    assert [row.members for row in pack(sequences, 1000, 100, share=False)] == [[2], [0], [1]]


def test_prompts_of_one_length_are_read_together_within_the_limit(on_base, monkeypatch):
    policy, read = on_base("LFM2"), []
    forward = policy.decoder.forward
    monkeypatch.setattr(policy.decoder, "forward", lambda **kw: read.append(kw["input_ids"].shape) or forward(**kw))
    prompts = [[5, 6, 7], [8, 9], [7, 6, 5], [9, 8], [4, 4]]
    sampling, generator = Sampling(1.0, 1.0, 1), torch.Generator().manual_seed(0)
    TransformersEngine(max_prefill_tokens=4).generate(policy, "planner", prompts, 2, sampling, generator)
    assert [tuple(shape) for shape in read] == [(2, 2), (1, 2), (1, 3), (1, 3)]


def test_rows_are_copied_padded_and_left_out(on_base):
    policy = on_base("Falcon-H1")
    parts = []
    for ids in (torch.tensor([[5, 6, 7]]), torch.tensor([[8, 9, 10, 11]])):
        parts.append(own_cache(policy.causal_lm.config))
        with torch.no_grad():
            policy.decoder(input_ids=ids, use_cache=True, cache=parts[-1])
    states = [part.layers[0].recurrent_states[0].clone() for part in parts]
    keys = [part.layers[0].keys.clone() for part in parts]
    cache = RowCache(parts, samples=2, used=4, length=6)
    layer = cache.layers[0]
    torch.testing.assert_close(layer.recurrent_states[0], torch.cat([states[0], states[0], states[1], states[1]]))
    torch.testing.assert_close(layer.keys[1, :, :3], keys[0][0])
    torch.testing.assert_close(layer.keys[2], keys[1][0])
    cache.keep_rows(torch.tensor([3, 1]))
    torch.testing.assert_close(layer.recurrent_states[0], torch.cat([states[1], states[0]]))
    torch.testing.assert_close(layer.keys[0], keys[1][0])
