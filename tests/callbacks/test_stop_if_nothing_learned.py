"""Runs that learn nothing, each for another reason."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything

from cahl_pl.callbacks import (
    BeforeAfter,
    Checkpoints,
    ProgressLines,
    StartSummary,
    StopIfNothingLearned,
    stop_if_nothing_learned,
)
from cahl_pl.datamodule import RolloutDataModule
from cahl_pl.datasets.base import TaskSource
from cahl_pl.engines import Sampling
from cahl_pl.environments import ExecutableEnvironment
from cahl_pl.errors import ConfigError, NothingLearnedError
from cahl_pl.module import CAHLModule
from cahl_pl.optimizers import OptimizerConfig
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.prompts import PromptConfig
from cahl_pl.rollout.config import RolloutConfig
from cahl_pl.schedules import Alternate, ExecutorOnly, PlannerOnly
from cahl_pl.toolworld import ToolWorld, toolkit
from cahl_pl.types import Action, Group, Message, Outcome, Plan, RolloutBatch, Step, SubTask, Task, Trajectory

PROMPTS = PromptConfig(tool_format="compact", system="Tools:", planner="Plan", executor="Do {subtask}")


def run(tiny_model, folder, *callbacks, steps=4, train=None, ckpt_path=None, optimizer=None, rollout=None, **data):
    """A short run of a random model, which writes no plan that can be read."""
    seed_everything(3, verbose=False)
    sampling = Sampling(max_new_tokens=4)
    datamodule = RolloutDataModule(
        train or ToolWorld(size=6),
        ExecutableEnvironment(toolkit),
        prompts=PROMPTS,
        test={"test": ToolWorld("test", 1)},
        rollout=RolloutConfig(2, 2, planner=sampling, executor=sampling, **(rollout or {})),
        tasks_per_round=2,
        **data,
    )
    optimizer = optimizer or OptimizerConfig()
    module = CAHLModule(PolicyConfig(model=str(tiny_model), lora_rank=2), planner=optimizer, executor=optimizer)
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_checkpointing=any(isinstance(callback, Checkpoints) for callback in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )
    trainer.fit(module, datamodule, ckpt_path=ckpt_path)
    return trainer


# --- before training ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("too_long", ["drop", "truncate"])
@pytest.mark.parametrize("single_level", [False, True])
def test_a_run_whose_tasks_are_all_too_long_is_refused_before_anything_is_measured(
    tiny_model, tmp_path, capsys, too_long, single_level
):
    rollout = {"max_prompt_tokens": 20, "too_long": too_long}
    with pytest.raises(
        ConfigError, match=r"all training tasks \(6\) are longer than .* = 20, the shortest has \d+ tokens"
    ):
        run(tiny_model, tmp_path, BeforeAfter(), rollout=rollout, single_level=single_level)
    assert "measuring" not in capsys.readouterr().out


def test_one_task_that_fits_is_enough(tiny_model, tmp_path, capsys):
    builder = None
    lengths = []

    class Lengths(StopIfNothingLearned):
        def on_fit_start(self, trainer, pl_module):
            nonlocal builder
            builder = trainer.datamodule.builder
            lengths.extend(len(builder.planner(trainer.datamodule.train_tasks[i])) for i in range(6))

    run(tiny_model, tmp_path, Lengths(), steps=1)
    shortest = min(lengths)
    assert shortest < max(lengths)
    run(tiny_model, tmp_path, StopIfNothingLearned(None, None, None), steps=6, rollout={"max_prompt_tokens": shortest})
    out = capsys.readouterr().out
    # said once, where it happens first
    assert out.count("left out, the prompt being longer than data.rollout.max_prompt_tokens") == 1


def test_a_warm_start_alone_is_not_held_against_the_limits(tiny_model, tmp_path):
    trainer = run(tiny_model, tmp_path, warm_start_rounds=2, rollout={"max_steps": 1, "max_prompt_tokens": 20})
    assert trainer.global_step == 4


class Long(TaskSource):
    """Tasks of the world with as many gold calls as asked for."""

    def __init__(self, *lengths):
        self.lengths = lengths
        world = ToolWorld(size=50)
        self.one = next(task for task in map(world.__getitem__, range(50)) if len(task.gold) == 1)

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, index):
        one = self.one
        gold = one.gold * self.lengths[index]
        return Task(f"long-{index}", one.messages, one.tools, gold, state=one.state, ordered=True)


def test_tasks_that_need_more_steps_than_there_are_are_counted(tiny_model, tmp_path, capsys):
    run(tiny_model, tmp_path, train=Long(1, 2, 3), rollout={"max_steps": 2}, steps=1)
    assert (
        "1 of 3 training tasks has more gold calls than data.rollout.max_steps = 2 and cannot be fulfilled: raise it, to 3 "
        "for all of them\n"
    ) in capsys.readouterr().out
    with pytest.raises(
        ConfigError, match=r"all 2 training tasks have more gold calls than .*_steps = 2, .* to 4 for all"
    ):
        run(tiny_model, tmp_path, train=Long(3, 4), rollout={"max_steps": 2})
    with pytest.raises(ConfigError, match="the only training task has more turns of gold calls"):
        run(tiny_model, tmp_path, train=Long(3), rollout={"max_steps": 2}, single_level=True)


def test_a_schedule_of_one_role_is_looked_at_too(tiny_model, tmp_path):
    """Gold of a task says the same to both roles."""
    with pytest.raises(ConfigError, match=r"max_steps = 1"):
        run(tiny_model, tmp_path, train=Long(2), rollout={"max_steps": 1}, schedule=ExecutorOnly())


# --- while training ----------------------------------------------------------------------------------------------------


def test_plans_that_nobody_can_read_stop_the_run_and_what_was_reached_is_saved(tiny_model, tmp_path):
    callbacks = (Checkpoints(every_n_steps=99), StopIfNothingLearned(rounds_without_plans=3))
    with pytest.raises(
        NothingLearnedError, match=r"^in 3 rounds in a row no plan could be read.*data\.warm_start_rounds"
    ):
        run(tiny_model, tmp_path, *callbacks, steps=99)
    saved = [path.name for path in (tmp_path / "checkpoints").iterdir()]
    assert saved == ["step-000005.ckpt"]  # with the first step of the third round
    # going on, with what there is to change changed
    again = run(
        tiny_model,
        tmp_path,
        Checkpoints(every_n_steps=99),
        StopIfNothingLearned(None, None, None),
        steps=7,
        ckpt_path=tmp_path / "checkpoints" / saved[0],
    )
    assert again.global_step == 7


def test_nothing_fires_on_a_run_that_is_shorter_but_it_is_said(tiny_model, tmp_path, capsys):
    run(tiny_model, tmp_path, steps=4)
    told = "warning: this run has learned nothing: in none of its rounds could a plan be read; more rounds"
    assert told in capsys.readouterr().out


def test_it_is_there_by_itself_once_and_with_the_numbers_that_were_given(tiny_model, tmp_path):
    def found(*callbacks):
        given = run(tiny_model, tmp_path, *callbacks, steps=1).callbacks
        return [type(callback) for callback in given], [c for c in given if isinstance(c, StopIfNothingLearned)]

    kinds, (own,) = found(BeforeAfter(), StartSummary(), ProgressLines())
    # after what the run is about to do, before what takes long
    assert kinds.index(StopIfNothingLearned) == kinds.index(StartSummary) + 1
    kinds, _ = found(BeforeAfter())
    assert kinds.index(StopIfNothingLearned) < kinds.index(BeforeAfter)
    assert own.limits["plans"] == 10
    _, (given,) = found(StopIfNothingLearned(rounds_without_plans=7))
    assert given.limits["plans"] == 7


@pytest.mark.parametrize("schedule", [PlannerOnly(), Alternate()])
def test_a_rate_that_has_fallen_to_nothing_stops_the_run(tiny_model, tmp_path, schedule):
    """As where a run goes on under a schedule that gives a role fewer steps than it has taken."""

    class Ended(StopIfNothingLearned):
        def on_train_start(self, trainer, pl_module):
            trainer.lr_scheduler_configs[0].scheduler.lr_lambdas = [lambda step: max(0.0, 1 - step / 2)]

    optimizer = OptimizerConfig(lr_schedule="linear")
    with pytest.raises(
        NothingLearnedError, match=r"rate of the planner is 0 from its step 3 on, .*lr_schedule = linear has"
    ):
        run(tiny_model, tmp_path, Ended(None, None, None), steps=9, schedule=schedule, optimizer=optimizer)


@pytest.mark.parametrize("schedule", ["constant_with_warmup", "linear", "cosine"])
def test_a_rate_that_rises_from_nothing_does_not(tiny_model, tmp_path, schedule):
    optimizer = OptimizerConfig(lr_schedule=schedule, warmup_steps=2)
    callback = StopIfNothingLearned(None, None, None)
    assert run(tiny_model, tmp_path, callback, steps=6, optimizer=optimizer).global_step == 6


def test_a_warm_start_without_gold_stops(tiny_model, tmp_path):
    class NoGold(Long):
        def __getitem__(self, index):
            return Task(f"n-{index}", (Message("user", "Do it"),), self.one.tools, outcome=Outcome(results=(1,)))

    callback = StopIfNothingLearned(rounds_without_tasks=2)
    with pytest.raises(
        NothingLearnedError, match=r"^in 2 rounds in a row of the warm start no task had gold for the planner"
    ):
        run(tiny_model, tmp_path, callback, train=NoGold(1, 1, 1, 1), warm_start_rounds=9, steps=9)


# --- the counts, on batches made by hand ---------------------------------------------------------------------------------


@pytest.fixture
def trainer():
    rollout = SimpleNamespace(config=RolloutConfig(max_prompt_tokens=99))
    constant = SimpleNamespace(scheduler=SimpleNamespace(last_epoch=1, lr_lambdas=[lambda step: 1.0]))
    return SimpleNamespace(
        datamodule=SimpleNamespace(rollout=rollout, single_level=False),
        is_global_zero=True,
        lr_scheduler_configs=[constant, constant],
    )


MODULE = SimpleNamespace(
    optimizer_config=dict.fromkeys(("planner", "executor"), OptimizerConfig()),
    comparisons_with_signal=lambda role, groups: {g.comparison_id for g in groups if g.rewards.max() > g.rewards.min()},
)
READABLE = Trajectory(
    Task("t", (Message("user", "Hi"),), ()), "", Plan((SubTask("a", None),)), (Step(SubTask("a", None), "", Action()),)
)
UNREADABLE = Trajectory(READABLE.task, "?", Plan(error="no plan"))


def batch(*rewards, role="planner", first=None, episodes=(READABLE,), update=0, **metrics):
    groups = [
        Group(
            torch.zeros(1), [torch.zeros(1)] * len(r), torch.tensor(r), {}, torch.zeros(len(r)), torch.zeros(len(r)), i
        )
        for i, r in enumerate(rewards)
    ]
    first = role == "planner" if first is None else first
    metrics = {"rollout/tasks": 2.0, "rollout/tasks_too_long": 0.0} | {f"rollout/{k}": v for k, v in metrics.items()}
    return RolloutBatch(role, groups, 0, update, metrics=metrics, trajectories=list(episodes) if first else None)


def feed(trainer, callback, *batches):
    for one in batches:
        callback.on_train_batch_end(trainer, MODULE, None, one, 0)


FLAT, STEEP = (1.0, 1.0), (0.0, 1.0)


def test_no_signal_is_counted_for_each_role_by_itself(trainer):
    callback = StopIfNothingLearned(rounds_without_signal=3)  # the executor has never learned anything
    feed(trainer, callback, *[batch(FLAT, STEEP), batch(FLAT, FLAT, role="executor")] * 2, batch(STEEP))
    with pytest.raises(
        NothingLearnedError,
        match=r"^in 3 rounds in a row all samples of each prompt of the executor earned the same \(1\.000 on average\), .* "
        r"raise data\.rollout\.executor_group_size or data\.rollout\.executor\.temperature, or look at data\.executor_reward",
    ):
        feed(trainer, callback, batch(FLAT, role="executor"))


def test_a_role_that_has_mastered_its_part_does_not_stop_the_other(trainer, capsys):
    callback = StopIfNothingLearned(rounds_without_signal=2)
    feed(trainer, callback, batch(STEEP), batch(STEEP, role="executor"))
    feed(trainer, callback, *[batch(STEEP), batch(FLAT, role="executor")] * 4)
    out = capsys.readouterr().out
    assert out.count("warning: in 2 rounds in a row all samples of each prompt of the executor earned the same") == 1
    assert out.endswith("; the planner goes on learning\n")
    again = StopIfNothingLearned(rounds_without_signal=2)  # a resumed run knows it too
    again.load_state_dict(callback.state_dict())
    feed(trainer, again, *[batch(STEEP), batch(FLAT, role="executor")] * 4, batch(FLAT))
    with pytest.raises(NothingLearnedError, match=r"2 rounds .* of the planner earned the same"):
        feed(trainer, again, batch(FLAT))  # once neither has anything left


def test_a_signal_starts_the_count_afresh_and_further_updates_do_not_count(trainer):
    callback = StopIfNothingLearned(rounds_without_signal=2)
    feed(trainer, callback, batch(FLAT), batch(STEEP), batch(FLAT), batch(FLAT, update=1), batch(FLAT, update=2))
    with pytest.raises(NothingLearnedError, match="2 rounds"):
        feed(trainer, callback, batch(FLAT))


def test_without_a_planner_it_is_the_reward_of_turns(trainer):
    trainer.datamodule.single_level = True
    callback = StopIfNothingLearned(rounds_without_plans=1, rounds_without_signal=1)
    with pytest.raises(NothingLearnedError, match=r"executor_group_size .*look at data\.turn_reward"):
        feed(trainer, callback, batch(FLAT, role="executor", first=True))


def test_a_role_without_any_output_is_told_apart(trainer):
    callback = StopIfNothingLearned(rounds_without_signal=1)
    with pytest.raises(NothingLearnedError, match="1 round in a row there was no output of the executor to learn from"):
        feed(trainer, callback, batch(role="executor"))


def test_rounds_without_a_task(trainer):
    callback = StopIfNothingLearned(rounds_without_tasks=2, rounds_without_plans=1, rounds_without_signal=9)
    none = batch(episodes=(), tasks_too_long=2.0)
    feed(trainer, callback, none, batch(STEEP, tasks_too_long=1.0), none)
    with pytest.raises(NothingLearnedError, match=r"^in 2 rounds in a row no task could be run, .*tokens = 99: raise"):
        feed(trainer, callback, none)


def test_a_reward_that_pays_for_what_is_nearly_a_plan_is_something_to_learn_from(trainer):
    callback = StopIfNothingLearned(rounds_without_plans=1)
    steep = batch(STEEP, episodes=(UNREADABLE,))
    steep.metrics["planner/frac_zero_std"] = 0.5
    feed(trainer, callback, steep, steep, batch(FLAT, episodes=(UNREADABLE, READABLE)))
    flat = batch(FLAT, episodes=(UNREADABLE,))
    flat.metrics["planner/frac_zero_std"] = 1.0
    with pytest.raises(NothingLearnedError, match="no plan could be read"):
        feed(trainer, callback, flat)


def test_all_processes_count_together(trainer, monkeypatch):
    """What another process has learned from is something to learn from."""
    others = {6: [0.0, 0.0, 0.0, 1.0, 1.0, 0.0], 3: [1.0, 2.0, 1.0]}  # one episode with a plan; one group with a signal
    monkeypatch.setattr(
        stop_if_nothing_learned,
        "sum_over_processes",
        lambda values: [a + b for a, b in zip(values, others[len(values)], strict=True)],
    )
    callback = StopIfNothingLearned(1, 1, 1)
    trainer.is_global_zero = False
    feed(trainer, callback, batch(FLAT, episodes=(UNREADABLE,)))
    others |= {6: [0.0] * 6, 3: [0.0, 2.0, 2.0]}
    with pytest.raises(NothingLearnedError, match="no plan"):
        feed(trainer, callback, batch(FLAT, episodes=(UNREADABLE,)))


def test_what_is_left_out_is_said_where_it_happens_first(trainer, capsys):
    callback = StopIfNothingLearned()
    feed(trainer, callback, batch(STEEP))
    assert capsys.readouterr().out == ""
    feed(trainer, callback, batch(STEEP, tasks_too_long=1.0), batch(STEEP, tasks_too_long=1.0))
    assert capsys.readouterr().out == (
        "1 of 2 tasks of this round was left out, the prompt being longer than data.rollout.max_prompt_tokens = 99: raise it "
        "to keep them whole; rollout/tasks_too_long counts them from here on\n"
    )
    feed(trainer, callback, batch(STEEP, tasks_truncated=2.0))
    assert "2 of 2 tasks of this round were shortened, " in capsys.readouterr().out


@pytest.mark.parametrize("name", ["rounds_without_tasks", "rounds_without_plans", "rounds_without_signal"])
def test_a_bad_number_is_named(name):
    with pytest.raises(ValueError, match=f"StopIfNothingLearned.{name} is 0: give 1 or more, or null"):
        StopIfNothingLearned(**{name: 0})
