"""The second copy samples with the adapters of the moment it was made, whatever the policy's have become since."""

from __future__ import annotations

import threading

import pytest
import torch

from cahl_pl.cli import main
from cahl_pl.engines.base import Sampling
from cahl_pl.types import ROLES
from tools.quality.second_copy import SecondCopy


def test_frozen_samples_are_those_of_the_freeze(policy):
    engine = SecondCopy()
    prompts, sampling = [[5, 6, 7, 8], [9, 10]], Sampling(max_new_tokens=8)

    def change(scale: float) -> None:
        generator = torch.Generator().manual_seed(1)
        own = policy.adapter_state()
        policy.load_adapter_state({k: scale * torch.randn(v.shape, generator=generator) for k, v in own.items()})

    def sampled(by):
        found = [by.generate(policy, role, prompts, 2, sampling, torch.Generator().manual_seed(3)) for role in ROLES]
        return [(one.ids.tolist(), one.logprobs) for of_role in found for group in of_role for one in group]

    for scale in (0.3, 0.5):  # the same copy takes the next round's weights
        change(scale)
        expected = sampled(engine)
        frozen = engine.freeze(policy, threading.Event())
        change(0.9)
        assert [ids for ids, _ in sampled(engine)] != [ids for ids, _ in expected]
        for (ids, logprobs), (wanted, of_wanted) in zip(sampled(frozen), expected, strict=True):
            assert ids == wanted
            assert logprobs.tolist() == pytest.approx(of_wanted.tolist(), abs=1e-5)


@pytest.mark.parametrize("ahead", [False, True])
def test_its_configurations_train(small, tmp_path, ahead):
    files = ["configs/quickstart.yaml", "tools/quality/second_copy.yaml", *["tools/quality/ahead.yaml"] * ahead]
    overlays = [word for file in files for word in ("-c", file)]
    cli = main([*overlays, *small, "--trainer.max_steps=4", f"--trainer.logger.init_args.save_dir={tmp_path}"], run=False)
    cli.trainer.fit(cli.model, cli.datamodule)
    assert cli.trainer.global_step == 4
    assert (cli.datamodule.rollout.engine.copy is not None) is ahead
