"""Caches: what a model is given, where a pass stops, and what is kept of it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from cahl_pl.policy.kv_cache import PassCache, Piece, SampleCache, run_layers


class NewModel(nn.Module):
    """Takes its cache as transformers 5.24 and later do."""

    def forward(self, input_ids=None, cache=None, **kwargs):
        assert "past_key_values" not in kwargs
        return SimpleNamespace(last_hidden_state=(cache, kwargs["use_cache"]))


class OldModel(nn.Module):
    """Takes its cache as transformers before 5.24 did, and code that comes with a model may for longer."""

    def forward(self, input_ids=None, past_key_values=None, **kwargs):
        assert "cache" not in kwargs
        return SimpleNamespace(last_hidden_state=(past_key_values, kwargs["use_cache"]))


@pytest.mark.parametrize("model", [NewModel(), OldModel()])
def test_a_model_gets_its_cache_under_the_name_that_it_knows(model):
    ids, cache = torch.zeros(1, 1, dtype=torch.long), PassCache(1)
    assert run_layers(model, ids, None, ids, cache) == (cache, True)
    assert run_layers(model, ids, None, ids, None) == (None, False)


def test_a_model_whose_forward_a_library_has_wrapped_keeps_the_name_of_its_class():
    model = NewModel()
    forward = model.forward
    model.forward = lambda *args, **kwargs: forward(*args, **kwargs)  # as accelerate does for a base in 4 bits
    ids, cache = torch.zeros(1, 1, dtype=torch.long), PassCache(1)
    assert run_layers(model, ids, None, ids, cache) == (cache, True)


def keys_and_values(rows, tokens, start=0):
    """Keys [rows, 1 head, tokens, 2] that count up, and values that are their negative."""
    keys = torch.arange(start, start + rows * tokens * 2, dtype=torch.float32).view(rows, 1, tokens, 2)
    return keys, -keys


def test_a_pass_stops_after_the_last_layers_keys_and_values_where_nothing_else_is_needed():
    cache, reached = PassCache(2), []
    with cache.stop_when_full():
        for layer in range(2):
            cache.update(*keys_and_values(1, 3), layer)
            reached.append(layer)
    assert reached == [0]  # the last layer's are in the cache, and nothing runs behind them
    assert [layer.keys.shape[2] for layer in cache.layers] == [3, 3]
    cache.update(*keys_and_values(1, 1), 1)  # outside, passes run to their end
    with pytest.raises(RuntimeError, match="its own"), cache.stop_when_full():
        raise RuntimeError("its own")
    cache.update(*keys_and_values(1, 1), 1)


def test_kept_prefixes_are_laid_side_by_side_and_read_again():
    first, second = keys_and_values(2, 3)
    prefix = [(first[0], second[0]), (first[1], second[1])]  # two layers, 3 tokens
    cache = PassCache(2)
    cache.lay_out([Piece(1, 0, prefix, 0, 3), Piece(2, 0, prefix, 0, 2), Piece(2, 2, prefix, 1, 2)], 3, 4)
    keys = cache.layers[1].keys
    assert keys.shape == (3, 1, 4, 2)
    assert keys[0].eq(0).all()
    assert torch.equal(keys[1, :, :3], first[1])
    assert keys[1, :, 3].eq(0).all()
    assert torch.equal(keys[2, :, :3], first[1][:, [0, 1, 1]])
    for columns in ([0, 1, 2], [0, 2]):  # side by side, or not
        again = cache.reader(1, np.array([9, *columns]))(1, 1 + len(columns))
        assert torch.equal(again[0][0], first[0][:, columns])
        assert torch.equal(again[1][1], second[1][:, columns])
        again[1][1].zero_()  # a copy
    assert torch.equal(cache.layers[1].values[1, :, :3], second[1])


def test_samples_continue_copies_of_packed_prompts_in_buffers_of_their_final_length():
    packed = PassCache(1)
    keys, values = keys_and_values(1, 4)
    packed.update(keys, values, 0)
    cache = SampleCache(3, 2, 4)
    # prompts 0 and 1 are tokens (0, 1) and (0, 3) of the packed row, prompt 2 is read later
    cache.lay_out(0, packed, torch.tensor([0, 0]), torch.tensor([[0, 1], [0, 3]]))
    cache.lay_out(2, packed, torch.tensor([0]), torch.tensor([[2, 3]]))
    assert cache.get_seq_length() == 2
    expected = keys[:, :, [0, 1, 0, 3, 2, 3]].view(1, 3, 2, 2).transpose(0, 1)
    assert torch.equal(cache.layers[0].keys, expected)
    new_keys, new_values = keys_and_values(3, 1, start=100)
    all_keys, all_values = cache.update(new_keys, new_values, 0)
    assert torch.equal(all_keys, torch.cat([expected, new_keys], 2))
    assert torch.equal(all_values, -all_keys)
    cache.keep_rows(torch.tensor([0, 2]))  # row 1 is overwritten by row 2
    assert torch.equal(cache.layers[0].keys, all_keys[[0, 2]])
    assert cache.get_seq_length() == 3
