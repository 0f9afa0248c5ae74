"""Folders that are damaged or of something else are refused in one sentence that names what helps; stray keys are not."""

from __future__ import annotations

import json
import shutil

import pytest
from transformers import AutoConfig

from cahl_pl.errors import PolicyError
from cahl_pl.policy import loading
from cahl_pl.policy.bases import check_base, check_length
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.policy.policy import Policy
from cahl_pl.policy.tokenizers import check_vocabulary
from tools.quality.check_bases import TOLERANCE, groups_of, sampling_error, scoring_error


@pytest.fixture
def changed(tiny_model, tmp_path):
    """The tiny model with other values in its config.json; None takes a key out."""

    def make(**values):
        folder = shutil.copytree(tiny_model, tmp_path / "model")
        config = json.loads((folder / "config.json").read_text()) | values
        (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
        return folder

    return make


def refused(folder, said, **config):
    with pytest.raises(PolicyError, match=said) as error:
        Policy(PolicyConfig(model=str(folder), lora_rank=2, **config)).load()
    assert "\n" not in str(error.value)


def no_weights(*given, **options):
    raise AssertionError("weights are loaded")


def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused_before_weights_are_loaded(changed, monkeypatch):
    monkeypatch.setattr(loading, "auto_class", no_weights)
    refused(
        changed(vocab_size=250),
        r"writes tokens up to 258 \(.*\), but its config\.json knows 250 \(vocab_size\), .*take",
    )


def test_a_special_token_that_nothing_writes_needs_no_embedding(tiny_model):
    tokenizer = loading.load_tokenizer(config := PolicyConfig(model=str(tiny_model)))
    base = AutoConfig.from_pretrained(tiny_model)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|image|>"]})
    assert len(tokenizer) == base.vocab_size + 1
    check_vocabulary(tokenizer, config, base)
    tokenizer.chat_template += "<|image|>"
    with pytest.raises(PolicyError, match=r"writes tokens up to 259 \('<\|image\|>'\)"):
        check_vocabulary(tokenizer, config, base)


def test_prompts_are_examined_before_weights_are_loaded(tiny_model, monkeypatch):
    monkeypatch.setattr(loading, "auto_class", no_weights)

    def examine(tokenizer):
        raise PolicyError(f"{len(tokenizer)} tokens")

    with pytest.raises(PolicyError, match="259 tokens"):
        Policy(PolicyConfig(model=str(tiny_model))).load(examine=examine)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("Llama", {"sliding_window": 24}),
        ("OLMo 2", {"sliding_window": 24}),
        ("Llama", {"attention_chunk_size": 24}),
        ("Llama", {"sliding_window": 24, "layer_types": ["sliding_attention"] * 4}),
    ],
)
def test_a_window_that_the_family_never_reads_is_none(on_base, family_config, name, values):
    if "layer_types" in values:
        values = values | {"layer_types": ["sliding_attention"] * family_config(name).num_hidden_layers}
    policy = on_base(name, values)
    assert scoring_error(policy, groups_of(100)) < TOLERANCE
    assert sampling_error(policy, groups_of(100)) < TOLERANCE


@pytest.mark.parametrize(
    "name", ["Mistral", "Qwen2, window", "Gemma 3", "Phi-3", "OLMo 3", "Cohere 2", "SmolLM3", "Llama 4"]
)
def test_a_window_that_it_reads_stays(on_base, name):
    config = on_base(name, **({"attention": "eager"} if name == "Llama 4" else {})).causal_lm.config.get_text_config()
    assert getattr(config, "sliding_window", None) or config.attention_chunk_size


def test_sizes_that_contradict_each_other_are_one_sentence(tiny_model, monkeypatch):
    def fail(self, hidden):
        raise RuntimeError("The size of tensor a (3)\nmust match")

    monkeypatch.setattr(Policy, "logits", fail)
    refused(
        tiny_model, r"cannot read four tokens \(RuntimeError: The size of tensor a \(3\)\): look for sizes in its conf"
    )


def test_what_is_no_causal_language_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    refused(tmp_path, "a t5 model is no causal language model to transformers")


def test_code_that_comes_with_a_model_names_its_switch(changed):
    auto_map = {"AutoConfig": "configuration_x.XConfig", "AutoModelForCausalLM": "modeling_x.X"}
    refused(changed(model_type="xmodel", auto_map=auto_map), r"set model\.policy\.trust_remote_code to true")


@pytest.mark.parametrize(
    ("name", "said"), [("config.json", "give the folder"), ("x.gguf", r"policy\.gguf_file to 'x\.gguf'")]
)
def test_a_file_in_the_place_of_a_folder(changed, name, said):
    path = changed() / name
    path.touch()
    refused(path, rf"names the file .*, where it takes a folder: .*{said}")


@pytest.mark.parametrize("kind", ["minimax", "falcon_mamba"])
def test_families_that_no_key_would_help_are_refused_by_their_configuration(kind):
    config = AutoConfig.for_model(kind)
    with pytest.raises(PolicyError, match=f"a {kind} model .*choose another base"):
        check_base(config, PolicyConfig())


def test_a_reason_on_a_second_line_is_told(changed):
    refused(changed(num_hidden_layers=3), r"validator 'validate_layer_type': \S+.*\): give")


def test_the_gate_of_attention_among_experts_is_left_to_peft(tmp_path):
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    from cahl_pl.policy.lora import lora_config, with_adapter

    if "afmoe" not in CONFIG_MAPPING:
        pytest.skip("this version of transformers has no AFMoE")
    sizes = {"hidden_size": 32, "intermediate_size": 32, "moe_intermediate_size": 32, "num_attention_heads": 2}
    config = AutoConfig.for_model("afmoe", num_hidden_layers=2, num_key_value_heads=2, vocab_size=64, **sizes)
    base = AutoModelForCausalLM.from_config(config)
    wanted = PolicyConfig(lora_rank=2)
    adapted = {
        n.split(".lora_A")[0].rpartition(".")[2]
        for n, _ in with_adapter(wanted, base, lora_config(wanted, base)).named_parameters()
        if ".lora_A" in n
    }
    assert adapted == {"q_proj", "k_proj", "v_proj", "o_proj"}


def test_longer_sequences_than_a_base_was_made_for_are_told(family_config, capsys):
    config = family_config("Llama", max_position_embeddings=128)
    check_length(config, "base", 128)
    assert capsys.readouterr().err == ""
    check_length(config, "base", 1040)
    assert "may have 1,040 tokens, but the base 'base' was made for 128 (max_position" in capsys.readouterr().err
