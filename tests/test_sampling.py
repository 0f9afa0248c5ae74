"""Which tasks a round draws: the order of an epoch, weights by rewards, and the state of a checkpoint."""

from __future__ import annotations

import io
import math
import time
from collections import Counter

import pytest
import torch

from cahl_pl.errors import ConfigError
from cahl_pl.sampling import RewardSampler, Shuffled

MASTERED, IMPOSSIBLE, MIXED = 0, 1, 2


@pytest.fixture
def sampler():
    """Has seen a mastered task, an impossible one and one that half of the samples solve."""
    sampler = RewardSampler()
    sampler.update({MASTERED: [1.0] * 4, IMPOSSIBLE: [0.0] * 4, MIXED: [0.0, 1.0, 1.0, 0.0]})
    return sampler


def test_shuffled_is_one_pass_an_epoch():
    order = torch.randperm(10, generator=torch.Generator().manual_seed(3 * 100_003 + 2)).tolist()
    rounds = [Shuffled().draw(10, seed=3, epoch=2, round_index=i, tasks_per_round=4) for i in range(3)]
    assert rounds == [order[:4], order[4:8], order[8:]]
    assert sorted(Shuffled().draw(3, 0, 0, 0, tasks_per_round=4)) == [0, 1, 2]
    sampler = Shuffled()
    sampler.update({0: [1.0]})
    sampler.load_state_dict(sampler.state_dict())
    assert sampler.state_dict() == {}


def test_weights_by_hand(sampler):
    # (spread + 0.1) * (1 - level + 0.1); the fourth task has not been seen and weighs as much as the best
    expected = [0.1 * 0.1, 0.1 * 1.1, 1.1 * 0.6, 1.1 * 0.6]
    assert sampler.weights(4).tolist() == pytest.approx(expected)
    rare = RewardSampler(floor=0.5, explore=0.25)
    assert rare.weights(2).tolist() == [0.25, 0.25]
    rare.update({0: [0.0, 0.0, 0.0, 1.0]})  # mean 1/4, standard deviation sqrt(3)/4, of 1/2 at most
    weight = (math.sqrt(3) / 2 + 0.5) * (0.75 + 0.5)
    assert rare.weights(2).tolist() == pytest.approx([weight, 0.25 * weight])


def test_averages_move_by_decay():
    sampler = RewardSampler(decay=0.75)
    sampler.update({1: [0.0, 1.0]})
    sampler.update({1: [1.0, 1.0], 0: [1.0]})
    state = sampler.state_dict()
    assert state["seen"].tolist() == [True, True]
    assert state["mean"].tolist() == [1.0, 0.75 * 0.5 + 0.25]
    assert state["variance"].tolist() == [0.0, 0.75 * 0.25]  # of the samples; that the mean moved is no spread


def test_the_scale_of_rewards_does_not_matter(sampler):
    scaled = RewardSampler(minimum=-3, maximum=4)
    widened = RewardSampler()
    for toolrl in (scaled, widened):
        toolrl.update({MASTERED: [4.0] * 4, IMPOSSIBLE: [-3.0] * 4, MIXED: [-3.0, 4.0, 4.0, -3.0]})
        assert toolrl.weights(3).tolist() == pytest.approx(sampler.weights(3).tolist())
    assert widened.state_dict()["range"].tolist() == [-3.0, 4.0]


def test_spread_is_drawn_more_than_mastered_and_impossible(sampler):
    drawn = Counter(sampler.draw(3, seed=0, epoch=0, round_index=i, tasks_per_round=1)[0] for i in range(3000))
    # shares 0.01, 0.11 and 0.66 of 0.78; three standard deviations of the counts are 19, 57 and 60
    assert drawn[MASTERED] == pytest.approx(3000 * 0.01 / 0.78, abs=19)
    assert drawn[IMPOSSIBLE] == pytest.approx(3000 * 0.11 / 0.78, abs=57)
    assert drawn[MIXED] == pytest.approx(3000 * 0.66 / 0.78, abs=60)


