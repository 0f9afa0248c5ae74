"""Runs that sample within grammars: on policy at every step, also behind a warm start, and the same when they are resumed."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import Callback

pytest.importorskip("llguidance", reason="grammars need llguidance: pip install 'cahl-pl[constrained]'")

from cahl_pl.engines import Sampling, ServerEngine
from cahl_pl.errors import ConfigError
from cahl_pl.grpo.config import GRPOConfig
from cahl_pl.rollout.config import RolloutConfig
from tests.test_module import make

ROLLOUT = RolloutConfig(
    2,
    3,
    max_steps=1,
    constrained=True,
    planner=Sampling(max_new_tokens=400),
    executor=Sampling(0.8, max_new_tokens=60),
)


class Steps(Callback):
    """Keeps what each step measured, and its batch."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        values = {tag: value.item() for tag, value in trainer.callback_metrics.items()}
        self.seen.append((batch, values))


@pytest.mark.parametrize(
    "variant", [{}, {"adapter": "alora"}, {"single_level": True}], ids=["lora", "alora", "single level"]
)
def test_every_first_step_is_on_policy_and_the_warm_start_is_free(tiny_model, tmp_path, variant):
    watched = Steps()
    module, data, trainer, _ = make(
        tiny_model,
        tmp_path,
        steps=10,
        rollout=ROLLOUT,
        callbacks=[watched],
        warm_start_rounds=1,
        updates_per_round=2,
        grpo=GRPOConfig(kl=0.1, scale_rewards="none"),
        **variant,
    )
    trainer.fit(module, data)
    roles = set()
    for batch, values in watched.seen:
        grammars = {group.grammar for group in batch.groups}
        if batch.objective == "supervised":
            assert grammars == {None}
            continue
        assert None not in grammars
        if batch.update == 0 and f"{batch.role}/engine_gap/max" in values and batch.groups:
            roles.add(batch.role)
            assert values[f"{batch.role}/engine_gap/max"] < 1e-4
            assert values[f"{batch.role}/ratio"] == pytest.approx(1.0, abs=1e-5)
    assert roles == ({"executor"} if "single_level" in variant else {"planner", "executor"})


def test_a_run_that_is_resumed_within_a_round_goes_on_as_if_nothing_had_been(tiny_model, tmp_path):
    def run(steps, ckpt=None):
        module, data, trainer, _ = make(tiny_model, tmp_path, steps=steps, rollout=ROLLOUT)
        trainer.fit(module, data, ckpt_path=ckpt)
        return module, trainer

    whole, _ = run(6)
    _, trainer = run(3)  # the executor's turn is pending
    path = tmp_path / "last.ckpt"
    trainer.save_checkpoint(path)
    assert "start: " in str(torch.load(path, weights_only=True)["RolloutDataModule"])
    resumed, _ = run(6, path)
    a, b = whole.policy.adapter_state(), resumed.policy.adapter_state()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_server_is_refused_before_anything_is_sampled(tiny_model, tmp_path):
    server = ServerEngine("http://127.0.0.1:9", adapter_folder=str(tmp_path / "adapters"))
    module, data, trainer, _ = make(tiny_model, tmp_path, rollout=ROLLOUT, engine=server)
    with pytest.raises(ConfigError, match=r"data\.rollout\.constrained is true, but data\.engine is a ServerEngine"):
        trainer.fit(module, data)
