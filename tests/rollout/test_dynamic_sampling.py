"""Groups without a signal are replaced by further tasks: which ones, how often, for whom, and the same after a resume."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything

from cahl_pl.datamodule import RolloutDataModule
from cahl_pl.datasets.base import TaskSource
from cahl_pl.engines import Sampling
from cahl_pl.environments import ExecutableEnvironment
from cahl_pl.grpo.advantages import has_signal, rewards_by_comparison
from cahl_pl.module import CAHLModule
from cahl_pl.optimizers import OptimizerConfig
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.prompts import PromptConfig
from cahl_pl.rewards.base import BasePlannerReward
from cahl_pl.rollout.config import RolloutConfig
from cahl_pl.rollout.dynamic_sampling import refilled
from cahl_pl.rollout.episode import Round
from cahl_pl.sampling import RewardSampler, Shuffled
from cahl_pl.schedules import PlannerOnly
from cahl_pl.types import Group, Message, Task


def groups(*rewards, comparison_id=None):
    return [
        Group(
            torch.arange(2),
            [torch.arange(1)] * len(values),
            torch.tensor(values),
            {},
            torch.zeros(len(values)),
            torch.zeros(len(values)).bool(),
            comparison_id[i] if comparison_id else i,
        )
        for i, values in enumerate(rewards)
    ]


def signal(role, found):
    return {comparison_id for comparison_id, rewards in rewards_by_comparison(found).items() if has_signal(rewards)}


def a_round(planner, executor=(), tokens=10.0, **rewards):
    return Round(
        {"planner": planner, "executor": list(executor)},
        [],
        {"time/rollout_s": 2.0, "rollout/tokens": tokens},
        {name: [value] for name, value in rewards.items()},
    )


YES, NO = [0.0, 1.0], [0.5, 0.5]


def rewards_of(found):
    return [group.rewards.tolist() for group in found]


def test_refills_by_hand():
    """Three of four planner groups lack a signal, and half of two executor groups."""
    asked = []
    more = iter(
        [
            a_round(groups([0.0, 0.2], NO), groups(YES, YES, YES), tokens=20.0, b=2.0),
            a_round(groups(NO, [0.0, 0.3]), groups(NO), c=3.0),
        ]
    )

    def sample(attempt, share):
        asked.append((attempt, share))
        return next(more)

    first = a_round(groups(NO, YES, [0.1, 0.1], NO), groups(YES, NO), a=1.0)
    result = refilled(first, ("planner", "executor"), 2, signal, sample)
    assert asked == [(0, 0.75), (1, 0.5)]
    # those with a signal in order, then what is left of the first ones
    assert rewards_of(result.groups["planner"]) == [YES, pytest.approx([0.0, 0.2]), pytest.approx([0.0, 0.3]), NO]
    assert rewards_of(result.groups["executor"]) == [YES, YES]
    assert [group.comparison_id for group in result.groups["planner"]] == [0, 1, 2, 3]
    assert result.rewards == {"a": [1.0], "b": [2.0], "c": [3.0]}
    assert result.metrics == {
        "time/rollout_s": 6.0,
        "rollout/tokens": 40.0,
        "time/tokens_per_s": 40 / 6,
        "rollout/refills": 2.0,
        "planner/refilled": 0.5,
        "executor/refilled": 0.5,
    }


def test_only_roles_that_are_trained_are_refilled_and_only_as_long_as_needed():
    result = refilled(
        a_round(groups(YES, YES), groups(NO, NO)), ("planner",), 3, signal, lambda *_: pytest.fail("nothing lacks")
    )
    assert rewards_of(result.groups["executor"]) == [NO, NO]
    assert result.metrics["rollout/refills"] == 0
    nothing_left = refilled(a_round(groups(NO, YES)), ("planner",), 3, signal, lambda *_: None)
    assert rewards_of(nothing_left.groups["planner"]) == [YES, NO]


def test_comparisons_of_several_groups_are_replaced_as_a_whole():
    first = a_round(groups(NO, NO, [0.0], [1.0], comparison_id=[4, 4, 9, 9]))
    more = a_round(groups([0.3], [0.3], [0.2], [0.6], comparison_id=[4, 4, 9, 9]))
    result = refilled(first, ("planner",), 1, signal, lambda *_: more)
    assert [round(group.rewards[0].item(), 1) for group in result.groups["planner"]] == [0.0, 1.0, 0.2, 0.6]
    assert [group.comparison_id for group in result.groups["planner"]] == [0, 0, 1, 1]


@pytest.mark.parametrize("sampler", [Shuffled(), RewardSampler()], ids=lambda s: type(s).__name__)
def test_further_tasks_are_new_to_the_round_and_the_same_every_time(sampler):
    sampler.update({i: [0.0, 1.0] if i % 2 else [1.0, 1.0] for i in range(12)})
    taken = {0, 3, 7}
    draws = [sampler.refill(40, 5, 1, 2, attempt, taken, 4) for attempt in (0, 1)]
    assert draws == [sampler.refill(40, 5, 1, 2, attempt, taken, 4) for attempt in (0, 1)]
    assert draws[0] != draws[1]
    for drawn in draws:
        assert len(set(drawn)) == 4
        assert not set(drawn) & taken
    assert sorted(sampler.refill(12, 5, 1, 2, 0, taken, 100)) == sorted(set(range(12)) - taken)
    assert sampler.refill(12, 5, 1, 2, 0, range(12), 4) == []
    others = [sampler.refill(40, *place, 0, taken, 4) for place in ((5, 1, 3), (5, 2, 2), (6, 1, 2), (5, 1, 2))]
    assert len({tuple(drawn) for drawn in others}) == 4


def test_a_reward_sampler_refills_with_what_can_be_learned_from():
    sampler = RewardSampler(floor=0.01)
    sampler.update({i: [0.0, 1.0] if i < 10 else [1.0, 1.0] for i in range(200)})
    drawn = sampler.refill(200, 0, 0, 0, 0, {0, 1, 2, 3, 4}, 5)
    assert sorted(drawn) == [5, 6, 7, 8, 9]


class Requests(TaskSource):
    """Twelve requests without tools."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        if not 0 <= index < 12:
            raise IndexError(index)
        return Task(f"t{index}", (Message("user", f"request {index}"),), ())


