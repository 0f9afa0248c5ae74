"""Which bases are refused by their `config.json` alone, with which sentence, and how long sequences may be."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, LlamaConfig

from cahl_pl.engines import TransformersEngine
from cahl_pl.engines.base import Sampling
from cahl_pl.errors import ConfigError, PolicyError
from cahl_pl.policy import bases
from cahl_pl.policy.bases import auto_class, check_base, keeps_states, length_limit
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.policy.policy import Policy
from tools.quality.check_bases import TOLERANCE, greedy_error, groups_of, sampling_error, scoring_error


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("gpt-oss", {}, "a gpt_oss model has no sdpa attention in transformers: set model.policy.attention to eager"),
        (
            "Falcon",
            {"attention": "flex_attention"},
            "has no FlexAttention in transformers: set model.policy.attention to",
        ),
        ("BLOOM", {}, r"ALiBi.* choose another base"),
        ("MPT", {}, r"ALiBi.* choose another base"),
        ("Falcon, ALiBi", {}, r"ALiBi.* choose another base"),
        ("GPT-Neo", {}, "counts the window of its local layers in the row"),
        ("xLSTM", {}, "keeps states in a form of its own"),
        ("RWKV", {}, "keeps states in a form of its own"),
        ("CPM-Ant", {}, "puts tokens of its own before each row"),
        ("Nemotron-H", {}, r"limits the steps of its states while it reads and not while it samples"),
        ("Qwen3.5", {"adapter": "alora"}, "set model.policy.adapter to lora"),
    ],
)
def test_a_base_that_would_be_wrong_is_refused_by_its_configuration(family_config, name, settings, said):
    with pytest.raises(PolicyError, match=said) as error:
        check_base(family_config(name), PolicyConfig(**settings))
    assert "\n" not in str(error.value)


def test_what_a_model_cannot_do_names_the_key_that_helps(monkeypatch):
    config, wanted = LlamaConfig(), PolicyConfig(gradient_checkpointing=True)
    check_base(config, wanted)
    rigid = SimpleNamespace(_supports_sdpa=True, supports_gradient_checkpointing=False)
    monkeypatch.setattr(bases, "_model_class", lambda config: rigid)
    with pytest.raises(PolicyError, match=r"set model\.policy\.gradient_checkpointing to false"):
        check_base(config, wanted)
    check_base(config, PolicyConfig())
    config.layer_types = ["full_attention", "indexed_attention"]
    with pytest.raises(PolicyError, match=r"has layers \(indexed_attention\) that take no mask"):
        check_base(config, PolicyConfig())


def test_a_base_is_refused_before_its_weights_are_loaded(family_config, tmp_path):
    family_config("BLOOM").save_pretrained(tmp_path)  # there are no weights
    with pytest.raises(PolicyError, match="ALiBi"):
        Policy(PolicyConfig(model=str(tmp_path), attention="eager")).load()


def test_image_text_models_are_loaded_by_their_own_class(family_config):
    assert auto_class(family_config("Mistral 3 (multimodal)")) is AutoModelForImageTextToText
    assert auto_class(family_config("Llama")) is AutoModelForCausalLM


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("Llama", None),
        ("Llama, YaRN", None),
        ("Gemma 3", None),
        ("Phi-3, LongRoPE", 80),
        ("Llama, dynamic NTK", 48),
        ("GPT-2", 512),
        ("OPT", 512),
    ],
)
def test_how_long_sequences_may_be(family_config, name, tokens):
    limit = length_limit(family_config(name))
    assert (limit and limit.tokens) == tokens


@pytest.mark.parametrize(
    ("names", "apart"),
    [
        (("Qwen3.5", "Qwen3-Next", "LFM2", "Granite 4-H", "Falcon-H1", "Qwen3.5 (multimodal)"), True),
        (("Qwen3", "Gemma 3", "Mistral", "Granite"), False),
    ],
)
def test_only_bases_with_states_keep_sequences_apart(family_config, names, apart):
    assert [keeps_states(family_config(name)) for name in names] == [apart] * len(names)


def test_longrope_is_right_up_to_its_border_and_refused_beyond(on_base):
    policy = on_base("Phi-3, LongRoPE")
    at_the_border = groups_of(80)
    assert max(len(g.prompt_ids) + len(c) for g in at_the_border for c in g.completion_ids) <= 80
    assert scoring_error(policy, at_the_border) < TOLERANCE
    assert sampling_error(policy, groups_of(79)) < TOLERANCE  # the longest prompt has 63 tokens, a completion 10
    assert greedy_error(policy, groups_of(79)) < TOLERANCE
    said = r"may have 83 tokens, .* takes 80 at most: it turns longer ones by other frequencies .*max_prompt_tokens"
    prompt, sampling = [list(range(10, 83))], Sampling(0.0, 1.0, 10)
    for generate in (
        lambda: TransformersEngine().generate(policy, "planner", prompt, 1, sampling, torch.Generator()),
        lambda: TransformersEngine().generate_from_drafts(
            policy, "planner", prompt, [[5]], sampling, torch.Generator()
        ),
    ):
        with pytest.raises(ConfigError, match=said):
            generate()
    with pytest.raises(ConfigError, match="takes 80 at most"):
        scoring_error(policy, groups_of(100))


def test_drafts_of_which_one_is_right_for_longer_do_not_cross_the_border(on_base):
    policy, engine, sampling = on_base("Phi-3, LongRoPE"), TransformersEngine(), Sampling(0.0, 1.0, 10)
    prompts = [list(range(10, 80)), list(range(100, 120))]  # 70 tokens, so that 10 more reach the border, and 20
    plain = [c for (c,) in engine.generate(policy, "planner", prompts, 1, sampling, torch.Generator())]
    drafts = [plain[0].ids.tolist()[:8], [(plain[1].ids[0].item() + 1) % 800]]
    drafted = engine.generate_from_drafts(policy, "planner", prompts, drafts, sampling, torch.Generator())
    assert len(plain[0].ids) == len(plain[1].ids) == 10
    for (found,), expected in zip(drafted, plain, strict=True):
        assert found.ids.tolist() == expected.ids.tolist()
        torch.testing.assert_close(found.logprobs, expected.logprobs, atol=TOLERANCE, rtol=0)


def test_more_tokens_than_the_base_takes_are_refused_before_it_is_loaded(base_of):
    policy = Policy(PolicyConfig(model=str(base_of("GPT-2"))))
    with pytest.raises(ConfigError, match=r"may have 513 tokens, .* knows no more positions .*max_prompt_tokens"):
        policy.load(longest=513)
    assert policy.lm is None
    policy.load(longest=512)


def test_hyperclova_multiplies_its_logits(on_base):
    policy = on_base("HyperCLOVA X")
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        hidden = policy.decoder(input_ids=ids).last_hidden_state
        torch.testing.assert_close(policy.logits(hidden), policy.lm(input_ids=ids).logits)