def test_a_resumed_run_draws_the_same(sampler):
    file = io.BytesIO()
    torch.save(sampler.state_dict(), file)
    file.seek(0)
    resumed = RewardSampler()
    resumed.load_state_dict(torch.load(file, weights_only=True))
    positions = [(epoch, i) for epoch in range(3) for i in range(5)]

    def draws(one):
        return [one.draw(50, 7, epoch, i, 5) for epoch, i in positions]

    assert draws(resumed) == draws(sampler)
    assert draws(RewardSampler()) != draws(sampler)
    assert len({tuple(indices) for indices in draws(sampler)}) == len(positions)  # epoch and round both matter
    assert sampler.draw(50, 8, 0, 0, 5) != sampler.draw(50, 7, 0, 0, 5)


def test_a_state_is_of_its_moment(sampler):
    state = sampler.state_dict()
    resumed = RewardSampler()
    resumed.load_state_dict(state)
    before = sampler.weights(3).tolist()
    sampler.update({MIXED: [5.0, 5.0]})
    assert resumed.weights(3).tolist() == before
    resumed.update({MIXED: [5.0, 5.0]})
    assert state["mean"].tolist() == [1.0, 0.0, 0.5]


def test_the_state_of_another_sampler_is_refused():
    with pytest.raises(ConfigError, match="written with another sampler of tasks; resume with that one"):
        RewardSampler().load_state_dict(Shuffled().state_dict())


def test_all_tasks_are_tried():
    sampler, tried = RewardSampler(), Counter()
    for i in range(60):
        tasks = sampler.draw(100, 0, i // 10, i % 10, 10)
        assert len(set(tasks)) == 10
        tried.update(tasks)
        sampler.update({task: [0.0, float(task % 2)] for task in tasks})
    assert set(tried) == set(range(100))
    odd = sum(count for task, count in tried.items() if task % 2)
    assert odd > 0.6 * 600  # those with a spread come more often


@pytest.mark.parametrize(
    "rewards",
    [
        {},
        {i: [1.0, 1.0] for i in range(5)},  # all mastered
        {i: [0.5] for i in range(5)},
        {0: [math.nan, math.inf], 1: [], 2: [math.nan, 1.0]},
        {i: [1e300, -1e300] for i in range(5)},
        {0: [1e-320]},
    ],
)
def test_weights_are_always_usable(rewards):
    sampler = RewardSampler()
    sampler.update(rewards)
    weights = sampler.weights(5)
    assert weights.isfinite().all()
    assert (weights > 0).all()
    assert sorted(sampler.draw(5, 0, 0, 0, 5)) == list(range(5))


def test_nothing_finite_leaves_a_task_unseen():
    sampler = RewardSampler()
    sampler.update({0: [math.nan], 1: [math.nan, 1.0]})
    assert sampler.state_dict()["seen"].tolist() == [False, True]
    assert sampler.state_dict()["mean"].tolist() == [0.0, 1.0]


def test_fewer_tasks_than_a_round_takes(sampler):
    assert sorted(sampler.draw(3, 0, 0, 0, 16)) == [0, 1, 2]
    assert sampler.draw(1, 0, 0, 0, 16) == [0]
    assert RewardSampler().draw(1, seed=2**63, epoch=9, round_index=9, tasks_per_round=1) == [0]


def test_many_tasks_take_no_time():
    sampler = RewardSampler()
    start = time.process_time()
    for i in range(5):
        sampler.update({task: [0.0, 1.0] for task in sampler.draw(100_000, 0, 0, i, 512)})
    assert time.process_time() - start < 5  # 0.1 s or so; a loop over the tasks would take minutes


@pytest.mark.parametrize("wrong", [{"floor": 0}, {"decay": 1}, {"explore": 0}, {"minimum": 1}, {"floor": math.nan}])
def test_wrong_values_are_refused(wrong):
    with pytest.raises(ConfigError, match="RewardSampler needs floor and explore above 0, decay from 0 to below 1"):
        RewardSampler(**wrong)
