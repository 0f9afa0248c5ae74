"""Precisions of Lightning that would train in another one than was sampled in."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import Trainer

from cahl_pl.errors import ConfigError
from cahl_pl.module import CAHLModule
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.policy.precision import check_attention, check_precision


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_others_than_32_are_refused_in_one_sentence(tiny_model, precision):
    trainer = Trainer(accelerator="cpu", precision=precision, logger=False, enable_checkpointing=False)
    module = CAHLModule(PolicyConfig(model=str(tiny_model)))
    module.trainer = trainer
    with pytest.raises(ConfigError, match=r"trainer\.precision is .* model\.policy\.dtype \(bfloat16\)") as error:
        module.configure_model()
    assert "\n" not in str(error.value)
    assert module.policy.lm is None  # refused before anything is loaded


@pytest.mark.parametrize("precision", [None, 32, "32", "32-true"])
def test_32_is_taken(precision):
    check_precision(Trainer(accelerator="cpu", precision=precision, logger=False, enable_checkpointing=False))


def test_flex_attention_is_refused_where_it_has_no_backward_pass(tiny_model):
    config = PolicyConfig(model=str(tiny_model), attention="flex_attention")
    module = CAHLModule(config)
    module.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    module.trainer.training = True
    with pytest.raises(ConfigError, match=r"flex_attention, which torch cannot train with on a cpu .* sdpa$") as error:
        module.configure_model()
    assert "\n" not in str(error.value)
    assert module.policy.lm is None
    check_attention(torch.device("cuda"), config)
    check_attention(torch.device("cpu"), PolicyConfig())
