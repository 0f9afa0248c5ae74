"""Two adapters on one base: who is active, who gets gradients, what is saved, what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict

import pytest
import torch

from cahl_pl.errors import PolicyError
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.policy.policy import Policy
from cahl_pl.types import ROLES


def logits_of(policy):
    with torch.no_grad():
        return policy.lm(input_ids=torch.arange(3, 20)[None]).logits


def test_each_role_has_its_own_adapter(policy):
    policy.activate("planner")
    planner = logits_of(policy)
    policy.activate("executor")
    executor = logits_of(policy)
    with policy.without_adapters():
        base = logits_of(policy)
    assert not torch.allclose(planner, executor)
    assert not torch.allclose(planner, base)
    policy.activate("planner")
    assert torch.equal(planner, logits_of(policy))


@pytest.mark.parametrize("role", ROLES)
def test_gradients_reach_the_active_adapter_alone(policy, role):
    policy.activate("executor")
    policy.activate(role)
    with policy.without_adapters():  # the reference pass must not disturb what follows
        logits_of(policy)
    policy.lm(input_ids=torch.arange(3, 20)[None]).logits.sum().backward()
    with_gradient = {name for name, p in policy.lm.named_parameters() if p.grad is not None}
    assert with_gradient
    assert all(f".{role}." in name for name in with_gradient)
    assert len(with_gradient) == len(policy.parameters_of(role))


def test_all_adapter_parameters_stay_trainable_and_the_base_frozen(policy):
    policy.activate("executor")
    with policy.without_adapters():
        pass
    for name, parameter in policy.lm.named_parameters():
        assert parameter.requires_grad == any(f".{role}." in name for role in ROLES)


def test_adapter_state_round_trip_holds_no_base(policy, tiny_model):
    state = {name: tensor.clone() for name, tensor in policy.adapter_state().items()}
    assert all("lora_" in name for name in state)
    other = Policy(policy.config)
    other.load()
    assert not torch.allclose(logits_of(other), logits_of(policy))
    other.load_adapter_state(state)
    torch.testing.assert_close(logits_of(other), logits_of(policy))


def test_adapters_of_another_rank_are_refused(policy, tiny_model):
    other = Policy(PolicyConfig(model=str(tiny_model), lora_rank=2))
    other.load()
    with pytest.raises(PolicyError, match="LoRA rank 2"):
        other.load_adapter_state(policy.adapter_state())


@pytest.mark.parametrize("model", ["./no/such/folder", "{tmp_path}"])
def test_a_model_that_cannot_be_loaded_is_one_sentence(model, tmp_path):
    with pytest.raises(PolicyError) as error:
        Policy(PolicyConfig(model=model.format(tmp_path=tmp_path))).load()
    assert "\n" not in str(error.value)
    assert "policy.model" in str(error.value)


def test_a_missing_gguf_file_is_named(tmp_path):
    with pytest.raises(PolicyError, match=r"weights\.gguf"):
        Policy(PolicyConfig(model=str(tmp_path), gguf_file="weights.gguf")).load()


def test_nf4_gradients_are_the_same_after_a_rollout(tiny_model):
    policy = Policy(PolicyConfig(model=str(tiny_model), quantization="nf4", lora_rank=4))
    torch.manual_seed(1)
    policy.load()

    def gradients():
        policy.activate("planner")
        policy.lm.zero_grad()
        policy.lm(input_ids=torch.arange(3, 20)[None]).logits.square().mean().backward()
        return [p.grad.clone() for n, p in policy.lm.named_parameters() if "lora_B.planner" in n]

    before = gradients()
    logits_of(policy)  # an eval forward without gradient repacks 4-bit weights on some CPUs
    for a, b in zip(before, gradients(), strict=True):
        torch.testing.assert_close(a, b)
    assert any(module.__class__.__name__ == "Linear4bit" for module in policy.lm.modules())


def test_layers_that_cannot_share_prefixes_are_refused(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "odd")
    config = json.loads((folder / "config.json").read_text())
    config["layer_types"] = ["full_attention", "indexed_attention"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(PolicyError, match="indexed_attention"):
        Policy(PolicyConfig(model=str(folder))).load()


@pytest.mark.parametrize(
    ("option", "value"), [("logits_scaling", 4.0), ("logit_scale", 0.25), ("final_logit_softcapping", 2.0)]
)
def test_logits_are_those_of_models_that_scale_them_behind_the_output_layer(policy, option, value):
    hidden = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    plain = policy.logits(hidden)
    setattr(policy.causal_lm.config, option, value)
    expected = 2 * torch.tanh(plain / 2) if option == "final_logit_softcapping" else plain / 4
    torch.testing.assert_close(policy.logits(hidden), expected)
    with pytest.raises(PolicyError, match="changes its logits"):  # this model does not, so now the two differ
        policy._check_logits()


def test_granite_is_scored_as_it_scores_itself(tiny_model, tmp_path):
    from transformers import GraniteConfig, GraniteForCausalLM

    folder = tmp_path / "granite"
    shutil.copytree(tiny_model, folder)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = GraniteConfig(vocab_size=300, num_key_value_heads=2, logits_scaling=8.0, initializer_range=0.3, **sizes)
    GraniteForCausalLM(config).save_pretrained(folder)
    policy = Policy(PolicyConfig(model=str(folder), lora_rank=2))
    policy.load()
    ids = torch.arange(3, 20)[None]
    hidden = policy.causal_lm.base_model(input_ids=ids).last_hidden_state
    torch.testing.assert_close(policy.logits(hidden), policy.lm(input_ids=ids).logits)


def test_no_dropout_is_left_in_the_base(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "dropout")
    config = json.loads((folder / "config.json").read_text()) | {"attention_dropout": 0.5}
    (folder / "config.json").write_text(json.dumps(config))
    policy = Policy(PolicyConfig(model=str(folder), gradient_checkpointing=True, lora_rank=2))
    policy.load()
    still = logits_of(policy)
    with policy.training_mode():
        assert torch.equal(logits_of(policy), still)


@pytest.mark.parametrize(("name", "value"), [("adapter", "alora"), ("lora_alpha", 9)])
def test_adapters_of_another_kind_are_refused(policy, name, value, capsys):
    then = asdict(policy.config)
    policy.check_config(then)
    policy.check_config(then | {"model": "elsewhere"})
    assert "note: the checkpoint was trained on 'elsewhere'" in capsys.readouterr().out
    with pytest.raises(PolicyError, match=rf"policy\.{name} = '?{value}'?, now it is"):
        policy.check_config(then | {name: value})


@pytest.fixture
def without(tiny_model, tmp_path):
    """The tiny model, its tokenizer without some special tokens and its configuration with this end of sequence."""

    def make(*tokens, eos):
        folder = shutil.copytree(tiny_model, tmp_path / "model")
        for name in ("config.json", "generation_config.json"):
            content = json.loads((folder / name).read_text())
            (folder / name).write_text(json.dumps({**content, "eos_token_id": eos}))
        path = folder / "tokenizer_config.json"
        content = json.loads(path.read_text())
        path.write_text(json.dumps({key: value for key, value in content.items() if key not in tokens}))
        return Policy(PolicyConfig(model=str(folder), lora_rank=2))

    return make


@pytest.mark.parametrize(
    ("missing", "eos"),
    [(["pad_token"], 2), (["eos_token"], 2), (["eos_token", "pad_token"], 2), (["eos_token"], [2, 0])],
)
def test_a_tokenizer_without_padding_or_end_takes_what_there_is(without, missing, eos):
    policy = without(*missing, eos=eos)
    policy.load()
    assert policy.tokenizer.eos_token == "<|im_end|>"
    assert policy.tokenizer.pad_token == ("<|im_end|>" if "pad_token" in missing else "<|endoftext|>")


def test_a_tokenizer_by_which_no_output_would_end_is_refused(without):
    with pytest.raises(PolicyError, match=r"has no end-of-sequence token, so that no output would ever end: name"):
        without("eos_token", eos=None).load()
