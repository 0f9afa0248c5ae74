"""Folded attention against the plain one, by what both sample on families that attend in different ways."""

from __future__ import annotations

import contextlib
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cahl_pl.engines import Sampling, TransformersEngine, local
from cahl_pl.policy import folded_attention as folding
from cahl_pl.policy.folded_attention import folded_attention
from tools.quality.check_bases import groups_of

PLAIN = lambda decoder: contextlib.nullcontext()  # noqa: E731


def sample(policy, monkeypatch, way):
    monkeypatch.setattr(local, "folded_attention", way)
    policy.prefixes.forget()
    prompts = [group.prompt_ids.tolist() for group in groups_of(60)]
    found = TransformersEngine().generate(
        policy, "planner", prompts, 4, Sampling(1.0, 1.0, 8), torch.Generator().manual_seed(3)
    )
    return [completion for completions in found for completion in completions]


@pytest.mark.parametrize(
    ("name", "key_heads"),
    [
        ("Qwen2", {2}),
        ("Qwen2, one key head", {1}),
        ("Gemma 3", {2}),  # a mask for each type of layer
        ("Gemma 4", {2}),  # heads of two widths
        ("gpt-oss", {2}),  # sinks, in eager attention
        ("Gemma 2", {2}),  # scores that are capped, in eager attention
        ("Qwen3.5", {2}),  # rows apart: one sample each
    ],
)
def test_samples_are_those_of_the_plain_way_and_keys_are_not_repeated(on_base, monkeypatch, name, key_heads):
    values = {"num_key_value_heads": 1} if "one key head" in name else {}
    policy = on_base(name.partition(", one")[0], values)
    seen = set()
    for kind in ("sdpa", "eager"):
        function = folding._FOLDED[kind]
        plain = function._plain

        def spied(module, plain=plain):
            def attend(ungrouped, query, key, value, mask, **kwargs):
                seen.update({key.shape[1], (mask.shape[2] == query.shape[2]) - 1, ungrouped.num_key_value_groups - 1})
                return plain(module)(ungrouped, query, key, value, mask, **kwargs)

            return attend

        monkeypatch.setattr(function, "_plain", spied)
    with_sinks = folding._with_sinks
    monkeypatch.setattr(
        folding, "_with_sinks", lambda q, k, *rest: seen.update({k.shape[1], 0}) or with_sinks(q, k, *rest)
    )
    folded = sample(policy, monkeypatch, folded_attention)
    assert seen == key_heads | {0}  # a mask as wide as the queries, and no group left
    before = set(seen)
    plain_way = sample(policy, monkeypatch, PLAIN)
    assert seen == before
    assert len({tuple(completion.ids.tolist()) for completion in plain_way}) > 4
    for ours, theirs in zip(folded, plain_way, strict=True):
        assert torch.equal(ours.ids, theirs.ids)
        torch.testing.assert_close(ours.logprobs, theirs.logprobs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["Falcon", "OLMo 2, as many key heads", "DeepSeek-V3"])
def test_a_model_without_groups_or_with_attention_of_its_own_is_left_alone(on_base, name):
    values = {"num_key_value_heads": 4} if "as many" in name else {}
    policy = on_base(name.partition(", as")[0], values)
    assert folding._foldable(policy.decoder) == []
    before = policy.decoder.config._attn_implementation
    with folded_attention(policy.decoder):
        assert policy.decoder.config._attn_implementation == before


def test_the_model_attends_as_before_behind_it(policy):
    config = policy.decoder.config
    seen = []

    def fails():
        with folded_attention(policy.decoder):
            seen.append(config._attn_implementation)
            raise RuntimeError("its own")

    with pytest.raises(RuntimeError, match="its own"):
        fails()
    assert seen == ["cahl_folded_sdpa"]
    assert config._attn_implementation == "sdpa"


class Attention(nn.Module):
    """One of a family that nobody knows; `eager_attention_forward` below is its function."""

    num_key_value_groups = 2
    config = SimpleNamespace(model_type="unheard", _attn_implementation="eager")


def eager_attention_forward(module, query, key, value, attention_mask, scaling, **kwargs):
    repeated = [x.repeat_interleave(module.num_key_value_groups, 1) for x in (key, value)]
    scores = query @ repeated[0].transpose(2, 3) * scaling + attention_mask + kwargs.get("position_bias", 0)
    return (torch.softmax(scores, -1) @ repeated[1]).transpose(1, 2), None


@pytest.mark.parametrize("what", ["folded", "a bias for each head", "a mask for each head", "sinks"])
def test_what_differs_between_heads_that_share_keys_goes_the_plain_way(what):
    torch.manual_seed(0)
    module, (query, key, value) = Attention(), (torch.randn(2, heads, n, 8) for heads, n in ((4, 3), (2, 7), (2, 7)))
    mask = torch.randn(2, 4 if what == "a mask for each head" else 1, 3, 7)
    kwargs = {"scaling": 0.3}
    if what == "a bias for each head":
        kwargs["position_bias"] = torch.randn(1, 4, 3, 7)
    if what == "sinks":
        module.sinks = torch.randn(4)
    expected, _ = eager_attention_forward(module, query, key, value, mask, **kwargs)
    function = folding._FOLDED["eager"]
    function.masks.clear()
    found, _ = function(module, query, key, value, mask, **kwargs)
    torch.testing.assert_close(found, expected)
    assert (len(function.masks) > 0) == (what == "folded")
    function.masks.clear()


def test_eager_attention_that_stands_nowhere_is_not_folded(monkeypatch):
    class Decoder(nn.Module):
        config = Attention.config

        def __init__(self):
            super().__init__()
            self.attention = Attention()

        @classmethod
        def _can_set_attn_implementation(cls):
            return True

    assert folding._foldable(Decoder()) == [Attention.config]
    monkeypatch.delattr(sys.modules[__name__], "eager_attention_forward")
    assert folding._foldable(Decoder()) == []
