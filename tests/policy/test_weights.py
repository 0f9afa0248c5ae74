"""Files without the weights that config.json describes are refused, by their names; what may be missing is no fault."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2Config, Qwen2ForCausalLM

from cahl_pl.errors import PolicyError
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.policy.policy import Policy
from cahl_pl.policy.weights import check_weights

HEAD, LAYER = "lm_head.weight", "model.layers.1."


@pytest.fixture
def changed(tiny_model, tmp_path):
    """The tiny model with an output layer of its own; `change` is given its weights, `values` go into its config.json."""

    def make(change=lambda weights: None, **values):
        folder = shutil.copytree(tiny_model, tmp_path / "model")
        config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": False} | values
        (folder / "config.json").write_text(json.dumps(config))
        weights = load_file(folder / "model.safetensors")
        weights.setdefault(HEAD, weights["model.embed_tokens.weight"].clone())
        change(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return make


def load(folder, **config):
    policy = Policy(PolicyConfig(model=str(folder), lora_rank=2, **config))
    policy.load()
    return policy


def drop(*parts):
    def change(weights):
        for name in [name for name in weights if any(part in name for part in parts)]:
            del weights[name]

    return change


def as_classifier(weights):
    del weights[HEAD]
    weights["score.weight"] = torch.randn(2, 32)


def with_norm(weights):
    weights[f"{LAYER}self_attn.q_norm.weight"] = torch.ones(8)


FAULTS = {
    "no head": (drop(HEAD), {}, r"lm_head\.weight is not in the files, and would start from random"),
    "no MLP": (drop(f"{LAYER}mlp"), {}, r"layers\.1\.mlp\.down_proj\.weight, .*up_proj\.weight are not in the files"),
    "more layers": (
        drop(),
        {"num_hidden_layers": 3, "layer_types": None},
        r"layers\.2\.\S+, \S+, \S+ and 9 more are not in the files",
    ),
    "fewer layers": (
        drop(),
        {"num_hidden_layers": 1, "layer_types": None},
        r"has no place for model\.layers\.1\..* more; .*check_base to",
    ),
    "classifier": (as_classifier, {}, r"lm_head\.weight is not in the files"),
    "unknown norm": (with_norm, {}, r"has no place for model\.layers\.1\.self_attn\.q_norm\.weight;"),
    "wider": (
        drop(),
        {"intermediate_size": 96},
        r"down_proj\.weight is 32 x 64 in the files and 32 x 96 by config\.json",
    ),
}


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("fault", FAULTS)
def test_other_weights_than_those_described_are_refused_by_name(changed, fault, quantization):
    change, values, said = FAULTS[fault]
    with pytest.raises(PolicyError, match=said) as error:
        load(changed(change, **values), quantization=quantization)
    assert "\n" not in str(error.value)


def test_so_they_are_in_a_bin_file(changed):
    folder = changed(drop(HEAD))
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(PolicyError, match=r"lm_head\.weight is not in the files"):
        load(folder)


def harmless(weights):
    del weights[HEAD]  # tied
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    weights["model.layers.0.attn.masked_bias"] = torch.ones(1)
    weights["mtp.layers.0.mlp.up_proj.weight"] = torch.ones(2, 2)
    weights["model.layers.2.eh_proj.weight"] = torch.ones(2, 2)
    weights["model.layers.2.mlp.up_proj.weight"] = torch.ones(2, 2)
    weights["visual.blocks.0.attn.qkv.weight"] = torch.ones(2, 2)


def test_what_may_be_missing_or_left_out_is_no_fault(changed):
    assert load(changed(harmless, tie_word_embeddings=True)).lm is not None


def test_layers_too_many_are_left_out_where_that_is_asked_for(changed):
    assert load(changed(num_hidden_layers=1, layer_types=None), check_base=False).lm is not None


def test_a_missing_buffer_has_its_models_value_and_missing_vision_is_not_used():
    config = Qwen2Config(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    model = Qwen2ForCausalLM(config)
    model.model.layers[0].register_buffer("bias_of_router", torch.zeros(2))
    model.vision = torch.nn.Linear(2, 2)
    missing = {"model.layers.0.bias_of_router", "vision.weight"}
    found = {"missing_keys": missing, "unexpected_keys": set(), "mismatched_keys": set()}
    check_weights(model, found, PolicyConfig())
    found["missing_keys"].add("model.norm.weight")
    with pytest.raises(PolicyError, match=r"model\.norm\.weight is not"):
        check_weights(model, found, PolicyConfig())


def test_a_gguf_file_that_lacks_weights_leaves_no_copy(tiny_model, tmp_path, monkeypatch):
    import sys

    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setitem(
        sys.modules, "gguf", sys
    )  # a stand-in: the package reads the file, which transformers does not here
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "base.gguf").write_bytes(b"GGUF")
    found = {"missing_keys": {"model.norm.weight"}, "unexpected_keys": set(), "mismatched_keys": set()}
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *given, **options: (model, found))
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *given, **options: tokenizer)
    with pytest.raises(PolicyError, match=r"base\.gguf' are not those .*model\.norm\.weight is not in the files"):
        load(tmp_path, gguf_file="base.gguf")
    assert list((tmp_path / "cache" / "cahl_pl").iterdir()) == []
