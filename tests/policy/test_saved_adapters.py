"""Training that starts from exported adapters."""

from __future__ import annotations

import json

import pytest
import torch

from cahl_pl.errors import ConfigError
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.policy.policy import Policy
from cahl_pl.types import ROLES


@pytest.fixture
def exported(policy, tmp_path):
    """A folder with both adapters of the tiny model, none of them zero."""
    policy.lm.save_pretrained(tmp_path / "pair", selected_adapters=list(ROLES))
    return tmp_path / "pair"


def start(tiny_model, folder, **config):
    policy = Policy(
        PolicyConfig(**{"model": str(tiny_model), "lora_rank": 4, "lora_alpha": 8, **config}, adapters=str(folder))
    )
    policy.load()
    return policy


def test_both_adapters_are_those_of_the_folder(policy, exported, tiny_model):
    started = start(tiny_model, exported).adapter_state()
    for name, tensor in policy.adapter_state().items():
        assert torch.equal(started[name], tensor), name
    assert any(tensor.abs().max() > 0 for name, tensor in started.items() if "lora_B" in name)


def test_they_learn(exported, tiny_model):
    started = start(tiny_model, exported)
    assert all(parameter.requires_grad for role in ROLES for parameter in started.parameters_of(role))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"lora_rank": 8}, "has r 4, and model.policy.lora_rank is 8"),
        ({"lora_alpha": 16}, "has lora_alpha 8, and model.policy.lora_alpha is 16"),
        ({"adapter": "alora"}, "is of the kind lora, and model.policy.adapter is alora"),
        ({"lora_targets": ["q_proj"]}, "does not fit"),
    ],
)
def test_adapters_of_other_settings_are_refused(exported, tiny_model, config, words):
    with pytest.raises(ConfigError, match=words):
        start(tiny_model, exported, **config)


def test_a_folder_that_is_not_whole_is_one_sentence(exported, tiny_model, tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere', which does not exist: give a folder that `python -m cahl_pl export"):
        start(tiny_model, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"whose planner is missing: give a folder that `python -m cahl_pl export"):
        start(tiny_model, tmp_path / "empty")
    for other in ("run/version_0/checkpoints/step-000002.ckpt",):
        path = tmp_path / other
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x")
        with pytest.raises(
            ConfigError, match=rf"a file and no folder of adapters: .* --ckpt_path {path}`, and give FOLDER"
        ):
            start(tiny_model, path)
        for folder in path.parents[:3]:
            with pytest.raises(ConfigError, match=rf"the folder of a run: .* --ckpt_path {path}`, and give FOLDER"):
                start(tiny_model, folder)
    with pytest.raises(ConfigError, match="the folder of one adapter: give the folder above it"):
        start(tiny_model, exported / "planner")
    weights = exported / "executor" / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    with pytest.raises(ConfigError, match="whose executor cannot be read"):
        start(tiny_model, exported)
    weights.unlink()
    with pytest.raises(ConfigError, match="whose executor is missing"):
        start(tiny_model, exported)
    weights.write_bytes(whole)
    config = exported / "planner" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()))[:-5])
    with pytest.raises(ConfigError, match="whose planner cannot be read"):
        start(tiny_model, exported)
