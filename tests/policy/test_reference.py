"""What the KL divergence is taken to: the bare base, or the adapters as a warm start has left them."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything

from cahl_pl.datamodule import RolloutDataModule
from cahl_pl.engines import Sampling
from cahl_pl.environments import ExecutableEnvironment
from cahl_pl.grpo.config import GRPOConfig
from cahl_pl.module import CAHLModule
from cahl_pl.optimizers import OptimizerConfig
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.policy.reference import as_reference, drop_reference, has_reference, keep_reference
from cahl_pl.prompts import PromptConfig
from cahl_pl.rewards.base import BaseExecutorReward, BasePlannerReward
from cahl_pl.rollout.config import RolloutConfig
from cahl_pl.toolworld import ToolWorld, toolkit
from cahl_pl.types import ROLES


def logits_of(policy):
    with torch.no_grad():
        return policy.lm(input_ids=torch.arange(3, 20)[None]).logits


def disturb(policy, role):
    with torch.no_grad():
        for parameter in policy.parameters_of(role):
            parameter.add_(0.05)


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"adapter": "alora"}], ids=str)
def test_a_reference_is_the_adapter_as_it_was(make_policy, options):
    policy = make_policy(**options)
    policy.invocation = {role: [3] for role in ROLES}
    before = {}
    for role in ROLES:
        policy.activate(role)
        before[role] = logits_of(policy)
        with as_reference(policy, role), policy.without_adapters():
            base = logits_of(policy)
        with as_reference(policy, role):
            assert torch.equal(logits_of(policy), base)  # there is no other yet
    for role in ROLES:
        keep_reference(policy, role)
        disturb(policy, role)
    for role in ROLES:
        policy.activate(role)
        now = logits_of(policy)
        assert not torch.allclose(now, before[role])
        with as_reference(policy, role):
            torch.testing.assert_close(logits_of(policy), before[role])
            with policy.without_adapters():
                assert torch.equal(logits_of(policy), base)
            torch.testing.assert_close(logits_of(policy), before[role])
        assert torch.equal(logits_of(policy), now)
    drop_reference(policy, "planner")
    assert [has_reference(policy, role) for role in ROLES] == [False, True]
    policy.activate("planner")
    with as_reference(policy, "planner"):
        assert torch.equal(logits_of(policy), base)


def test_a_reference_never_learns_and_leaves_the_others_as_they_were(policy):
    keep_reference(policy, "executor")
    policy.activate("planner")
    with torch.no_grad(), as_reference(policy, "planner"):
        logits_of(policy)
    policy.activate("executor")
    with torch.no_grad(), as_reference(policy, "executor"):
        logits_of(policy)
    for name, parameter in policy.lm.named_parameters():
        assert parameter.requires_grad == any(f".{role}." in name for role in ROLES)
    policy.lm(input_ids=torch.arange(3, 20)[None]).logits.sum().backward()
    assert {name.split(".")[-2] for name, p in policy.lm.named_parameters() if p.grad is not None} == {"executor"}


def test_references_are_part_of_the_state_and_go_where_a_state_has_none(make_policy):
    policy, other = make_policy(), make_policy()
    without = {name: tensor.clone() for name, tensor in other.adapter_state().items()}
    keep_reference(policy, "planner")
    disturb(policy, "planner")
    state = {name: tensor.clone() for name, tensor in policy.adapter_state().items()}
    assert any(".planner_reference." in name for name in state)
    other.load_adapter_state(state)
    for one in (policy, other):
        one.activate("planner")
    with as_reference(policy, "planner"), as_reference(other, "planner"):
        torch.testing.assert_close(logits_of(other), logits_of(policy))
    other.load_adapter_state(without)
    assert not has_reference(other, "planner")


class Any(BasePlannerReward, BaseExecutorReward):
    """Differs between texts."""

    def components(self, *args):
        return {"any": sum(map(ord, args[1][0].plan_text if len(args) == 2 else args[0].text)) % 7 / 7}

    def total(self, components):
        return components["any"]


class Watch(Callback):
    """Keeps what holds after each step."""

    def __init__(self):
        self.rows = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        index = ROLES.index(batch.role)
        steps = [float(s["step"]) for s in trainer.optimizers[index].state.values()][:1]
        kl = trainer.callback_metrics.get(f"{batch.role}/kl")
        self.rows.append((batch.role, batch.objective, steps, None if kl is None else float(kl)))


def make(tiny_model, tmp_path, steps, kl=0.1, warm=2) -> tuple[LightningModule, RolloutDataModule, Trainer, Watch]:
    seed_everything(3, verbose=False)
    learning = OptimizerConfig(lr=1e-2, warm_start_lr=1e-2)
    module = CAHLModule(PolicyConfig(model=str(tiny_model), lora_rank=4), GRPOConfig(kl=kl), learning, learning)
    sampling = Sampling(max_new_tokens=6)
    prompts = PromptConfig(tool_format="compact", system="Tools:", planner="Plan", executor="Do {subtask}")
    data = RolloutDataModule(
        ToolWorld(size=6),
        ExecutableEnvironment(toolkit),
        prompts=prompts,
        tasks_per_round=2,
        warm_start_rounds=warm,
        planner_reward=Any(),
        executor_reward=Any(),
        rollout=RolloutConfig(2, 2, planner=sampling, executor=sampling),
    )
    watch = Watch()
    trainer = Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[watch],
    )
    return module, data, trainer, watch


def test_after_a_warm_start_the_divergence_starts_at_zero_and_the_moments_anew(tiny_model, tmp_path):
    module, data, trainer, watch = make(tiny_model, tmp_path, steps=8)
    trainer.fit(module, data)
    planner = [row for row in watch.rows if row[0] == "planner"]
    assert [row[1] for row in planner] == ["supervised", "supervised", "grpo", "grpo"]
    assert [row[2] for row in planner] == [[1.0], [2.0], [1.0], [2.0]]  # steps that AdamW has counted
    assert planner[2][3] == pytest.approx(0, abs=1e-6)  # the adapter is its reference
    assert planner[3][3] > 1e-5
    kept = module.policy.adapter_state()
    assert any(".planner_reference." in name for name in kept)


def test_without_a_warm_start_or_a_divergence_there_is_none(tiny_model, tmp_path):
    for options in ({"warm": 0}, {"kl": 0.0}):
        module, data, trainer, _ = make(tiny_model, tmp_path, steps=6, **options)
        trainer.fit(module, data)
        assert not any("_reference." in name for name in module.policy.adapter_state())


@pytest.mark.parametrize("stop", [3, 5, 7])  # in the warm start, in its last round's successor, later
def test_resume_across_the_end_of_the_warm_start_is_exact(tiny_model, tmp_path, stop):
    whole, data, trainer, _ = make(tiny_model, tmp_path, steps=10)
    trainer.fit(whole, data)
    first, data, trainer, _ = make(tiny_model, tmp_path, steps=stop)
    trainer.fit(first, data)
    path = tmp_path / "stopped.ckpt"
    trainer.save_checkpoint(path)
    resumed, data, trainer, _ = make(tiny_model, tmp_path, steps=10)
    trainer.fit(resumed, data, ckpt_path=path, weights_only=True)
    a, b = whole.policy.adapter_state(), resumed.policy.adapter_state()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_checkpoint_of_before_goes_on_with_the_bare_base(tiny_model, tmp_path):
    module, data, trainer, _ = make(tiny_model, tmp_path, steps=6)
    trainer.fit(module, data)
    path = tmp_path / "old.ckpt"
    trainer.save_checkpoint(path)
    content = torch.load(path, weights_only=True)
    del content["warm"]
    for name in ("use_rslora", "use_dora", "init_lora_weights"):
        del content["policy_config"][name]
    content["state_dict"] = {k: v for k, v in content["state_dict"].items() if "_reference." not in k}
    torch.save(content, path)
    resumed, data, trainer, watch = make(tiny_model, tmp_path, steps=8)
    trainer.fit(resumed, data, ckpt_path=path, weights_only=True)
    assert not has_reference(resumed.policy, "planner")
    assert watch.rows[0][3] > 1e-3  # far from the base after the warm start
