"""A base in parts on two processes, over gloo, computes what a whole one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cahl_pl.engines.self_check import check_computation
from cahl_pl.errors import ConfigError, PolicyError
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.policy.logprobs import micro_batches, score
from cahl_pl.policy.policy import Policy
from cahl_pl.policy.sharding import idle_group, shard

ROOT = Path(__file__).resolve().parents[2]
PARTS = {  # of a base of two layers: the share that each process holds
    "tied": 0.5,
    "untied": 0.5,
    "recomputed": 0.5,
    "bfloat16": 0.5,
    "nf4": 0.5,
    "output layer adapted": 0.65,  # which is tied to the embeddings, a third of this base: both stay whole
}


@pytest.fixture(scope="module")
def untied(tiny_model, tmp_path_factory) -> str:
    """The tiny model with an output layer of its own, of an odd number of rows."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("untied")
    torch.manual_seed(2)
    config = AutoModelForCausalLM.from_pretrained(tiny_model).config
    config.tie_word_embeddings = False
    config.vocab_size += 1 - config.vocab_size % 2
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def computed(tiny_model, untied, tmp_path_factory) -> list[dict]:
    """What the two processes have found, of each variant."""
    variants = {
        "tied": {"model": str(tiny_model)},
        "untied": {"model": untied},
        "recomputed": {"model": str(tiny_model), "gradient_checkpointing": True},
        "bfloat16": {"model": str(tiny_model), "dtype": "bfloat16"},
        "nf4": {"model": str(tiny_model), "quantization": "nf4"},
        "output layer adapted": {"model": str(tiny_model), "lora_targets": ["q_proj", "down_proj", "lm_head"]},
    }
    meeting = tmp_path_factory.mktemp("meeting") / "file"
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.policy.sharded_child", str(rank), str(meeting), json.dumps(variants)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=600) for process in running]
    assert [process.returncode for process in running] == [0, 0], "\n".join(err[-3000:] for _, err in said)
    return [json.loads(out.splitlines()[-1]) for out, _ in said]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", PARTS)
def test_scores_and_gradients_are_those_of_a_whole_base(computed, name):
    for found in computed:
        assert found[name]["largest"] > 1
        assert found[name]["apart"] <= 1e-6 * found[name]["largest"]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("name", "share"), PARTS.items())
def test_each_process_holds_its_part_alone(computed, name, share):
    for found in computed:
        assert found[name]["stored"] == pytest.approx(share, abs=0.02)
        # in 4 bits the constants of the quantisation, much of so small a layer, are whole
        assert found[name]["held"] == pytest.approx(share, abs=0.02 if name != "nf4" else 0.4)
        assert found[name]["left"] == 0  # nothing keeps what was sharded
        assert not any("lora_" in parameter for parameter in found[name]["sharded"])


def test_a_pass_over_the_idle_group_adds_nothing(policy):
    (part,) = micro_batches(policy, [idle_group()], 1000)
    scored = score(policy, part)
    assert not scored.mask.any()
    (scored.logprobs * scored.mask).sum().backward()
    gradients = [parameter.grad for parameter in policy.parameters_of("planner")]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


def test_the_self_check_samples_nothing_where_the_base_is_sharded(policy, monkeypatch):
    from cahl_pl.engines import self_check

    monkeypatch.setattr(self_check, "TransformersEngine", None)
    policy.shards = 2
    check_computation(policy)
    monkeypatch.setattr(self_check, "_packed_error", lambda *_: 0.5)
    with pytest.raises(PolicyError, match="packed sequences differ from those of plain passes by 50%"):
        check_computation(policy)


def test_in_one_process_nothing_is_sharded(make_policy):
    assert make_policy(shard_base=True).shards == 1


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"adapter": "alora"}, "vLLM cannot run activated adapters: use --model.policy.adapter lora"),
        ({"use_dora": True}, "vLLM cannot run DoRA: use --model.policy.use_dora false"),
    ],
)
def test_adapters_that_no_server_runs_are_refused(config, said):
    with pytest.raises(ConfigError, match=said):
        Policy(PolicyConfig(shard_base=True, **config)).load()


def test_a_base_without_layers_that_fsdp_can_take_is_refused(policy, monkeypatch):
    monkeypatch.setattr("cahl_pl.policy.sharding.layers_of", lambda decoder: [])
    with pytest.raises(PolicyError, match="a qwen2 model has no layers that can be sharded one by one: leave out"):
        shard(policy.lm, policy.causal_lm, policy.decoder, torch.device("cpu"))


def test_a_torch_that_cannot_shard_the_base_is_named(policy, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("only Tensors of floating point dtype can require gradients")  # torch 2.9 on NF4

    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.device_mesh.init_device_mesh", lambda *_: None)
    monkeypatch.setattr("torch.distributed.fsdp.fully_shard", refuse)
    said = r"cannot shard this base \(only Tensors .* gradients\): install torch 2\.13 or newer, set model\.policy\.quantiz"
    with pytest.raises(PolicyError, match=said):
        shard(policy.lm, policy.causal_lm, policy.decoder, torch.device("cpu"))
