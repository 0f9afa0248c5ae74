"""The check at load finds what is computed in another way than by plain passes, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer

from cahl_pl.engines import self_check
from cahl_pl.engines.self_check import check_computation
from cahl_pl.errors import PolicyError
from cahl_pl.module import CAHLModule
from cahl_pl.policy import forward
from cahl_pl.policy.bases import LengthLimit
from cahl_pl.policy.config import PolicyConfig


def test_a_base_that_takes_positions_from_the_row_is_refused(policy, monkeypatch):
    check_computation(policy)
    inner = policy.decoder.forward
    monkeypatch.setattr(policy.decoder, "forward", lambda position_ids=None, **given: inner(**given))
    with pytest.raises(
        PolicyError, match=r"\(qwen2\) would be trained wrongly: .* differ .* nats; .*check_base to false"
    ):
        check_computation(policy)


def test_packed_sequences_that_see_one_another_are_found(policy, monkeypatch):
    def see_all(rows, chosen, columns, before, positions):
        count, longest = positions.shape
        zeros = np.zeros((count, before + longest), int)
        return [zeros[:, :longest], zeros, zeros + 1, zeros]

    found = self_check._sampled(policy, self_check._prompts(policy))
    monkeypatch.setattr(self_check, "_sampled", lambda policy, prompts: found)
    check_computation(policy)
    monkeypatch.setattr(forward, "_intervals", see_all)
    with pytest.raises(
        PolicyError, match=r"hidden states of packed sequences differ from those of plain passes by \d+%"
    ):
        check_computation(policy)


def test_noise_in_train_mode_is_found(make_policy):
    policy = make_policy(gradient_checkpointing=True)
    check_computation(policy)
    layer = policy.causal_lm.base_model.layers[0]
    forward = layer.mlp.forward
    layer.mlp.forward = lambda x: torch.nn.functional.dropout(forward(x), 0.5, layer.training)
    with pytest.raises(PolicyError, match=r"hidden states in train mode \(gradient_checkpointing\) differ"):
        check_computation(policy)


def test_a_base_that_cannot_run_so_is_one_sentence(policy, monkeypatch):
    def fail(**given):
        raise ValueError("too many values\nto unpack")

    monkeypatch.setattr(policy.decoder, "forward", fail)
    with pytest.raises(
        PolicyError, match=r"cannot be trained: sampling ends with ValueError: too many values; choose another base"
    ) as error:
        check_computation(policy)
    assert "check_base" not in str(error.value)  # it would not help


def test_what_one_of_our_sentences_says_needs_no_type_of_error(policy):
    with torch.no_grad():
        policy.causal_lm.base_model.norm.weight.fill_(float("nan"))
    with pytest.raises(PolicyError, match=r"\(qwen2\) cannot be trained: the model's logits are not numbers"):
        check_computation(policy)


@pytest.mark.parametrize("check", [True, False])
def test_the_check_runs_before_training_unless_it_is_switched_off(tiny_model, tmp_path, monkeypatch, check):
    def fail(policy):
        raise PolicyError("checked")

    monkeypatch.setattr("cahl_pl.module.check_computation", fail)
    module = CAHLModule(PolicyConfig(model=str(tiny_model), check_base=check))
    module.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path)
    if check:
        with pytest.raises(PolicyError, match="checked"):
            module.configure_model()
    else:
        module.configure_model()


@pytest.mark.parametrize(
    "config", [{"dtype": "bfloat16"}, {"quantization": "nf4"}, {"adapter": "alora"}, {"use_dora": True}]
)
def test_rounding_is_no_difference(make_policy, config):
    policy = make_policy(**config)
    assert policy.prefixes.tokens == 0
    assert policy._length_limit is None or isinstance(policy._length_limit, LengthLimit)


def test_new_tensors_are_where_the_check_expects_them(policy):
    """While Lightning loads a model, the default device is the model's: no generator of the CPU draws there."""
    with torch.device("meta"):
        check_computation(policy)
