"""Options of PEFT: what they do, and which of them two adapters on one base cannot have."""

from __future__ import annotations

import json
import re

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from cahl_pl.errors import ConfigError, PolicyError
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.policy.lora import lora_config, targets_of
from cahl_pl.policy.policy import Policy
from cahl_pl.types import ROLES
from tools.quality.check_bases import TOLERANCE, groups_of, scoring_error

IDS = torch.arange(3, 20)[None]


def logits_of(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize("options", [{"use_rslora": True}, {"use_dora": True}], ids=str)
def test_exported_adapters_act_the_same_in_plain_peft(make_policy, tiny_model, tmp_path, options):
    policy = make_policy(**options)
    with torch.no_grad():
        for parameter in policy.parameters_of("executor"):
            parameter.mul_(1.1)  # DoRA's magnitudes too
    policy.lm.save_pretrained(tmp_path, selected_adapters=list(ROLES))
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    plain = PeftModel.from_pretrained(base, tmp_path / "executor")
    policy.activate("executor")
    torch.testing.assert_close(logits_of(policy.lm), logits_of(plain))
    with policy.without_adapters():
        torch.testing.assert_close(
            logits_of(policy.lm), logits_of(AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32))
        )


def test_rank_stabilised_scale(make_policy):
    # alpha 8 and rank 4: 8 / 4 = 2, or 8 / sqrt(4) = 4
    for use, scale in ((False, 2.0), (True, 4.0)):
        module = make_policy(use_rslora=use).causal_lm.model.layers[0].mlp.up_proj
        assert module.scaling == {"planner": scale, "executor": scale}


@pytest.mark.parametrize("init", ["default", "gaussian", "orthogonal"])
@pytest.mark.parametrize("dora", [False, True])
def test_adapters_start_as_the_base(tiny_model, init, dora):
    policy = Policy(PolicyConfig(model=str(tiny_model), lora_rank=4, init_lora_weights=init, use_dora=dora))
    policy.load()
    with policy.without_adapters():
        base = logits_of(policy.lm)
    for role in ROLES:
        policy.activate(role)
        torch.testing.assert_close(logits_of(policy.lm), base, rtol=1e-4, atol=1e-4)
        policy.lm.zero_grad()
        policy.lm(input_ids=IDS).logits.square().mean().backward()
        assert all(p.grad is not None for p in policy.parameters_of(role))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init_lora_weights": "pissa"}, "'pissa', which takes a part out of the base's weights"),
        ({"init_lora_weights": "pissa_niter_16"}, "'pissa_niter_16', which takes a part"),
        ({"init_lora_weights": "olora"}, "'olora', which takes a part"),
        ({"init_lora_weights": "pisa"}, "is 'pisa': give default, gaussian or orthogonal"),
        ({"init_lora_weights": "orthogonal", "lora_rank": 3}, "an even lora_rank"),
        ({"init_lora_weights": "orthogonal", "quantization": "nf4"}, "not quantised"),
        ({"init_lora_weights": "orthogonal", "dtype": "bfloat16"}, "a float32 base"),
        ({"use_dora": True, "adapter": "alora"}, "which PEFT cannot combine"),
    ],
)
def test_what_would_be_wrong_is_refused_in_one_sentence(tiny_model, options, message):
    with pytest.raises(ConfigError) as error:
        Policy(PolicyConfig(model=str(tiny_model), **options)).load()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_pissa_on_a_shared_base_would_be_wrong(tiny_model):
    """The reason for its refusal: PEFT takes a part out of the base for each adapter, and both adapters lack the other's."""
    from peft import get_peft_model

    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    before = logits_of(base)
    config = lora_config(PolicyConfig(lora_rank=4), base)
    config.init_lora_weights = "pissa"
    model = get_peft_model(base, config, adapter_name="planner")
    torch.testing.assert_close(logits_of(model), before, rtol=1e-3, atol=1e-3)  # right as long as it is alone
    model.add_adapter("executor", config)
    for role in ROLES:
        model.set_adapter(role)
        assert (logits_of(model) - before).abs().max() > 0.1
    with model.disable_adapter():
        assert (logits_of(model) - before).abs().max() > 0.1


@pytest.mark.parametrize("name", ["use_rslora", "use_dora"])
def test_a_checkpoint_of_another_kind_is_refused(make_policy, name):
    from dataclasses import asdict

    policy = make_policy()
    then = json.loads(json.dumps(asdict(policy.config)))
    policy.check_config({key: value for key, value in then.items() if key != name})  # of before there was such a key
    with pytest.raises(PolicyError, match=rf"policy\.{name} = True, now it is False"):
        policy.check_config(then | {name: True})


def adapted(policy):
    """Names of the adapted modules, layers' numbers left out."""
    names = {name.partition(".lora_A")[0] for name, _ in policy.lm.named_parameters() if ".lora_A.planner" in name}
    return {re.sub(r"\.\d+\.", ".", name.removeprefix("base_model.model.")) for name in names}


def test_all_linear_means_the_attention_of_a_mixture_of_experts(on_base):
    policy = on_base("Mixtral")
    assert adapted(policy) == {f"model.layers.self_attn.{name}_proj" for name in "qkvo"}
    assert policy.lm.peft_config["planner"].target_modules == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert any("mlp" in name for name in adapted(on_base("Mixtral", lora_targets=r".*(q_proj|mlp\.gate)")))


@pytest.mark.parametrize("name", ["Gemma 3 (multimodal)", "Mistral 3 (multimodal)", "Gemma 4 (multimodal)"])
def test_all_linear_means_the_language_model_of_a_multimodal_model(on_base, name):
    policy = on_base(name)
    names = adapted(policy)
    assert len(names) >= 7
    assert all(name.startswith("model.language_model.") for name in names)
    assert scoring_error(policy, groups_of(60)) < TOLERANCE
    policy.activate("executor")
    policy.lm(input_ids=IDS, use_cache=False).logits.logsumexp(-1).sum().backward()
    assert all(p.grad is not None for p in policy.parameters_of("executor"))


def test_weights_that_fused_kernels_take_without_the_adapter_are_not_adapted(on_base):
    names = adapted(on_base("Bamba"))
    assert {"model.layers.mamba.in_proj", "model.layers.self_attn.o_proj"} <= names
    assert "model.layers.mamba.out_proj" not in names


def test_all_linear_of_a_plain_model_is_pefts(policy):
    assert len(adapted(policy)) == 7
    assert targets_of(policy.config, policy.causal_lm) == "all-linear"