class Half(BasePlannerReward):
    """Tells plans apart where the number of the request is odd."""

    def components(self, plan, trajectories):
        odd = int(trajectories[0].task.id[1:]) % 2
        return {"odd": odd * (sum(map(ord, trajectories[0].plan_text)) % 101) / 101}

    def total(self, components):
        return components["odd"]


class Watch(Callback):
    def __init__(self):
        self.rows = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        varied = sum(has_signal(group.rewards) for group in batch.groups)
        refills, constant = batch.metrics.get("rollout/refills"), batch.metrics["planner/frac_zero_std"]
        self.rows.append((len(batch.groups), varied, refills, constant))
        drawn = trainer.datamodule.round_tasks.indices
        assert len(set(drawn)) == len(drawn)  # no task twice in a round


@pytest.fixture
def run(tiny_model, tmp_path):
    def fit(steps, refills, checkpoint=None, sampler=None):
        seed_everything(3, verbose=False)
        module = CAHLModule(PolicyConfig(model=str(tiny_model), lora_rank=2), planner=OptimizerConfig(lr=1e-2))
        sampling = Sampling(max_new_tokens=6)
        data = RolloutDataModule(
            Requests(),
            ExecutableEnvironment(lambda state: {}),
            prompts=PromptConfig(system="", planner="Plan", executor="{subtask}"),
            planner_reward=Half(),
            schedule=PlannerOnly(),
            rollout=RolloutConfig(3, 2, planner=sampling, executor=sampling),
            tasks_per_round=4,
            refills_per_round=refills,
            sampler=sampler,
        )
        watch = Watch()
        trainer = Trainer(
            accelerator="cpu",
            max_steps=steps,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
            callbacks=[watch],
        )
        trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
        return module.policy.adapter_state(), watch.rows, trainer, data

    return fit


def test_a_run_trains_on_full_rounds_and_counts_epochs_as_before(run):
    _, plain, _, _ = run(6, 0)
    _, rows, _, data = run(6, 3)
    assert {count for count, *_ in rows} == {4}
    assert sum(varied for _, varied, *_ in rows) > sum(varied for _, varied, *_ in plain)
    assert sum(varied for _, varied, *_ in rows[:1]) == 4
    assert all(refills <= 3 for *_, refills, _ in rows)
    assert rows[0][3] == plain[0][3]  # the share of groups without a signal is that of the tasks as they were drawn
    assert (data.stream.epoch, data.stream.round) == (2, 0)
    assert [refills for *_, refills, _ in plain] == [None] * 6


@pytest.mark.parametrize("sampler", [Shuffled, RewardSampler])
def test_a_run_with_refills_resumes_exactly(run, tmp_path, sampler):
    whole, *_ = run(6, 2, sampler=sampler())
    *_, trainer, _ = run(2, 2, sampler=sampler())
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    resumed, *_ = run(6, 2, tmp_path / "two.ckpt", sampler=sampler())
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_negative_number_is_refused():
    with pytest.raises(ValueError, match="refills_per_round at least 0"):
        RolloutDataModule(Requests(), ExecutableEnvironment(lambda state: {}), refills_per_round=-1)
