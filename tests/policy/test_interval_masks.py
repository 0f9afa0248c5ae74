"""Masks made of intervals, and their blocks for FlexAttention, against dense ones and against what sdpa computes."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.attention.flex_attention import create_mask, flex_attention
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cahl_pl.engines import Sampling, TransformersEngine
from cahl_pl.policy.logprobs import micro_batches, score
from cahl_pl.policy.masks import BLOCK, Intervals, blocks_by_type, seen_by_type
from cahl_pl.policy.packing import pack
from tools.quality.check_bases import groups_of

KINDS = ["full_attention", "sliding_attention", "chunked_attention"]


def config(**values):
    return SimpleNamespace(**{"layer_types": KINDS, "sliding_window": 70, "attention_chunk_size": 150, **values})


def packed(prompt, completion, samples, groups=1):
    """Intervals, and positions, of one row: `groups` prompts that start alike, `samples` completions of each."""
    rng = np.random.default_rng(0)
    start = rng.integers(0, 99, prompt).tolist()
    prompts = [start[: prompt - 7 * group] + [100 + group] * group for group in range(groups)]
    sequences = [p + rng.integers(0, 99, completion + s % 3).tolist() for p in prompts for s in range(samples)]
    (row,) = pack(sequences, 10**6, 10**6)
    at = torch.arange(len(row.ids))[None]
    return Intervals(at, at, torch.from_numpy(row.ends())[None]), torch.tensor([row.depths])


def later(seen, positions, skip):
    """The same without the first `skip` queries, whose columns stay: what is run on top of a cache."""
    return Intervals(seen.queries[:, skip:], seen.keys, seen.ends), positions[:, skip:]


@pytest.mark.parametrize("skip", [0, 100, 128])
@pytest.mark.parametrize("shape", [(300, 60, 5, 2), (40, 9, 3, 3), (513, 130, 3, 1)])
def test_blocks_say_what_the_dense_mask_says(shape, skip):
    seen, keys = packed(*shape)
    seen, queries = later(seen, keys, min(skip, seen.queries.shape[1] - 1))
    dense = seen_by_type(config(), seen.visible(), queries, keys)
    blocks = blocks_by_type(config(), seen, queries, keys)
    assert dense.keys() == blocks.keys() == set(KINDS)
    for kind in KINDS:
        mask = blocks[kind]
        q, k = queries.shape[1], keys.shape[1]
        assert mask.shape == (1, 1, q, k)
        assert torch.equal(create_mask(mask.mask_mod, 1, 1, q, k, device="cpu")[:, 0], dense[kind])
        for row in range(-(-q // BLOCK)):
            of = dense[kind][0, row * BLOCK : (row + 1) * BLOCK]
            partial = set(mask.kv_indices[0, 0, row, : mask.kv_num_blocks[0, 0, row]].tolist())
            full = set(mask.full_kv_indices[0, 0, row, : mask.full_kv_num_blocks[0, 0, row]].tolist())
            assert not partial & full
            for column in range(-(-k // BLOCK)):
                block = of[:, column * BLOCK : (column + 1) * BLOCK]
                if column in full:
                    assert block.all()
                    assert block.shape == (BLOCK, BLOCK)  # none that goes beyond the mask
                elif column not in partial:
                    assert not block.any()


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_computes_with_them_what_sdpa_computes_with_the_dense_one():
    seen, positions = packed(200, 60, 4)
    torch.manual_seed(0)
    length = positions.shape[1]
    query, key, value = (torch.randn(1, heads, length, 8) for heads in (4, 2, 2))
    for kind, mask in blocks_by_type(config(), seen, positions, positions).items():
        dense = seen_by_type(config(), seen.visible(), positions, positions)[kind]
        expected = torch.nn.functional.scaled_dot_product_attention(
            query, key.repeat_interleave(2, 1), value.repeat_interleave(2, 1), attn_mask=dense[:, None]
        )
        found = flex_attention(query, key, value, block_mask=mask, enable_gqa=True)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_of_a_long_row_most_blocks_are_left_out_and_nothing_is_made_of_the_size_of_a_mask():
    class Largest(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.numbers = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            self.numbers = max([self.numbers, *(x.numel() for x in tree_leaves(result) if torch.is_tensor(x))])
            return result

    seen, positions = packed(4096, 510, 24)
    length = positions.shape[1]
    assert 16_000 < length < 17_000
    with Largest() as largest:
        masks = blocks_by_type(config(layer_types=KINDS[:1]), seen, positions, positions)
    assert largest.numbers <= 2 * length < length**2 / 1000
    mask = masks["full_attention"]
    computed = int(mask.kv_num_blocks.sum() + mask.full_kv_num_blocks.sum()) / (-(-length // BLOCK)) ** 2
    assert 0.2 < computed < 0.3


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", ["Qwen2", "Gemma 3", "Gemma 2", "Llama 4"])
def test_a_model_with_flex_attention_scores_and_samples_as_with_its_own(on_base, monkeypatch, name):
    """On a CPU transformers would compile it, for minutes; uncompiled it computes the same."""
    from transformers.integrations import flex_attention as integration

    calls = []

    def uncompiled(query, key, value, training=False, **kwargs):
        calls.append(type(kwargs["block_mask"]).__name__)
        return flex_attention(query, key, value, **kwargs)

    monkeypatch.setattr(integration, "compile_friendly_flex_attention", uncompiled)
    groups = groups_of(100)
    prompts = [group.prompt_ids.tolist() for group in groups]
    found = []
    for attention in ({"attention": "flex_attention"}, {}):
        policy = on_base(name, **attention)
        policy.activate("planner")
        with torch.no_grad():
            (batch,) = micro_batches(policy, groups, 4000)
            logprobs = score(policy, batch).logprobs
        sampled = TransformersEngine().generate(
            policy, "planner", prompts, 3, Sampling(1.0, 1.0, 6), torch.Generator().manual_seed(0)
        )
        found.append((logprobs, [c.ids.tolist() for completions in sampled for c in completions]))
        if attention:
            assert set(calls) == {"BlockMask"}
            calls.clear()
    assert not calls
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-4, rtol=1e-4)
    assert found[0][1] == found[1][1]
