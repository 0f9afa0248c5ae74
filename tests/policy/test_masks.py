"""Windows and chunks: who sees whom is counted in the sequence, at any length, in everything that is computed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from cahl_pl.policy.kv_cache import _cache_argument
from cahl_pl.policy.logprobs import micro_batches, score
from cahl_pl.policy.masks import layer_types, seen_by_type
from tools.quality.check_bases import TOLERANCE, greedy_error, groups_of, sampling_error, scoring_error
from tools.quality.random_bases import WINDOW

# a mask for each type, one for all, float masks by type, chunks
BASES = ["Gemma 3", "Mistral", "gpt-oss", "Llama 4"]


def config(**values):
    return SimpleNamespace(**{"layer_types": None, "sliding_window": None, "attention_chunk_size": None, **values})


@pytest.mark.parametrize("name", BASES)
def test_sequences_longer_than_the_window_are_scored_sampled_and_drafted_as_in_plain_passes(on_base, name):
    policy, groups = on_base(name), groups_of(100)
    assert max(len(group.prompt_ids) for group in groups) > 3 * WINDOW
    assert scoring_error(policy, groups) < TOLERANCE
    assert scoring_error(policy, groups, max_tokens=60) < TOLERANCE
    assert sampling_error(policy, groups) < TOLERANCE
    assert greedy_error(policy, groups) < TOLERANCE


def test_the_window_counts_behind_a_prefix_that_the_bare_base_has_read(on_base):
    policy = on_base("Gemma 3", adapter="alora")
    (group, *_) = groups_of(100)
    words, prompt, completion = [900, 901], group.prompt_ids.tolist(), [*range(50, 80)]
    policy.invocation = {"planner": words, "executor": words}
    policy.activate("planner")
    prompt[-12:-10] = words
    start = len(prompt) - 12
    ids = torch.tensor([[*prompt, *completion]])
    with torch.no_grad():
        with policy.without_adapters():
            cache = policy.causal_lm(input_ids=ids[:, :start], use_cache=True)[
                _cache_argument(type(policy.causal_lm.base_model))
            ]
        behind = {_cache_argument(type(policy.causal_lm.base_model)): cache}
        logits = policy.causal_lm(input_ids=ids[:, start:], use_cache=True, **behind).logits[0]
    expected = torch.log_softmax(logits[len(prompt) - start - 1 : -1], -1).gather(-1, ids[0, len(prompt) :, None])[:, 0]
    group.prompt_ids, group.completion_ids = torch.tensor(prompt), [torch.tensor(completion), torch.tensor([60])]
    with torch.no_grad():
        (batch,) = micro_batches(policy, [group], 1000)
        scores = score(policy, batch)
    (row,) = [row for row, sample in zip(scores.logprobs, batch.samples, strict=True) if sample.index == 0]
    torch.testing.assert_close(row[: len(completion)], expected, atol=TOLERANCE, rtol=0)


def test_types_of_layers_are_listed_or_told_by_sizes():
    assert layer_types(config()) == ["full_attention"]
    assert layer_types(config(sliding_window=4)) == ["sliding_attention"]
    assert layer_types(config(attention_chunk_size=4)) == ["chunked_attention"]
    mixed = ["sliding_attention", "full_attention", "sliding_attention"]
    assert layer_types(config(layer_types=mixed, sliding_window=4)) == ["full_attention", "sliding_attention"]


def test_each_type_sees_what_its_layers_see():
    visible = torch.ones(1, 2, 6).bool()
    queries, keys = torch.tensor([[9, 5]]), torch.tensor([[9, 8, 7, 6, 5, 4]])
    visible[0, 1, :4] = False  # the second one sees 5 and 4 alone
    types = ["full_attention", "sliding_attention", "chunked_attention"]
    seen = seen_by_type(config(layer_types=types, sliding_window=3, attention_chunk_size=4), visible, queries, keys)
    assert torch.equal(seen["full_attention"], visible)
    assert seen["sliding_attention"][0].int().tolist() == [[1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 1, 1]]
    assert seen["chunked_attention"][0].int().tolist() == [[1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1]]
