"""A checkpoint that version 0.1 has written: it is measured, exported and gone on from.

`stored/version_0_1.ckpt` is of commit 660950e, after the planner's first step; the executor's batch of the round waits in it:

    python -m cahl_pl fit -c configs/quickstart.yaml --trainer.max_steps 1 --data.test null --data.tasks_per_round 1 \
      --data.train.init_args.size 4 --model.policy.lora_rank 1 --model.policy.lora_targets '["0.self_attn.q_proj"]' \
      --trainer.callbacks '[{"class_path": "cahl_pl.callbacks.Checkpoints"}]'
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cahl_pl.cli import main
from cahl_pl.commands import export
from cahl_pl.errors import PolicyError

OLD = Path(__file__).with_name("stored") / "version_0_1.ckpt"
SAME = [
    "-c",
    "quickstart",
    "--model.policy.lora_rank=1",
    "--model.policy.lora_targets=[0.self_attn.q_proj]",
    "--data.tasks_per_round=1",
    "--data.train.init_args.size=4",
    "--trainer.callbacks=[]",
    "--trainer.logger=false",
    "--trainer.enable_checkpointing=false",
]


@pytest.fixture(scope="module")
def old():
    return torch.load(OLD, weights_only=True)


def test_training_goes_on_with_the_batch_that_waited(old, tmp_path):
    assert [batch["role"] for batch in old["RolloutDataModule"]["processes"][0]["pending"]] == ["executor"]
    words = [*SAME, "--data.test=null", "--trainer.max_steps=3", f"--trainer.default_root_dir={tmp_path}"]
    cli = main(["fit", *words, f"--ckpt_path={OLD}"])
    assert cli.model.policy.version == {"planner": 2, "executor": 1}
    position = cli.datamodule.state_dict()
    assert (position["epoch"], position["round"]) == (0, 2)


def test_it_is_measured(tmp_path):
    sizes = [f"--data.test.{name}.init_args.size=1" for name in ("test", "test_unseen_tools")]
    cli = main(["test", *SAME, *sizes, f"--trainer.default_root_dir={tmp_path}", f"--ckpt_path={OLD}"])
    assert 0 <= float(cli.trainer.callback_metrics["test/task/success"]) <= 1
    assert cli.model.policy.version == {"planner": 1, "executor": 0}


def test_its_adapters_are_exported(old, tmp_path):
    export.run(["--out", str(tmp_path), *SAME, "--ckpt_path", str(OLD)])
    for role in ("planner", "executor"):
        written = load_file(tmp_path / role / "adapter_model.safetensors")
        assert len(written) == 2
        for name, value in written.items():
            assert torch.equal(value, old["state_dict"][name.replace(".weight", f".{role}.weight")])


def test_adapters_that_do_not_fit_are_one_sentence(tmp_path):
    words = [*SAME, "--model.policy.lora_rank=2", f"--trainer.default_root_dir={tmp_path}", f"--ckpt_path={OLD}"]
    with pytest.raises(PolicyError, match="do not fit the model 'toolworld' with LoRA rank 2: use the model, rank"):
        main(["fit", *words, "--data.test=null"])
