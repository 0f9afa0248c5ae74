"""The lines that ProgressLines prints."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from cahl_pl.callbacks import ProgressLines, TokenBudget
from cahl_pl.callbacks import progress as module_under_test
from cahl_pl.types import Action, Message, Plan, RolloutBatch, Step, SubTask, Task, Trajectory


@pytest.fixture
def trainer():
    return SimpleNamespace(
        global_step=0, is_global_zero=True, estimated_stepping_batches=6, callback_metrics={}, callbacks=[]
    )


@pytest.fixture
def run(trainer, monkeypatch, capsys):
    """Runs steps of ten seconds each; returns the lines."""

    def steps(callback, *batches):
        clock = [0.0]
        monkeypatch.setattr(module_under_test.time, "monotonic", lambda: clock[0])
        callback.on_train_start(trainer, None)
        for batch in batches:
            trainer.global_step += 1
            clock[0] += 10.0
            callback.on_train_batch_end(trainer, None, None, batch, 0)
        return capsys.readouterr().out.splitlines()

    return steps


def batch(role="planner", trajectories=(), objective="grpo", **rewards):
    metrics = {f"{name}/reward/mean": value for name, value in rewards.items()}
    return RolloutBatch(role, [], 0, objective=objective, metrics=metrics, trajectories=list(trajectories))


def episode(succeeds: bool) -> Trajectory:
    """Of a task that needs no tool: a well-formed answer is a success."""
    task = Task("t", (Message("user", "Hi"),), ())
    step = Step(SubTask("answer", None), "", Action(answer="Hello", well_formed=succeeds))
    return Trajectory(task, "", Plan((step.subtask,)), (step,))


def test_a_line_holds_means_since_the_last_one_and_the_time_left(run):
    lines = run(
        ProgressLines(every_n_steps=2),
        batch(planner=0.2, executor=0.5, trajectories=[episode(True), episode(False)]),
        batch("executor", planner=0.4, trajectories=[episode(True)]),
        batch(planner=1.0),
        batch(planner=0.0),
    )
    assert lines == [
        "step     2/6  planner 0.300  executor 0.500  success 0.750  left 0:40",
        "step     4/6  planner 0.500  left 0:20",
    ]


def test_the_last_step_gets_a_line_whatever_its_number(run, trainer):
    trainer.estimated_stepping_batches = 3
    lines = run(ProgressLines(every_n_steps=10), *[batch(planner=0.25)] * 3)
    assert lines == ["step     3/3  planner 0.250  left 0:00"]


def test_a_run_without_an_end_has_no_time_left(run, trainer):
    trainer.estimated_stepping_batches = float("inf")
    assert run(ProgressLines(every_n_steps=1), batch(planner=0.25)) == ["step     1  planner 0.250"]


def test_a_resumed_run_estimates_by_its_own_speed(run, trainer):
    trainer.global_step = 4
    lines = run(ProgressLines(every_n_steps=1), batch(planner=0.25))
    assert lines == ["step     5/6  planner 0.250  left 0:10"]


def test_speed_has_no_decimals_and_the_warm_start_shows_its_loss(run, trainer):
    trainer.callback_metrics["planner/warm_start/loss"] = torch.tensor(1.5)
    warm = batch(objective="supervised")
    warm.metrics["time/tokens_per_s"] = 1234.4
    assert run(ProgressLines(1), warm) == ["step     1/6  tokens/s 1234  planner loss 1.500  left 0:50"]
    # what the metrics still hold of the warm start is not shown afterwards
    assert run(ProgressLines(1), batch(planner=0.5)) == ["step     2/6  planner 0.500  left 0:40"]


def test_other_processes_are_silent(run, trainer):
    trainer.is_global_zero = False
    assert run(ProgressLines(1), batch(planner=0.25)) == []


def test_nothing_measured_nothing_printed(run):
    assert run(ProgressLines(1), batch()) == []


def test_a_bad_number_is_named():
    with pytest.raises(ValueError, match=r"ProgressLines\.every_n_steps is 0: give 1 or more"):
        ProgressLines(every_n_steps=0)


def test_with_a_token_budget_the_time_left_is_that_of_the_tokens(trainer, run):
    budget = TokenBudget(1000)
    trainer.callbacks = [budget]

    class Spend(ProgressLines):
        def on_train_batch_end(self, *args):
            budget.tokens += 250
            super().on_train_batch_end(*args)

    lines = run(Spend(every_n_steps=2), *[batch(planner=0.5)] * 4)
    assert lines == [
        "step     2  tokens 500/1000  planner 0.500  left 0:20",
        "step     4  tokens 1000/1000  planner 0.500  left 0:00",
    ]
