"""Bytes computed by hand for small shapes; test_memory_held.py has what a small model really holds."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from cahl_pl.callbacks.memory import weights_gib
from cahl_pl.engines import TransformersEngine
from cahl_pl.errors import PolicyError
from cahl_pl.memory_plan import (
    GIB,
    ModelShape,
    Settings,
    largest_micro_batch,
    made_to_fit,
    overrides,
    peak,
    references_of,
    sampling_moments,
    settings_of,
    shape_of,
    stages,
    update_moments,
)
from cahl_pl.memory_plan.parts import (
    attention_bytes,
    backward_bytes,
    base_bytes,
    dequantised_bytes,
    kv_bytes,
    mask_bytes,
    mlp_bytes,
    nf4_bytes,
    saved_bytes,
    score_logits_bytes,
)
from cahl_pl.memory_plan.stages import CONTEXT, FRAGMENTATION
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.rollout.config import RolloutConfig

SHAPE = ModelShape(
    hidden=8,
    intermediate=32,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=2,
    vocabulary=100,
    linear=(64, 256, 128),
    others=1000,
    adapter=50,
    adapted_inputs=80,  # 6 of 8, one of 32
    adapted=7,
    rank=4,
)
SETTINGS = Settings(
    quantization="none",
    dtype_bytes=4,
    gradient_checkpointing=False,
    adapter="lora",
    attention="sdpa",
    max_tokens_per_micro_batch=100,
    prefix_cache_tokens=0,
    batch_size=8,
    max_prefill_tokens=16384,
    max_prompt_tokens=20,
    samples={"planner": 2, "executor": 4},
    new_tokens={"planner": 10, "executor": 5},
    prompts={"planner": 6, "executor": 12},
)
HALF = replace(SETTINGS, dtype_bytes=2)


def test_weights():
    assert nf4_bytes(64 * 32) == 1024 + 32 + 4 + 4 + 64 + 1024  # packed, scales, their scale, offset, two tables
    assert nf4_bytes(64 * 257) == 64 * 257 // 2 + 257 + 8 + 4 + 64 + 1024  # a second block of scales
    assert base_bytes(SHAPE, HALF) == 2 * 1448
    assert base_bytes(SHAPE, replace(HALF, quantization="nf4")) == 2 * 1000 + sum(map(nf4_bytes, (64, 256, 128)))
    assert dequantised_bytes(SHAPE, HALF) == 0
    assert dequantised_bytes(SHAPE, replace(HALF, quantization="nf4")) == 256 * 2 + 2 * 4 * 4


def test_a_token():
    assert kv_bytes(SHAPE, HALF) == 2 * 2 * 2 * 2 * 2
    # norms, attention (q, k, v, output; a number a head), gate, activation and up, float32 copies, A's output
    assert saved_bytes(SHAPE, HALF) == 2 * 4 * 9 + (4 * 2 * 8 + 4 * 4) + 3 * 2 * 32 + 4 * 80 + 4 * 4 * 7
    assert saved_bytes(SHAPE, SETTINGS) == 2 * 4 * 9 + (4 * 4 * 8 + 4 * 4) + 3 * 4 * 32 + 4 * (2 * 8 + 32) + 4 * 4 * 7
    assert mlp_bytes(SHAPE, HALF) == 4 * 2 * 8 + 4 * 8 + 2 * 32 + (2 + 8) * 32
    assert mlp_bytes(SHAPE, SETTINGS) == 4 * 4 * 8 + 4 * 32 + (4 + 8) * 32
    assert attention_bytes(SHAPE, HALF) == 3 * 2 * 8 + 4 * 2 * 8 + 2 * 2 * 4
    assert backward_bytes(SHAPE, SETTINGS) == 2 * 4 * 40


def test_masks():
    assert mask_bytes(SHAPE, HALF, 30, 10) == 300
    assert mask_bytes(SHAPE, HALF, 30, 10, layers=2) == 300 * (1 + 2 * 2)
    assert mask_bytes(SHAPE, HALF, 30, 10, attending=True) == 300 * (1 + 2 + 1)
    flex = replace(HALF, attention="flex_attention")  # four tables of 16 blocks, and what they are made of
    assert mask_bytes(SHAPE, flex, 512, 512, layers=2) == 16 * (4 * 4 + 4 * 8 + 48)
    eager = replace(HALF, attention="eager")
    assert mask_bytes(SHAPE, eager, 30, 10, layers=2) == 300 * (1 + 2 + 4 * 2 * (4 + 2))
    assert mask_bytes(SHAPE, eager, 30, 10, attending=True) == 300 * (1 + 2 + 4 * (3 * 2 + 4))


def test_logits_come_in_chunks():
    assert score_logits_bytes(SHAPE, SETTINGS, 10) == 12 * 10 * 100
    assert score_logits_bytes(SHAPE, SETTINGS, 5000) == 12 * 2048 * 100
    # a bit a token, and three bytes where 64 rows are written out
    assert (
        score_logits_bytes(SHAPE, replace(SETTINGS, constrained=True), 5000)
        == 12 * 2048 * 100 + 2048 * 100 // 8 + 3 * 6400
    )


def test_sampling():
    # 8 completions at once are 4 prompts of 2; token: 2 layers, 2 heads of 2, keys and values
    token, buffer = 2 * 2 * 2 * 2 * 4, 20 + 2 * 10
    attend, read, laid_out, continued = sampling_moments(SHAPE, SETTINGS, "planner")
    assert read["KV cache"] == 80 * token / 2  # of the first layer; the second one ends with its own
    assert (read["attention masks"], attend["attention masks"]) == (80 * 20, 80 * 20 * (1 + 4 + 1))
    assert read["activations"] == 80 * (mlp_bytes(SHAPE, SETTINGS) + 2 * 4 * 2)
    assert attend["activations"] == 80 * (attention_bytes(SHAPE, SETTINGS) + 2 * 4 * 2)
    assert laid_out["KV cache"] == (80 + 4 * buffer) * token
    assert continued["KV cache"] == 4 * buffer * token
    assert continued["logits"] == 5 * 4 * 8 * 100
    assert continued["activations"] == 8 * mlp_bytes(SHAPE, SETTINGS)  # 8 new tokens through a layer
    # what is seen, of it the boolean mask, and with its negation a float one; folded, twice as high, a float one and a copy
    assert continued["attention masks"] == 8 * buffer * (1 + 1 + 4 + 1 + 2 * (4 + 4))
    plain = sampling_moments(replace(SHAPE, folds=False), SETTINGS, "planner")[3]
    # keys and values for all 4 heads of 2
    assert plain["activations"] - continued["activations"] == 4 * buffer * 2 * 4 * 8
    assert plain["attention masks"] == 8 * buffer * (1 + 1 + 4 + 1)
    single = replace(SETTINGS, samples={"planner": 1, "executor": 1}, attention="eager", batch_size=4)
    for folds, repeated in ((True, 0), (False, 4 * 30 * 2 * 4 * 8)):
        moment = sampling_moments(replace(SHAPE, folds=folds), single, "planner")[3]
        assert moment["activations"] == repeated + 4 * mlp_bytes(SHAPE, SETTINGS)


def test_prompts_that_are_read_in_several_passes():
    token, buffers = 64, 4 * (20 + 2 * 10) * 64
    several = replace(SETTINGS, max_prefill_tokens=50)  # 2 of 4 prompts
    attend, read, laid_out, continued = sampling_moments(SHAPE, several, "planner")
    assert read["KV cache"] == attend["KV cache"] == 40 * token / 2 + buffers
    assert read["activations"] == 40 * (mlp_bytes(SHAPE, SETTINGS) + 2 * 4 * 2)
    assert read["attention masks"] == 40 * 20
    assert laid_out["KV cache"] == 40 * token + buffers
    assert continued == sampling_moments(SHAPE, SETTINGS, "planner")[3]
    one_by_one = sampling_moments(SHAPE, replace(SETTINGS, max_prefill_tokens=7), "planner")[1]
    assert one_by_one["KV cache"] == 20 * token / 2 + buffers


def test_kept_prefixes_are_bounded_by_the_store_and_by_the_round():
    def kept(role, tokens, **changes):
        settings = replace(SETTINGS, prefix_cache_tokens=tokens, **changes)
        return [m["kept prefixes"] // kv_bytes(SHAPE, settings) for m in sampling_moments(SHAPE, settings, role)]

    assert kept("planner", 1000) == [40, 40, 120, 120]
    assert kept("planner", 100) == [40, 40, 100, 100]
    assert kept("executor", 1000) == [320, 320, 360, 360]
    assert kept("executor", 10000, steps=6) == [1520, 1520, 1560, 1560]


def test_update():
    logits, backward = update_moments(SHAPE, SETTINGS, tokens=60, row=30, predicted=20)
    saved = saved_bytes(SHAPE, SETTINGS)
    ends = 60 * (4 * 8 + 2 * 4 * 2 + 8 * 8)
    assert logits["activations"] == ends + 20 * 4 * 8 + 60 * 2 * saved
    assert logits["logits"] == 12 * 20 * 100
    assert logits["attention masks"] == 60 * 30 * (1 + 2 * 4)
    assert backward["activations"] == 60 * (2 * saved + backward_bytes(SHAPE, SETTINGS) + 4 * 8)
    split, _ = update_moments(SHAPE, SETTINGS, tokens=60, row=30, predicted=20, trunk=10)
    assert split["attention masks"] == 2 * (30 - 10) * 30 * (1 + 2 * 4)
    assert split["activations"] == logits["activations"] + 2 * 10 * (kv_bytes(SHAPE, SETTINGS) - saved)
    recomputed = replace(SETTINGS, gradient_checkpointing=True)
    logits, backward = update_moments(SHAPE, recomputed, tokens=60, row=30, predicted=20)
    assert logits["activations"] == ends + 20 * 4 * 8 + 60 * 2 * 4 * 8  # the inputs of two layers
    assert backward["activations"] == 60 * (2 * 4 * 8 + saved + backward_bytes(SHAPE, SETTINGS) + 4 * 8)
    assert logits["attention masks"] == 60 * 30
    assert backward["attention masks"] == 60 * 30 * (1 + 4)


def test_stages_hold_what_is_fixed_and_what_is_assumed():
    found = {stage.name: stage for stage in stages(SHAPE, SETTINGS)}
    assert list(found) == ["sample planner", "sample executor", "update planner", "update executor"]
    for stage in found.values():
        parts = dict(stage.parts)
        assert [parts.pop(x) for x in ("base", "adapters", "optimiser", "gradients")] == [4 * 1448, 400, 800, 200]
        assert parts.pop("context") == CONTEXT
        moving = parts.pop("fragmentation")
        assert moving == int(FRAGMENTATION * sum(parts.values())) > 0
        assert stage.total == 4 * 1448 + 1400 + CONTEXT + moving + sum(parts.values())
    assert peak(SHAPE, SETTINGS) == max(stage.total for stage in found.values())


def test_a_longer_sequence_than_a_micro_batch_stands_alone():
    assert SETTINGS.micro_batch_tokens("planner") == 100
    assert replace(SETTINGS, max_tokens_per_micro_batch=7).micro_batch_tokens("planner") == 20 + 10 - 1


def test_evaluation_samples_one_completion_of_each_task():
    *_, evaluated, _, _ = stages(SHAPE, replace(SETTINGS, evaluated=50))
    assert evaluated.name == "evaluate"
    assert evaluated.parts["KV cache"] in (8 * 20 * 32, 8 * (20 + 30) * 64, 8 * 30 * 64)  # 8 tasks, as batch_size says


def test_activated_lora_trains_without_checkpointing():
    alora = replace(SETTINGS, adapter="alora", gradient_checkpointing=True, prefix_cache_tokens=50)
    logits, _ = update_moments(SHAPE, alora, tokens=60, row=30)
    assert logits["activations"] > 60 * 2 * saved_bytes(SHAPE, SETTINGS)
    assert logits["KV cache"] == 60 * 64
    assert logits["kept prefixes"] == 50 * 64


# --- what fits ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def big():
    """About 7B; changes are worth gigabytes."""
    shape = ModelShape(3584, 18944, 28, 28, 4, 128, 152064, (67895296,) * 96, 1090328064, 40370176, 40448, 7, 16)
    policy = PolicyConfig(quantization="nf4", dtype="bfloat16", gradient_checkpointing=True)
    return shape, settings_of(policy, RolloutConfig(), 16384, 64, TransformersEngine())


def test_what_fits_is_left_alone(big):
    shape, settings = big
    assert made_to_fit(shape, settings, 200 * GIB) == settings
    assert overrides(settings, settings) == []


@pytest.mark.parametrize(
    ("field", "value", "key"),
    [
        ("gradient_checkpointing", False, "--model.policy.gradient_checkpointing true"),
        ("max_tokens_per_micro_batch", 131072, "--model.max_tokens_per_micro_batch "),
        ("batch_size", 2048, "--data.engine cahl_pl.engines.TransformersEngine --data.engine.batch_size "),
        (
            "max_prefill_tokens",
            262144,
            "--data.engine cahl_pl.engines.TransformersEngine --data.engine.max_prefill_tokens ",
        ),
        ("prefix_cache_tokens", 800_000, "--model.policy.prefix_cache_tokens "),
        ("quantization", "none", "--model.policy.quantization nf4"),
        ("max_prompt_tokens", 65536, "--data.rollout.max_prompt_tokens "),
    ],
)
def test_the_change_that_makes_it_fit_is_found(big, field, value, key):
    shape, settings = big
    limit = {"quantization": 14, "gradient_checkpointing": 30, "max_prefill_tokens": 30, "batch_size": 30}.get(
        field, 45
    )
    limit *= GIB
    small = replace(
        settings,
        batch_size=128 if field == "max_prefill_tokens" else 4,
        max_tokens_per_micro_batch=2048,
        max_prompt_tokens=2048,
        prefix_cache_tokens=0,
    )
    assert peak(shape, small) <= limit
    broken = replace(small, **{field: value})
    assert peak(shape, broken) > limit
    fitting = made_to_fit(shape, broken, limit)
    assert peak(shape, fitting) <= limit
    (change,) = overrides(broken, fitting)
    assert change.startswith(key)


def test_nothing_helps_where_the_base_alone_is_too_large(big):
    shape, settings = big
    assert made_to_fit(shape, settings, 4 * GIB) is None
    assert largest_micro_batch(shape, settings, 4 * GIB) is None


def test_largest_micro_batch_is_the_largest(big):
    shape, settings = big

    def update_fits(tokens):
        at = stages(shape, replace(settings, max_tokens_per_micro_batch=tokens))
        return all(stage.total <= 45 * GIB for stage in at if stage.name.startswith("update"))

    largest = largest_micro_batch(shape, settings, 45 * GIB)
    assert largest % 256 == 0
    assert update_fits(largest)
    assert not update_fits(largest + 256)


# --- from a configuration ----------------------------------------------------------------------------------------------


def test_qwen2_7b_is_counted_from_its_configuration_alone(qwen):
    shape = shape_of(PolicyConfig(model=qwen))
    assert sum(shape.linear) + shape.others == 7_615_616_512  # as its model card says: 7.61B
    # q and o 3584 x 3584, k and v 3584 x 512, three of 3584 x 18944
    assert sum(shape.linear) == 28 * (2 * 3584**2 + 2 * 3584 * 512 + 3 * 3584 * 18944)
    assert len(shape.linear) == 28 * 7
    assert shape.adapter == 28 * 16 * (2 * 2 * 3584 + 2 * (3584 + 512) + 3 * (3584 + 18944))
    assert (shape.adapted, shape.adapted_inputs) == (7, 6 * 3584 + 18944)
    assert (shape.kv_heads, shape.head_dim, shape.vocabulary, shape.folds) == (4, 128, 152064, True)


def test_references_of_a_divergence_after_a_warm_start_are_further_adapters():
    assert references_of(PolicyConfig(), 0, [0.1, 0.1]) == 0
    assert references_of(PolicyConfig(), 3, [0.1, 0.0]) == 1
    assert references_of(PolicyConfig(adapters="runs/pair"), 0, [0.1, 0.1]) == 2
    stage = stages(SHAPE, replace(SETTINGS, references=2))[0]
    assert stage.parts["adapters"] == 2 * stages(SHAPE, SETTINGS)[0].parts["adapters"]
    assert stage.parts["optimiser"] == stages(SHAPE, SETTINGS)[0].parts["optimiser"]


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_base_and_adapters_are_those_of_the_loaded_model(make_policy, tiny_model, quantization):
    policy = make_policy(quantization=quantization)
    shape = shape_of(policy.config)
    loaded = weights_gib(policy.lm)
    settings = replace(SETTINGS, quantization=quantization)
    assert base_bytes(shape, settings) == round(loaded["memory/base_gib"] * GIB)
    assert 2 * 4 * shape.adapter == round(loaded["memory/adapters_gib"] * GIB)


def test_only_named_layers_are_adapted(tiny_model):
    shape = shape_of(PolicyConfig(model=str(tiny_model), lora_rank=4, lora_targets=["q_proj", "down_proj"]))
    assert (shape.adapted, shape.adapted_inputs) == (2, 32 + 64)
    assert shape.adapter == 2 * 4 * (32 + 32 + 64 + 32)


@pytest.fixture
def shape_of_family(family_config, tmp_path):
    def make(name):
        family_config(name).save_pretrained(tmp_path)
        return shape_of(PolicyConfig(model=str(tmp_path), lora_rank=4))

    return make


def test_layers_of_several_widths_are_planned_by_the_widest(shape_of_family):
    shape = shape_of_family("Gemma 4")  # heads of 16 with a window, of 24 without
    assert (shape.head_dim, shape.masks) == (24, 2)
    assert mask_bytes(shape, SETTINGS, 10, 10) == 2 * 10 * 10


def test_attention_of_a_models_own_is_not_folded(shape_of_family):
    assert not shape_of_family("Falcon").folds


def test_experts_stay_out_of_four_bits(shape_of_family):
    shape = shape_of_family("Mixtral")
    assert shape.experts == 4 * 8 * 3 * 64 * 96  # layers, experts, matrices of each
    assert sum(shape.linear) == 4 * 64 * (64 + 32 + 32 + 64)  # attention, of 4 heads and 2 of keys and values
    assert shape.adapted == 4


def test_samples_of_a_base_with_states_have_copies_of_their_prompt(shape_of_family):
    shape = shape_of_family("Qwen3.5")
    assert shape.rows_apart
    apart, shared = (
        max(moment["KV cache"] for moment in sampling_moments(s, SETTINGS, "planner"))
        for s in (shape, replace(shape, rows_apart=False))
    )
    assert apart > shared


def test_a_model_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(PolicyError, match=r"cannot be loaded .*give policy.model the hub id or the local folder"):
        shape_of(PolicyConfig(model=str(tmp_path)))
    with pytest.raises(PolicyError, match="does not exist"):
        shape_of(PolicyConfig(model=str(tmp_path / "no")))


def test_devices_share_the_tasks_of_a_round():
    rollout = RolloutConfig(planner_group_size=2, executor_group_size=4)
    one, two = (settings_of(PolicyConfig(), rollout, 100, 9, TransformersEngine(8), devices) for devices in (1, 2))
    assert one.prompts == {"planner": 9, "executor": 18}
    assert two.prompts == {"planner": 5, "executor": 10}
    assert one.samples == {"planner": 2, "executor": 4}
    whole = settings_of(PolicyConfig(), replace(rollout, branching="trajectory"), 100, 9, TransformersEngine(8))
    assert (whole.prompts["executor"], whole.samples["executor"]) == (72, 1)
    assert settings_of(PolicyConfig(), rollout, 100, 9, TransformersEngine(8), single_level=True).prompts == {
        "executor": 9
    }


def test_of_a_sharded_base_each_process_holds_its_part_and_what_is_gathered():
    shape = replace(SHAPE, layer_linear=224, layer_others=16, output=100)
    sharded = replace(SETTINGS, shards=2)
    assert base_bytes(shape, SETTINGS) == 4 * 1448
    assert base_bytes(shape, sharded) == 4 * 1448 // 2 + 2 * 4 * (224 + 16)  # a layer, and the next one
    assert base_bytes(replace(shape, output=600), sharded) == 4 * 1448 // 2 + 4 * 600
    assert base_bytes(replace(shape, whole=400), sharded) == 4 * 1048 // 2 + 4 * 400 + 2 * 4 * (224 + 16)
    constants = sum(map(nf4_bytes, (64, 256, 128))) - 224
    in_4_bits = base_bytes(replace(shape, output=0), replace(sharded, quantization="nf4"))
    assert in_4_bits == (224 + 4000) // 2 + constants + 2 * (112 + 4 * 16)


def test_where_a_server_samples_updates_alone_are_planned():
    policy, rollout = PolicyConfig(shard_base=True), RolloutConfig()
    settings = settings_of(policy, rollout, 100, 9, None, devices=3)
    assert (settings.shards, settings_of(PolicyConfig(), rollout, 100, 9, None, devices=3).shards) == (3, 1)
    assert [stage.name for stage in stages(SHAPE, settings)] == ["update planner", "update executor"]


def test_what_a_sharded_base_gathers_is_counted(tiny_model, tmp_path):
    config = json.loads((tiny_model / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    shape = shape_of(PolicyConfig(model=str(tmp_path), lora_rank=4))
    layer = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64
    assert (shape.layer_linear, shape.layer_others) == (layer, 32 + 2 * 16 + 2 * 32)
    assert (shape.output, shape.whole) == (259 * 32, 0)
    adapted = shape_of(PolicyConfig(model=str(tmp_path), lora_rank=4, lora_targets=["q_proj", "lm_head"]))
    assert (adapted.output, adapted.whole) == (0, 259 * 32)


def test_prompts_of_earlier_passes_are_kept_while_the_last_one_is_read():
    """6 prompts of 20 tokens, of which one pass reads two: four are kept by then, as far as there is room."""
    settings = replace(SETTINGS, prefix_cache_tokens=1000, max_prefill_tokens=40, batch_size=100)
    token = sum(parts["kept prefixes"] for parts in sampling_moments(SHAPE, settings, "planner")[2:3]) // 120
    kept = [parts["kept prefixes"] // token for parts in sampling_moments(SHAPE, settings, "planner")]
    assert kept == [80, 80, 120, 120]
    small = replace(settings, prefix_cache_tokens=50)
    assert [parts["kept prefixes"] // token for parts in sampling_moments(SHAPE, small, "planner")] == [50] * 4
