"""The planner's command line, on the paper's configuration and Qwen2.5-7B's shape."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from cahl_pl.commands import console

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "cahl.yaml"
(BUDGET,) = (  # GiB a device, of the configuration itself
    callback["init_args"]["budget_gib"]
    for callback in yaml.safe_load(CONFIG.read_text())["trainer"]["callbacks"]
    if callback["class_path"].endswith("FourBitMemory")
)


@pytest.fixture
def plan():
    """Run the verb; the arguments after it."""
    return lambda arguments: console(["plan-memory", *arguments])


def test_the_papers_configuration(plan, qwen, capsys):
    plan(["-c", str(CONFIG), "--model.policy.model", qwen, "--gpu-gib", "8", "45", "200", "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert sum(printed["shape"]["linear"]) + printed["shape"]["others"] == 7_615_616_512
    assert set(printed["devices"]) == {"1", "2"}
    for planned in printed["devices"].values():
        stages = planned["stages"]
        assert list(stages) == ["sample planner", "sample executor", "update planner", "update executor"]
        assert planned["peak"] == max(stage["total"] for stage in stages.values())
        for stage in stages.values():
            assert sum(stage.values()) == 2 * stage["total"]  # it is the sum of all others
            assert stage["adapters"] == 2 * 4 * printed["shape"]["adapter"]
        assert planned["gpus"]["200"]["fits"] is True
        assert planned["gpus"]["200"]["changes"] == []
        assert planned["gpus"]["45"]["fits"] is True  # an A40
        assert planned["gpus"]["45"]["changes"] == []
        assert planned["peak"] < BUDGET * 2**30  # so that FourBitMemory lets it start
        assert not planned["gpus"]["8"]["fits"]
    one, two = printed["devices"].values()
    assert one["stages"]["update planner"] == two["stages"]["update planner"]  # each device does the same
    executor = [device["stages"]["sample executor"]["KV cache"] for device in (one, two)]
    assert executor[0] == executor[1]  # the engine's batch


def test_what_would_make_it_fit_a_smaller_card_is_said(plan, qwen, capsys):
    arguments = ["-c", str(CONFIG), "--model.policy.model", qwen, "--gpu-gib", "24", "--json"]
    plan(arguments)
    one, two = json.loads(capsys.readouterr().out)["devices"].values()
    assert not one["gpus"]["24"]["fits"]
    changes = one["gpus"]["24"]["changes"]
    assert changes == [
        "--data.engine cahl_pl.engines.TransformersEngine --data.engine.max_prefill_tokens 8192",
        "--data.engine.batch_size 64",
    ]
    caches = [plan["stages"]["sample planner"]["KV cache"] for plan in (one, two)]
    assert 1.8 < caches[0] / caches[1] <= 2  # half of the prompts each; the worst moment need not be the same one
    plan([*arguments, *(word for change in changes for word in change.split())])  # and it is true, and can be read
    assert json.loads(capsys.readouterr().out)["devices"]["1"]["gpus"]["24"]["fits"]


def test_overrides_hold_and_the_table_is_printed(plan, tiny_model, capsys):
    overrides = ["--model.policy.model", str(tiny_model), "--data.rollout.max_prompt_tokens", "64"]
    plan(["-c", str(CONFIG), *overrides, "--model.policy.quantization", "none", "--gpu-gib", "1", "45"])
    printed = capsys.readouterr().out
    assert "weights in bfloat16," in printed
    assert "| kept prefixes " in printed
    assert "2 devices, GiB on each:" in printed
    assert "45 GiB: fits; largest micro-batch that fits: " in printed
    assert "1 GiB: does not fit; " in printed


def test_the_callback_decides_where_the_policy_does_not(plan, tiny_model, tmp_path, capsys):
    config = tmp_path / "null.yaml"
    config.write_text("model: {policy: {quantization: null}}\n")
    plan(["-c", str(CONFIG), "-c", str(config), "--model.policy.model", str(tiny_model)])
    assert "weights in 4 bits (nf4)," in capsys.readouterr().out


def test_an_unknown_engine_or_model_is_one_sentence(plan, tiny_model, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        plan(["-c", str(CONFIG), "--model.policy.model", str(tmp_path)])
    assert capsys.readouterr().err.startswith(f"error: model {str(tmp_path)!r} cannot be loaded (Unrecognized model ")
    with pytest.raises(SystemExit, match="2"):
        plan(["-c", str(CONFIG), "--model.policy.model", str(tmp_path / "no")])
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "does not exist" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("family", "said"),
    [
        ("BLOOM", "error: a bloom model takes distances (ALiBi) from the row"),
        (
            "Llama, dynamic NTK",
            "tokens, but the base {model!r} takes 48 at most: it turns longer ones by other frequencies",
        ),
    ],
)
def test_what_fit_refuses_is_not_planned(plan, family_config, tmp_path, capsys, family, said):
    family_config(family).save_pretrained(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        plan(["-c", str(CONFIG), "--model.policy.model", str(tmp_path), "--model.policy.attention", "eager"])
    error = capsys.readouterr().err
    assert said.format(model=str(tmp_path)) in error
    assert error.count("\n") == 1


def test_adapters_that_cannot_be_put_on_are_one_sentence(plan, tiny_model, capsys):
    with pytest.raises(SystemExit, match="2"):
        plan(["-c", str(CONFIG), "--model.policy.model", str(tiny_model), "--model.policy.lora_targets", "[no_such]"])
    assert "name other modules in model.policy.lora_targets" in capsys.readouterr().err


def test_a_base_in_parts_beside_a_server(plan, qwen, capsys):
    server = ["--data.engine=cahl_pl.engines.ServerEngine", "--data.engine.base_url=http://127.0.0.1:1"]
    base = ["--model.policy.quantization=none", "--model.policy.shard_base=true"]
    devices = ["--trainer.devices=2", "--trainer.num_nodes=2"]
    plan(["-c", str(CONFIG), "--model.policy.model", qwen, *server, *base, *devices, "--json"])
    planned = json.loads(capsys.readouterr().out)["devices"]
    assert list(planned) == ["1", "2", "4"]
    for device in planned.values():
        assert list(device["stages"]) == ["update planner", "update executor"]
    whole, half, quarter = (device["stages"]["update planner"]["base"] for device in planned.values())
    assert whole == 2 * 7_615_616_512
    output = 2 * 152064 * 3584  # more than two layers
    assert (half - output, quarter - output) == (whole // 2, whole // 4)
