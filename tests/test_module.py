"""Training steps end to end on the tiny model: who moves, what is stale, what a checkpoint holds, what repeats."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import cahl_pl.rollout.two_level
from cahl_pl.callbacks import TokenBudget
from cahl_pl.datamodule import RolloutDataModule
from cahl_pl.distributed import AdapterDDPStrategy
from cahl_pl.engines import Sampling, ServerEngine, TransformersEngine
from cahl_pl.environments import ExecutableEnvironment
from cahl_pl.errors import ConfigError, NonFiniteError, StaleBatchError
from cahl_pl.grpo.config import GRPOConfig
from cahl_pl.module import CAHLModule
from cahl_pl.optimizers import DECAYING, LR_SCHEDULES, OptimizerConfig
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.prompts import PromptConfig
from cahl_pl.rewards.base import BaseExecutorReward, BasePlannerReward
from cahl_pl.rollout.config import RolloutConfig
from cahl_pl.schedules import Alternate, ExecutorOnly, PlannerOnly, Ratio
from cahl_pl.toolworld import ToolWorld, toolkit
from cahl_pl.types import ROLES, Plan, SubTask

PROMPTS = PromptConfig(tool_format="compact", system="Tools:", planner="Plan", executor="Do {subtask}")


class Length(BasePlannerReward, BaseExecutorReward):
    """Pays for short texts: a random model writes no plan, but some of its texts are shorter than others."""

    def components(self, *args):
        if len(args) == 2:
            return {"length": 1 / (1 + len(args[1][0].plan_text))}
        return {"length": 1 / (1 + len(args[0].text))}

    def total(self, components):
        return components["length"]


@pytest.fixture(autouse=True)
def _readable_plans(monkeypatch):
    """Makes every plan readable, so that the executor has something to do; each says something else."""

    def plan(text):
        return Plan((SubTask(text, "tool", {"a": 1}), SubTask("answer", None)))

    monkeypatch.setattr(cahl_pl.rollout.two_level, "parse_plan", plan)


class Watch(Callback):
    """Keeps the adapters' bytes, the versions and the roles of every step."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        state = {name: tensor.clone() for name, tensor in pl_module.policy.adapter_state().items()}
        lag = pl_module.policy.version[batch.role] - batch.version - batch.update - 1
        self.seen.append((batch.role, batch.update, lag, trainer.global_step, state))


def make(
    tiny_model, tmp_path, *, steps=4, adapter="lora", grpo=None, callbacks=(), seed=3, trainer_options=None, **data
):
    seed_everything(seed, verbose=False)
    module = CAHLModule(
        PolicyConfig(model=str(tiny_model), lora_rank=4, adapter=adapter),
        grpo or GRPOConfig(),
        OptimizerConfig(lr=1e-2),
        OptimizerConfig(lr=1e-2),
        max_tokens_per_micro_batch=4000,
    )
    sampling = Sampling(max_new_tokens=6)
    options = {
        "tasks_per_round": 2,
        "planner_reward": Length(),
        "executor_reward": Length(),
        "rollout": RolloutConfig(2, 2, planner=sampling, executor=sampling),
        **data,
    }
    datamodule = RolloutDataModule(
        ToolWorld(size=6),
        ExecutableEnvironment(toolkit),
        prompts=PROMPTS,
        test={"test": ToolWorld("test", 3)},
        **options,
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
        callbacks=[watch, *callbacks],
        **(trainer_options or {}),
    )
    return module, datamodule, trainer, watch


def fit(*args, **kwargs):
    module, data, trainer, watch = make(*args, **kwargs)
    trainer.fit(module, data)
    return module, data, trainer, watch


def moved(before, after, role):
    return any(not torch.equal(before[name], after[name]) for name in before if f".{role}." in name)


@pytest.mark.parametrize("adapter", ["lora", "alora"])
def test_each_step_moves_its_own_adapter_and_leaves_the_bytes_of_the_other(tiny_model, tmp_path, adapter):
    *_, watch = fit(tiny_model, tmp_path, steps=6, adapter=adapter, seed=5)
    assert [role for role, *_ in watch.seen] == ["planner", "executor"] * 3
    assert [step for *_, step, _ in watch.seen] == [1, 2, 3, 4, 5, 6]  # one optimiser step a training step
    for (*_, before), (role, *_, after) in zip(watch.seen, watch.seen[1:], strict=False):
        other = next(r for r in ROLES if r != role)
        assert moved(before, after, role)
        assert not moved(before, after, other)


