"""Nothing is random where activations are recomputed, whatever a model calls its noise."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cahl_pl.policy.noise import recomputed_layers, remove_noise
from tools.quality.check_bases import TOLERANCE, groups_of, scoring_error

# residual and embedding dropout, dropout read from the configuration, router jitter, routers that explore, layer drop
NOISY = ["StarCoder 2", "Falcon", "Mixtral", "PhiMoE", "OPT"]


@pytest.mark.parametrize("name", NOISY)
def test_recomputed_passes_have_the_log_probabilities_and_gradients_of_plain_ones(on_base, name):
    policy = on_base(name, gradient_checkpointing=True)
    assert list(recomputed_layers(policy.lm))
    assert scoring_error(policy, groups_of(60)) < TOLERANCE


def test_every_rate_of_noise_becomes_zero_and_nothing_else():
    module = nn.Sequential(nn.Dropout(0.1), nn.Linear(2, 2))
    module[1].attn_dropout, module[1].scale, module[1].heads = 0.1, 0.5, 4
    module.config = SimpleNamespace(router_jitter_noise=0.01, layerdrop=0.2, rms_norm_eps=1e-6, hidden_dropout=0)
    remove_noise(module)
    assert module[0].p == module[1].attn_dropout == 0.0
    assert (module[1].scale, module[1].heads) == (0.5, 4)
    assert vars(module.config) == {
        "router_jitter_noise": 0.0,
        "layerdrop": 0.0,
        "rms_norm_eps": 1e-6,
        "hidden_dropout": 0,
    }


def test_only_recomputed_layers_go_into_train_mode(make_policy):
    policy = make_policy(gradient_checkpointing=True)
    with policy.training_mode():
        assert policy.recomputes
        training = [type(module).__name__ for module in policy.lm.modules() if module.training]
        assert training == ["Qwen2DecoderLayer"] * 2
    assert not policy.recomputes
    assert not any(module.training for module in policy.lm.modules())
    with make_policy().training_mode():
        assert not any(module.training for module in policy.lm.modules())


def test_activations_are_recomputed(make_policy):
    policy = make_policy(gradient_checkpointing=True)
    calls = []
    policy.causal_lm.base_model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    ids = torch.arange(3, 20)[None]
    with policy.training_mode():
        policy.lm(input_ids=ids, use_cache=False).logits.sum().backward()
    assert len(calls) == 2
