"""What a plan is paid, with executors whose true worth is known: no model involved."""

from __future__ import annotations

import itertools
import random
from functools import cache

import pytest

from cahl_pl.parsing import format_answer, format_call, parse_action
from cahl_pl.rewards import PlannerReward
from cahl_pl.rewards.base import BasePlannerReward
from cahl_pl.rewards.planner import execution_reward
from cahl_pl.rollout.credit import sampled_mean_credit, unbiased_credit
from cahl_pl.types import GoldCall, Message, Plan, Step, SubTask, Task, ToolCall, ToolSpec, Trajectory

A, B, NOTHING = "a", "b", "c"  # the tools of two gold calls, and one that is not wanted
TOOLS = tuple(ToolSpec(name, "", {"type": "object", "properties": {}}) for name in "abc")
TASK = Task("t", (Message("user", "a and b"),), TOOLS, (GoldCall("a", {}), GoldCall("b", {})))
PLAN = Plan((SubTask("one", "a"), SubTask("the other", "b")))
WIDTH = 4

# What an executor writes at step 1, each equally likely, and at step 2 after that; R_h,exe is the share of A and B made.
EXECUTORS = {
    "repeats its first call": ((A, B), lambda first: (first,), 0.50),
    "makes the other call": ((A, B), lambda first: (B if first == A else A,), 1.00),
    "is right or wrong by chance": ((A, NOTHING), lambda first: (B, NOTHING), 0.50),
    "gives up after a wrong call": ((A, NOTHING), lambda first: (B if first == A else NOTHING,), 0.50),
}


def step(k, call):
    text = format_call(ToolCall(call, {}))
    return Step(PLAN.subtasks[k], text, parse_action(text))


@cache
def credited(estimate, first, chosen, second, then):
    """What the plan is paid where these calls were sampled of its two steps and those with these numbers carried out."""
    episode = Trajectory(TASK, "", PLAN, (step(0, first[chosen]), step(1, second[then])))
    samples = [[step(0, call) for call in first], [step(1, call) for call in second]]
    return estimate(PlannerReward(), episode, samples)["exe"]


def draw(estimate, name, rng):
    calls, after, _ = EXECUTORS[name]
    first, chosen = tuple(rng.choices(calls, k=WIDTH)), rng.randrange(WIDTH)
    second = tuple(rng.choices(after(first[chosen]), k=WIDTH))
    return credited(estimate, first, chosen, second, rng.randrange(WIDTH))


@pytest.mark.parametrize("name", EXECUTORS)
def test_the_mean_is_what_the_executor_is_worth(name):
    """Of 20,000 draws; a single one has a standard deviation of 0.4 at most, their mean one of 0.003."""
    rng = random.Random(0)
    mean = sum(draw(unbiased_credit, name, rng) for _ in range(20_000)) / 20_000
    assert mean == pytest.approx(EXECUTORS[name][2], abs=0.01)


# Of four samples one was carried out; for "repeats its first call" each of the others differs from it with probability 1/2 and
# is then joined with the other call: 1/4 * 1/2 + 3/4 * (1/2 * 1 + 1/2 * 1/2) = 0.6875. For "makes the other call" it is
# 1/4 * 1 + 3/4 * (1/2 * 1 + 1/2 * 1/2) = 0.8125. A sum over steps is the same whatever is joined.
@pytest.mark.parametrize(
    ("name", "expected"),
    [("repeats its first call", 0.6875), ("makes the other call", 0.8125), ("is right or wrong by chance", 0.5)],
)
def test_the_mean_of_joined_samples_is_another(name, expected):
    rng = random.Random(0)
    mean = sum(draw(sampled_mean_credit, name, rng) for _ in range(20_000)) / 20_000
    assert mean == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("name", EXECUTORS)
def test_the_mean_over_all_that_may_happen_is_exact(name):
    calls, after, worth = EXECUTORS[name]
    values = []
    for first in itertools.product(calls, repeat=2):  # two samples a step are enough, each case as likely as any other
        for chosen in range(2):
            seconds = after(first[chosen]) * (2 // len(after(first[chosen])))
            for second in itertools.product(seconds, repeat=2):
                values += [credited(unbiased_credit, first, chosen, second, then) for then in range(2)]
    assert sum(values) / len(values) == pytest.approx(worth)


def test_it_scatters_less_than_the_episode_alone():
    """By chance: R_h,exe of an episode is 0, 1/2 or 1, variance 2 * 1/4 * 1/4 = 1/8; of the mean of four samples 1/32."""
    rng = random.Random(0)
    values = [draw(unbiased_credit, "is right or wrong by chance", rng) for _ in range(20_000)]
    mean = sum(values) / len(values)
    assert sum((value - mean) ** 2 for value in values) / len(values) == pytest.approx(1 / 32, rel=0.1)


def test_one_draw_by_hand():
    """Step 1: A was carried out of (A, A, NOTHING, B); step 2: NOTHING of (B, B, NOTHING, A), where A is a repetition."""
    # R(y_1, y_2) = R(A, NOTHING) = 1/2
    # step 1: mean of (1/2, 1/2, 0, 1/2) - R(A) = 3/8 - 1/2 = -1/8
    # step 2: mean of R(A, .) = (1, 1, 1/2, 1/2) - R(A, NOTHING) = 3/4 - 1/2 = 1/4
    given = credited(unbiased_credit, (A, A, NOTHING, B), 1, (B, B, NOTHING, A), 2)
    assert given == pytest.approx(1 / 2 - 1 / 8 + 1 / 4)


def test_gold_everywhere_earns_one_and_without_steps_nothing_is_corrected():
    assert credited(unbiased_credit, (A,) * 4, 0, (B,) * 4, 3) == 1
    empty = Trajectory(TASK, "no plan", Plan(error="no plan"))
    assert unbiased_credit(PlannerReward(), empty, []) == PlannerReward().components(empty.plan, [empty])
    assert sampled_mean_credit(PlannerReward(), empty, []) == PlannerReward().components(empty.plan, [empty])


def test_what_does_not_depend_on_the_execution_stays():
    task = Task("t", TASK.messages, TOOLS, (GoldCall("a", {"x": 1}), GoldCall("b", {})))
    plan = Plan((SubTask("one", "a", {"x": 1}), SubTask("the other", "b", {"y": 2})))
    texts = format_call(ToolCall(A, {})), format_answer("hm")
    steps = [[Step(subtask, text, parse_action(text)) for text in texts] for subtask in plan.subtasks]
    episode = Trajectory(task, "", plan, tuple(outputs[0] for outputs in steps))
    assert unbiased_credit(PlannerReward(), episode, steps)["param"] == 1 / 2  # 1 of max(1, 2) values
    assert execution_reward(episode) > 0

    class Undefined(BasePlannerReward):
        def components(self, plan, trajectories):
            return {"never": None}

        def total(self, components):
            return 0.0

    assert unbiased_credit(Undefined(), episode, steps) == {"never": None}