def test_no_batch_is_stale(tiny_model, tmp_path):
    *_, watch = fit(tiny_model, tmp_path, steps=12, updates_per_round=2)
    assert {lag for _, _, lag, _, _ in watch.seen} == {0}
    assert [update for _, update, *_ in watch.seen[:4]] == [0, 0, 1, 1]


def test_a_stale_batch_is_refused(tiny_model, tmp_path):
    class Meddler(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 2:
                pl_module.policy.version[batch.role] += 1

    with pytest.raises(StaleBatchError, match="version"):
        fit(tiny_model, tmp_path, callbacks=[Meddler()])


@pytest.mark.parametrize(("schedule", "role"), [(PlannerOnly(), "planner"), (ExecutorOnly(), "executor")])
def test_single_role_schedules_leave_the_other_adapter_at_its_start(tiny_model, tmp_path, schedule, role):
    module, *_, watch = fit(tiny_model, tmp_path, schedule=schedule)
    assert {r for r, *_ in watch.seen} == {role}
    other = next(r for r in ROLES if r != role)
    assert all((p == 0).all() for n, p in module.policy.adapter_state().items() if f"lora_B.{other}" in n)
    assert any((p != 0).any() for n, p in module.policy.adapter_state().items() if f"lora_B.{role}" in n)


def test_ratio_schedule_order():
    schedule = Ratio(planner=2, executor=3)
    rounds = [schedule.roles(i) for i in range(8)]
    assert [role[0] for roles in rounds[:4] for role in roles] == ["p", "p", "e", "e", "e"]
    assert rounds[:4] == [("planner",), ("planner", "executor"), ("executor",), ("executor",)]
    assert rounds[4:] == rounds[:4]
    assert Ratio().roles(5) == Alternate().roles(0) == ("planner", "executor")
    with pytest.raises(ValueError, match="Ratio"):
        Ratio(planner=0)


def test_a_fixed_seed_repeats_exactly(tiny_model, tmp_path):
    one, *_ = fit(tiny_model, tmp_path)
    two, *_ = fit(tiny_model, tmp_path)
    other, *_ = fit(tiny_model, tmp_path, seed=4)
    states = [m.policy.adapter_state() for m in (one, two, other)]
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert not all(torch.equal(states[0][k], states[2][k]) for k in states[0])


def test_constant_rewards_move_nothing_but_count_as_steps(tiny_model, tmp_path):
    class Constant(Length):
        def total(self, components):
            return 0.5

    module, _, trainer, _ = fit(tiny_model, tmp_path, planner_reward=Constant(), executor_reward=Constant())
    assert trainer.global_step == 4
    assert all((p == 0).all() for n, p in module.policy.adapter_state().items() if "lora_B" in n)
    assert trainer.callback_metrics["planner/frac_zero_std"] == 1


@pytest.mark.parametrize(
    "grpo",
    [GRPOConfig(kl=0.1), GRPOConfig(loss="gspo"), GRPOConfig(loss="dapo", scale_rewards="batch", clip_high=0.28)],
)
def test_loss_variants_train(tiny_model, tmp_path, grpo):
    *_, trainer, watch = fit(tiny_model, tmp_path, steps=8, grpo=grpo, updates_per_round=2)
    assert moved(watch.seen[0][-1], watch.seen[-1][-1], "planner")
    metrics = trainer.callback_metrics
    assert ("planner/kl" in metrics) == (grpo.kl > 0)
    assert 0.1 < metrics["planner/ratio"] < 10
    assert metrics["planner/ratio"] != 1.0  # the second update is off-policy


def test_warm_start_imitates_gold_and_hands_over_to_grpo(tiny_model, tmp_path):
    losses = []

    class Losses(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            losses.append((batch.objective, trainer.callback_metrics.get(f"{batch.role}/warm_start/loss")))

    fit(tiny_model, tmp_path, steps=14, warm_start_rounds=6, callbacks=[Losses()])
    supervised = [loss.item() for objective, loss in losses if objective == "supervised"]
    assert [objective for objective, _ in losses] == ["supervised"] * 12 + ["grpo"] * 2
    assert supervised[10] < supervised[0]
    assert supervised[11] < supervised[1]


def test_checkpoint_holds_adapters_and_position_but_no_base_and_resume_goes_on(tiny_model, tmp_path):
    whole, *_ = fit(tiny_model, tmp_path, steps=6)
    _, _, trainer, _ = fit(tiny_model, tmp_path, steps=3)  # stops within a round: the executor's turn is pending
    path = tmp_path / "last.ckpt"
    trainer.save_checkpoint(path)
    content = torch.load(path, weights_only=True)
    assert all("lora_" in name for name in content["state_dict"])
    assert content["policy_version"] == {"planner": 2, "executor": 1}
    resumed, data, trainer, _ = make(tiny_model, tmp_path, steps=6)
    trainer.fit(resumed, data, ckpt_path=path)
    a, b = whole.policy.adapter_state(), resumed.policy.adapter_state()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_resumed_run_takes_the_learning_rate_that_is_configured_now(tiny_model, tmp_path):
    _, _, trainer, _ = fit(tiny_model, tmp_path, steps=4)
    path = tmp_path / "a.ckpt"
    trainer.save_checkpoint(path, weights_only=False)
    rates = []

    class Rates(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            rates.append(optimizer.param_groups[0]["lr"])

    resumed, data, trainer, _ = make(tiny_model, tmp_path, steps=8, callbacks=[Rates()])
    resumed.optimizer_config["planner"] = OptimizerConfig(lr=1e-3)
    resumed.optimizer_config["executor"] = OptimizerConfig(lr=8e-3, lr_schedule="linear")
    trainer.fit(resumed, data, ckpt_path=path)
    # steps 5 to 8: the executor's third and fourth of four, at (4 - 2) / 4 and (4 - 3) / 4 of its rate
    assert rates == pytest.approx([1e-3, 4e-3, 1e-3, 2e-3])


@pytest.mark.parametrize("role", ROLES)
def test_a_group_of_one_is_refused_for_a_role_that_learns(tiny_model, tmp_path, role):
    config = RolloutConfig(**{f"{role}_group_size": 1})
    with pytest.raises(ValueError, match=f"{role}_group_size is 1"):
        fit(tiny_model, tmp_path, rollout=config)


def test_missing_gradients_are_noticed_on_the_first_step(tiny_model, tmp_path):
    class Sabotage(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            activate = pl_module.policy.activate
            pl_module.policy.activate = lambda role: activate("executor")

    with pytest.raises(RuntimeError, match="first planner step"):
        fit(tiny_model, tmp_path, seed=5, callbacks=[Sabotage()])


def test_equal_completions_whose_advantages_cancel_are_no_error(tiny_model, tmp_path):
    class Cancel(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 0:
                for group in batch.groups:  # two times the same text, paid differently
                    group.completion_ids = [group.completion_ids[0]] * 2
                    group.rewards = torch.tensor([0.0, 1.0])

    *_, watch = fit(tiny_model, tmp_path, steps=4, seed=4, callbacks=[Cancel()])
    assert len(watch.seen) == 4


@pytest.mark.parametrize(
    ("schedule", "max_steps", "max_epochs", "expected"),
    [
        (Alternate(), 7, -1, (4, 3)),
        (PlannerOnly(), -1, 3, (9, 0)),  # three rounds an epoch
        (Ratio(4, 1), 12, -1, (10, 2)),
        (Alternate(), 100, 2, (6, 6)),
        (Alternate(), -1, -1, (0, 0)),
    ],
)
def test_a_schedule_of_learning_rates_is_as_long_as_the_run(
    tiny_model, tmp_path, schedule, max_steps, max_epochs, expected
):
    module, data, trainer, _ = make(tiny_model, tmp_path, schedule=schedule, steps=max_steps)
    trainer.fit_loop.max_epochs = max_epochs
    data.trainer = module.trainer = trainer
    trainer.datamodule = data

    def lengths():
        planned = Counter(role for _, role in data.planned_steps() or ())
        return tuple(planned[role] for role in ROLES)

    assert lengths() == expected
    data.stream.epoch = 1  # a resumed run finds the same
    assert lengths() == expected


@pytest.mark.parametrize("name", LR_SCHEDULES)
def test_every_schedule_that_is_offered_runs(tiny_model, tmp_path, name):
    module, data, trainer, _ = make(tiny_model, tmp_path)
    module.optimizer_config = dict.fromkeys(ROLES, OptimizerConfig(lr=1e-2, lr_schedule=name, warmup_steps=1))
    trainer.fit(module, data)
    assert module.policy.version == {"planner": 2, "executor": 2}


@pytest.mark.parametrize("name", DECAYING)
def test_a_schedule_that_ends_with_the_run_needs_an_end(tiny_model, tmp_path, name):
    """Without a length the rate would be 0 from the second step on."""
    module, data, trainer, _ = make(tiny_model, tmp_path, steps=-1, trainer_options={"max_epochs": -1})
    module.optimizer_config["executor"] = OptimizerConfig(lr_schedule=name)
    with pytest.raises(ConfigError, match=rf"model\.executor\.lr_schedule is {name}, .*max_steps .* both -1"):
        trainer.fit(module, data)


def test_the_schedule_of_a_role_that_does_not_learn_needs_no_end(tiny_model, tmp_path):
    module, data, trainer, _ = make(
        tiny_model, tmp_path, steps=-1, schedule=PlannerOnly(), trainer_options={"max_epochs": -1}
    )
    module.optimizer_config["executor"] = OptimizerConfig(lr_schedule="linear")
    trainer.callbacks.append(TokenBudget(1))
    trainer.fit(module, data)
    assert trainer.global_step == 1


@pytest.mark.parametrize("strategy", [DDPStrategy(), FSDPStrategy()], ids=lambda strategy: type(strategy).__name__)
def test_a_strategy_that_wants_both_adapters_in_every_step_is_refused(tiny_model, strategy):
    module = CAHLModule(PolicyConfig(model=str(tiny_model)))
    module.trainer = SimpleNamespace(strategy=strategy, loggers=[])
    with pytest.raises(ConfigError, match=f"comes to {type(strategy).__name__}, .*use --trainer.strategy adapter_ddp"):
        module.setup("fit")
    module.setup("test")
    module.trainer = SimpleNamespace(strategy=AdapterDDPStrategy(), loggers=[])
    module.setup("fit")


class Poison(Callback):
    """Makes the gradients of chosen steps NaN."""

    def __init__(self, *steps):
        self.steps = steps

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        for parameter in pl_module.policy.parameters_of(batch.role):
            parameter.register_hook(lambda g, s=trainer.global_step: g * float("nan") if self.now(trainer) else g)

    def now(self, trainer):
        return trainer.global_step in self.steps


def test_a_step_that_is_not_finite_moves_nothing_and_is_counted(tiny_model, tmp_path, capsys):
    module, _, _, watch = fit(tiny_model, tmp_path, steps=4, seed=4, callbacks=[Poison(2)])
    (_, *_, before), (role, *_, after), (*_, later) = watch.seen[1], watch.seen[2], watch.seen[3]
    assert role == "planner"
    assert not moved(before, after, "planner")
    assert moved(after, later, "executor")
    assert capsys.readouterr().out.count("gradients are not finite") == 1
    assert module.updates.skipped == {"planner": 1, "executor": 0}
    assert all(torch.isfinite(tensor).all() for tensor in module.policy.adapter_state().values())


def test_too_many_of_them_stop_the_run_and_keep_the_batch(tiny_model, tmp_path):
    with pytest.raises(NonFiniteError, match="5 steps of the planner in a row"):
        fit(tiny_model, tmp_path, steps=12, seed=4, schedule=PlannerOnly(), callbacks=[Poison(*range(12))])
    state = torch.load(tmp_path / "planner-batch-0.pt", weights_only=True)
    assert state["role"] == "planner"
    assert len(state["groups"]) == 2


def test_test_and_predict(tiny_model, tmp_path):
    module, data, trainer, _ = make(tiny_model, tmp_path)
    (values,) = trainer.test(module, data, verbose=False)
    assert values["test/task/success"] == 0
    assert values["test/plan/subtasks"] == 2
    (batch,) = trainer.predict(module, data)
    assert len(batch) == 3
    assert all(len(episode["steps"]) == 2 for episode in batch)


def test_a_step_writes_its_own_values_and_nothing_of_the_other_role(tiny_model, tmp_path):
    logger = TensorBoardLogger(tmp_path, default_hp_metric=False)
    module, data, trainer, _ = make(tiny_model, tmp_path, steps=6, seed=4)
    trainer.loggers = [logger]
    trainer.log_every_n_steps = 1
    trainer.fit(module, data)
    logger.experiment.flush()
    events = EventAccumulator(logger.log_dir).Reload()
    assert [e.step for e in events.Scalars("planner/lr")] == [1, 3, 5]
    assert [e.step for e in events.Scalars("executor/lr")] == [2, 4, 6]
    assert [e.step for e in events.Scalars("planner/reward/mean")] == [1, 2, 3, 4, 5, 6]  # of the round


class Shifted(TransformersEngine):
    """Says of every token that it was less likely than it was."""

    def generate(self, *args):
        samples = super().generate(*args)
        for completion in itertools.chain.from_iterable(samples):
            completion.logprobs -= 0.3
        return samples


@pytest.mark.parametrize(("engine", "gap", "capped"), [(TransformersEngine(), 0.0, 0.0), (Shifted(), 0.3, 1.0)])
def test_the_gap_to_the_engine_is_written_while_on_policy(tiny_model, tmp_path, monkeypatch, engine, gap, capped):
    written = []
    monkeypatch.setattr(CAHLModule, "_log_step", lambda self, role, metrics: written.append((role, metrics)))
    grpo = GRPOConfig(importance_cap=1.2)  # e^0.3 = 1.35
    sampling = Sampling(max_new_tokens=6)
    rollout = RolloutConfig(8, 4, planner=sampling, executor=sampling)  # large enough that rewards differ
    fit(tiny_model, tmp_path, grpo=grpo, updates_per_round=2, engine=engine, rollout=rollout)
    for (role, metrics), on_policy in zip(written, [True, True, False, False], strict=True):
        names = [f"{role}/engine_gap/{name}" for name in ("mean", "max", "capped")]
        assert [name in metrics for name in names] == [on_policy] * 3
        if on_policy:
            assert [metrics[name] for name in names] == pytest.approx([gap, gap, capped], abs=1e-4)


def test_an_engine_that_cannot_train_is_refused_before_the_first_step(tiny_model, tmp_path):
    with pytest.raises(ConfigError, match=r"data\.engine\.adapter_folder"):
        fit(tiny_model, tmp_path, engine=ServerEngine("http://127.0.0.1:1"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr": -1.0}, "lr of an optimiser is -1.0"),
        ({"lr": float("nan")}, "lr of an optimiser is nan"),
        ({"max_grad_norm": 0.0}, "max_grad_norm is 0.0: give more than 0"),
        ({"max_grad_norm": float("nan")}, "max_grad_norm is nan"),
        ({"betas": (0.9, 1.0)}, "betas of an optimiser"),
        ({"lr_schedule": "cosin"}, "there is no lr_schedule 'cosin' here; there are constant, "),
        ({"lr_schedule": "reduce_lr_on_plateau"}, "there is no lr_schedule 'reduce_lr_on_plateau' here; "),
        ({"lr_schedule": "cosine_with_min_lr"}, "there is no lr_schedule 'cosine_with_min_lr' here; "),
        ({"lr_schedule": "warmup_stable_decay"}, "there is no lr_schedule 'warmup_stable_decay' here; "),
        ({"lr_schedule": "greedy"}, "there is no lr_schedule 'greedy' here; "),
        ({"lr_schedule": "polynomial", "lr": 1e-7}, "where polynomial ends: give more than 1e-07"),
    ],
)
def test_optimisers_that_could_not_work_are_refused(values, message):
    OptimizerConfig(max_grad_norm=float("inf"))
    with pytest.raises(ValueError, match=re.escape(message)):
        OptimizerConfig(**values)
