"""Where TokenBudget stops a training on the tiny model, and what it counts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from lightning.pytorch import Callback, Trainer, seed_everything

import cahl_pl.callbacks.token_budget
from cahl_pl.callbacks import Checkpoints, StopIfNothingLearned, TokenBudget
from cahl_pl.datamodule import RolloutDataModule
from cahl_pl.engines.base import Sampling
from cahl_pl.environments import ExecutableEnvironment
from cahl_pl.module import CAHLModule
from cahl_pl.optimizers import OptimizerConfig
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.prompts import PromptConfig
from cahl_pl.rollout.config import RolloutConfig
from cahl_pl.toolworld import ToolWorld, toolkit
from cahl_pl.types import RolloutBatch


class Rounds(Callback):
    """The tokens of each round, as the batches themselves say."""

    def __init__(self):
        self.tokens, self.rates = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.rates.append(trainer.callback_metrics[f"{batch.role}/lr"].item())
        if batch.update == 0 and batch.role == "planner":
            self.tokens.append(batch.metrics["rollout/tokens"])


def fit(tiny_model, folder, budget, ckpt_path=None, **planner):
    """At most two epochs of five rounds of two steps each."""
    seed_everything(3, verbose=False)
    sampling = Sampling(max_new_tokens=6)
    data = RolloutDataModule(
        ToolWorld(size=5),
        ExecutableEnvironment(toolkit),
        prompts=PromptConfig(tool_format="compact", system="Tools:", planner="Plan", executor="Do {subtask}"),
        tasks_per_round=1,
        rollout=RolloutConfig(2, 2, planner=sampling, executor=sampling),
    )
    model = CAHLModule(PolicyConfig(model=str(tiny_model), lora_rank=4), planner=OptimizerConfig(lr=1e-2, **planner))
    rounds, count = Rounds(), TokenBudget(budget)
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[rounds, count, Checkpoints(every_n_steps=1, keep=99), StopIfNothingLearned(None, None, None)],
    )
    trainer.fit(model, data, ckpt_path=ckpt_path)
    count.rates = rounds.rates
    return trainer, rounds.tokens, count


@pytest.fixture
def three_rounds(tiny_model, tmp_path):
    """A budget that the third of ten rounds passes, and the tokens of the rounds."""
    _, tokens, count = fit(tiny_model, tmp_path / "all", 10**9)
    assert len(tokens) == 10
    assert count.tokens == sum(tokens)
    return int(sum(tokens[:2])) + 1, tokens


def test_it_stops_amid_an_epoch_after_the_round_that_passes_the_budget(tiny_model, tmp_path, three_rounds):
    budget, tokens = three_rounds
    trainer, seen, count = fit(tiny_model, tmp_path / "run", budget)
    assert trainer.global_step == 6  # both roles' steps of three rounds
    assert seen == tokens[:3]
    assert count.tokens == sum(tokens[:3])


def test_a_rate_that_falls_with_the_run_falls_with_the_tokens_a_resumed_runs_too(tiny_model, tmp_path, three_rounds):
    budget, _ = three_rounds
    _, tokens, count = fit(tiny_model, tmp_path / "run", budget, lr_schedule="linear")
    spent = [sum(tokens[:k]) / budget for k in range(len(tokens))]
    assert len(tokens) >= 3
    assert count.rates[::2] == pytest.approx([1e-2 * (1 - share) for share in spent])
    assert count.rates[1::2] == pytest.approx([1e-5] * len(tokens))  # the executor's is constant
    checkpoint = tmp_path / "run" / "checkpoints" / "step-000003.ckpt"
    _, _, resumed = fit(tiny_model, tmp_path / "resumed", budget, checkpoint, lr_schedule="linear")
    assert resumed.rates == count.rates[3:]


def test_a_budget_met_exactly_is_spent(tiny_model, tmp_path, three_rounds):
    budget, _ = three_rounds
    trainer, *_ = fit(tiny_model, tmp_path / "run", budget - 1)
    assert trainer.global_step == 4


@pytest.mark.parametrize("step", [3, 4, 5, 6])  # within and after the second round, and the same of the last
def test_a_resumed_run_stops_at_the_same_place(tiny_model, tmp_path, three_rounds, step):
    budget, tokens = three_rounds
    fit(tiny_model, tmp_path / "run", budget)
    checkpoint = tmp_path / "run" / "checkpoints" / f"step-{step:06d}.ckpt"
    trainer, _, count = fit(tiny_model, tmp_path / "resumed", budget, ckpt_path=checkpoint)
    assert trainer.global_step == 6
    assert count.tokens == sum(tokens[:3])


def test_the_tokens_of_all_processes_count_and_the_total_is_logged(monkeypatch, module, trainer):
    monkeypatch.setattr(cahl_pl.callbacks.token_budget, "sum_over_processes", lambda values: [3 * values[0]])
    trainer.datamodule = SimpleNamespace(stream=SimpleNamespace(pending=[]))
    callback = TokenBudget(200)
    first = RolloutBatch("planner", [], 0, metrics={"rollout/tokens": 40.0}, trajectories=[])
    for step, batch in ((1, first), (2, RolloutBatch("executor", [], 0, metrics=first.metrics)), (3, first)):
        assert not trainer.should_stop
        trainer.global_step = step
        callback.on_train_batch_end(trainer, module, None, batch, step)
    assert callback.tokens == 240
    assert trainer.should_stop
    assert trainer.scalars() == {"rollout/tokens_total": [(1, 120.0), (3, 240.0)]}


def test_a_warm_start_takes_nothing_of_what_may_be_sampled_and_ends_at_as_much(module, trainer):
    trainer.datamodule = SimpleNamespace(stream=SimpleNamespace(pending=[]))
    callback = TokenBudget(20)
    groups = [SimpleNamespace(completion_ids=[[3, 4, 5], [6]]), SimpleNamespace(completion_ids=[[7, 8]])]
    gold = RolloutBatch("planner", groups, 0, objective="supervised")
    for step in (1, 2, 3):
        trainer.global_step = step
        callback.on_train_batch_end(trainer, module, None, gold, step)
        assert not trainer.should_stop
    assert (callback.tokens, callback.imitated, callback.spent) == (0, 18, 0.0)
    sampled = RolloutBatch("planner", [], 0, metrics={"rollout/tokens": 19.0}, trajectories=[])
    callback.on_train_batch_end(trainer, module, None, sampled, 4)
    assert not trainer.should_stop  # 18 and 19 are not added up
    resumed = TokenBudget(20)
    resumed.load_state_dict(callback.state_dict())
    resumed.on_train_batch_end(trainer, module, None, gold, 5)
    assert (resumed.imitated, resumed.reached, trainer.should_stop) == (24, 24, True)
    assert trainer.scalars()["warm_start/tokens_total"] == [(1, 6.0), (2, 12.0), (3, 18.0), (3, 24.0)]


def test_an_empty_budget_is_refused():
    with pytest.raises(ValueError, match=r"TokenBudget\.max_tokens is 0: give 1 or more tokens"):
        TokenBudget(0)
