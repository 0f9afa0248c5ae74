"""ToolRL's reward: hand-computed cases of every scale and granularity, and what must not pay."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cahl_pl.parsing import format_call, parse_turn
from cahl_pl.rewards import ToolRLReward
from cahl_pl.types import GoldCall, ToolCall

RECIPE = Path(__file__).parents[2] / "configs" / "recipes" / "toolrl.yaml"


@pytest.fixture
def fine():
    """As the recipe sets it."""
    return ToolRLReward(**yaml.safe_load(RECIPE.read_text())["data"]["turn_reward"]["init_args"])


def weather(**arguments):
    return format_call(ToolCall("get_weather", arguments))


def components(reward, text, gold, task):
    found = reward.components(parse_turn(text), gold, task)
    assert reward.total(found) == found["form"] + found["correct"]
    return found["form"], found["correct"]


def score(reward, text, gold, task):
    return sum(components(reward, text, gold, task))


W, S = weather(city="Talomi", days=3), format_call(ToolCall("send_text", {"to": "Bero", "message": "hi"}))
NEWS = format_call(ToolCall("get_news", {"city": "Talomi", "days": 3}))
BROKEN, ANSWER = "<tool_call>broken</tool_call>", "<answer>ok</answer>"


# S_max is 1 + (1 + 2) = 4 for one gold call (weather) and 1 + 3 + 3 = 7 for two (weather, text).
# J is written as its value, then each gold call's J of the parameter names + number of equal values.
@pytest.mark.parametrize(
    ("count", "text", "form", "correct"),
    [
        (2, f"{W}\n{S}", 1, 3),  # S = 1 + 3 + 3 = 7
        (2, S + W, 1, 3),  # any order: the same
        (1, weather(days=3, city="Talomi"), 1, 3),  # nor do parameters have an order
        (1, weather(city="Bero", days=3), 1, 1.5),  # 1 + (1 + 1) = 3: 6 * 3/4 - 3
        (1, weather(city="Bero", days=1), 1, 0),  # 1 + (1 + 0) = 2: 6 * 2/4 - 3
        (1, weather(city="Talomi"), 1, 0.75),  # 1 + (1/2 + 1) = 5/2: 6 * 5/8 - 3
        (1, weather(), 1, -1.5),  # 1 + (0 + 0) = 1: 6/4 - 3
        (1, weather(city="Talomi", days=3, unit="C"), 1, 2.5),  # 1 + (2/3 + 2) = 11/3: 6 * 11/12 - 3
        (1, weather(city="Talomi", days="3"), 1, 1.5),  # no coercion, "3" is not 3: 1 + (1 + 1) = 3
        (1, weather(city="Talomi", days=3.0), 1, 3),  # but 3.0 is
        (1, NEWS, 1, -3),  # 0 + 0
        (1, W + NEWS, 1, 0),  # 1/2 + 3 * 1/2 = 2: 6 * 2/4 - 3
        (2, W, 1, 3),  # one at a time: the other comes next
        (2, weather(city="Bero", days=3), 1, 1.5),  # of weather alone: 1 + (1 + 1) = 3 of 4
        (2, W + NEWS, 1, -1 / 7),  # 1/3 + 3 + 0 = 10/3: 6 * 10/21 - 3
        (2, W + W, 1, -1 / 7),  # J({W, S}, {W, W}) = 1/3
        (2, weather(city="Bero", days=3) + S, 1, 15 / 7),  # 1 + 2 + 3 = 6: 36/7 - 3
        (1, W + W, 1, 0),  # 1/2 + 3 * 1/2 = 2
        (1, W * 5, 1, -1.8),  # 1/5 + 3 * 1/5 = 4/5: 6 * 1/5 - 3
        (1, f"ok {W}", 0, 3),
        (1, BROKEN, 0, -3),
        (1, W + BROKEN, 0, -3),
        (1, ANSWER, 0, -3),
        (1, "", 0, -3),
        (0, ANSWER, 1, 0),
        (0, f"so {ANSWER}", 0, 0),
        (0, W, 0, 0),  # where no call is right, correctness is 0 whatever was written
        (0, BROKEN, 0, 0),
    ],
)
def test_fine(count, text, form, correct, fine, parallel):
    assert components(fine, text, parallel.gold[:count], parallel) == pytest.approx((form, correct))
    assert score(fine, text, parallel.gold[:count], parallel) == pytest.approx(form + correct)


def test_gold_calls_choose_in_order_the_first_of_their_best(fine, parallel):
    gold = [GoldCall("get_weather", {"city": "Talomi", "days": days}) for days in (3, 1)]
    # Days 3: both calls are worth 1 + 1, it takes the first; days 1: 1 + 1 is left of the second, though the first was
    # its own. S = 1 + 2 + 2 = 5 of 7; the best match would have 1 + 2 + 3.
    greedy = weather(city="Talomi", days=1) + weather(city="Talomi", days=9)
    assert components(fine, greedy, gold, parallel) == pytest.approx((1, 6 * 5 / 7 - 3))
    # The other way round, the first of equals leaves the second gold call its own: S = 1 + 2 + 3 = 6.
    lucky = weather(city="Talomi", days=9) + weather(city="Talomi", days=1)
    assert components(fine, lucky, gold, parallel) == pytest.approx((1, 6 * 6 / 7 - 3))


def test_a_call_is_used_once(fine, parallel):
    gold = [GoldCall("get_weather", {"city": "Talomi", "days": 3})] * 2
    assert components(fine, W, gold, parallel) == (1, 3)  # the other one comes next
    assert components(fine, W + NEWS, gold, parallel) == pytest.approx((1, 6 * (1 / 3 + 3) / 7 - 3))
    assert components(fine, W * 2, gold, parallel) == (1, 3)


def test_a_call_that_is_worth_nothing_stays_unused(fine, parallel):
    # J of the names is 1; no parameter agrees: 0. S = 1 + 0 of 1 + 1 + 1.
    gold = [GoldCall("get_weather", {"city": "Talomi"})]
    assert components(fine, weather(days=3), gold, parallel) == pytest.approx((1, 6 * 1 / 3 - 3))


def test_calls_without_parameters(fine, parallel):
    gold = [GoldCall("get_news", {})]  # S_max = 1 + 1
    assert components(fine, format_call(ToolCall("get_news", {})), gold, parallel) == (1, 3)
    assert components(fine, NEWS, gold, parallel) == pytest.approx((1, 0))  # 1 + (0 + 0) = 1 of 2


@pytest.mark.parametrize(
    ("granularity", "count", "text", "correct"),
    [
        ("refined", 2, W + S, 3),
        ("refined", 2, S + W, 15 / 7),  # the lists of names differ: 0 + 3 + 3 = 6 of 7
        ("refined", 1, weather(city="Talomi"), 0),  # 1 + (0 + 1) = 2 of 4
        ("refined", 1, weather(city="Bero", days=3), 1.5),  # 1 + (1 + 1) = 3 of 4
        ("refined", 1, weather(days=3, city="Bero"), 0),  # another order: 1 + (0 + 1) = 2 of 4
        ("refined", 1, W + W, -0.75),  # 0 + 3 * 1/2 = 3/2 of 4
        ("intermediate", 2, S + W, 3),  # S_max = 1 + 1 + 1
        ("intermediate", 1, weather(city="Bero", days=3), 0),  # 1 + 0 of 2
        ("intermediate", 2, W, 3),  # one at a time
        ("intermediate", 1, W + W, 0),  # 1/2 + 1 * 1/2 = 1 of 2
        ("intermediate", 2, weather(city="Bero", days=3) + S, 1),  # 1 + 0 + 1 = 2 of 3
        ("intermediate", 1, NEWS, -3),
        ("coarse", 2, W + S, 3),
        ("coarse", 2, S + W, -3),  # exactly the gold calls, in their order
        ("coarse", 1, weather(city="Talomi", days="3"), -3),
        ("coarse", 1, W + W, -3),
        ("coarse", 0, W, 0),
    ],
)
def test_granularities(granularity, count, text, correct, parallel):
    reward = ToolRLReward(granularity=granularity, thinking=False)
    assert components(reward, text, parallel.gold[:count], parallel)[1] == pytest.approx(correct)


# Of one gold call, at each scale: all right; S/S_max = 3/4 (one wrong value) with the right form; unreadable.
@pytest.mark.parametrize(
    ("scale", "index", "right", "partial", "unreadable"),
    [
        ("max3", 0, 4, 1 + 1.5, -3),  # 6 * 3/4 - 3
        ("max3", 1000, 4, 1 + 1.5, -3),
        ("max1", 0, 2, 1 + 0.5, -1),  # 2 * 3/4 - 1
        ("max1", 1000, 2, 1 + 0.5, -1),
        ("two_stage", 0, 2, 1 + 0.5, -1),
        ("two_stage", 29, 2, 1 + 0.5, -1),
        ("two_stage", 30, 3.5, 0.5 + 1.5, -3),
        ("smooth", 0, 4, 2 + 1, -4),  # form +-2; 4 * 3/4 - 2
        ("smooth", 75, 4, 1.5 + 1.25, -4),  # form +-1.5; 5 * 3/4 - 2.5
        ("smooth", 150, 4, 1 + 1.5, -4),  # form +-1; 6 * 3/4 - 3
        ("smooth", 300, 4, 1 + 1.5, -4),
    ],
)
def test_scales(scale, index, right, partial, unreadable, parallel):
    reward, gold = ToolRLReward(scale, thinking=False), parallel.gold[:1]
    reward.start_round(index)
    given = [score(reward, text, gold, parallel) for text in (W, weather(city="Bero", days=3), BROKEN)]
    assert given == pytest.approx([right, partial, unreadable])
    assert reward.maximum == right
    assert score(reward, ANSWER, (), parallel) == reward.format_range[1]
    assert score(reward, W, (), parallel) == reward.format_range[0]


def test_a_new_reward_stands_at_round_0(parallel):
    reward = ToolRLReward("two_stage", thinking=False)
    assert score(reward, W, parallel.gold[:1], parallel) == 2
    reward.start_round(30)
    reward.start_round(0)  # a run that is begun again starts over
    assert score(reward, W, parallel.gold[:1], parallel) == 2


def test_thoughts(fine, parallel):
    gold = parallel.gold[:1]
    for before, expected in (("", 3), ("<think></think>", 3), ("<think>hm</think>", 4), ("so <think>hm</think>", 3)):
        assert score(ToolRLReward(), before + W, gold, parallel) == expected
        assert score(ToolRLReward(), before + ANSWER, (), parallel) == expected - 3
    assert score(fine, f"<think>hm</think>{W}", gold, parallel) == 4  # not needed, not forbidden


# What must not pay.


def test_the_same_call_many_times_does_not_pay(fine, parallel):
    given = [score(fine, W * n, parallel.gold[:1], parallel) for n in (1, 2, 5, 64)]
    # J and the share of right calls fall: 6 (1/n + 3/n)/4 - 2
    assert given == pytest.approx([4, 1, -0.8, 6 / 64 - 2])
    lacks = score(fine, weather(city="Talomi"), parallel.gold[:1], parallel)
    assert lacks == 1.75
    assert max(given[1:]) < lacks


def test_in_toolrls_own_formula_surplus_calls_are_nearly_free(parallel):
    own = ToolRLReward(thinking=False, surplus_costs=False)
    given = [score(own, W * n, parallel.gold[:1], parallel) for n in (1, 2, 64)]
    assert given == pytest.approx([4, 3.25, 6 * (1 / 64 + 3) / 4 - 2])  # J alone falls: 6 (1/n + 3)/4 - 2


def test_listing_all_tools_does_not_pay(fine, parallel):
    listed = "".join(format_call(ToolCall(tool.name, {"city": "Talomi", "days": 3})) for tool in parallel.tools)
    assert score(fine, listed, parallel.gold[:1], parallel) == pytest.approx(6 * (1 / 3 + 1) / 4 - 2)  # 0, not 4
    without = "".join(format_call(ToolCall(tool.name, {})) for tool in parallel.tools)
    assert score(fine, without, parallel.gold[:1], parallel) < 0


def test_trying_values_does_not_pay(fine, parallel):
    one = score(fine, weather(city="Talomi", days=1), parallel.gold[:1], parallel)  # 2.5
    tried = "".join(weather(city="Talomi", days=days) for days in range(1, 31))
    every = score(fine, tried, parallel.gold[:1], parallel)
    assert (one, every) == pytest.approx((2.5, 6 * (1 / 30 + 3 / 30) / 4 - 2))
    assert every < one - 1


def test_all_words_as_arguments_do_not_pay(fine, parallel):
    stuffed = weather(city="Talomi", days=3, **{f"w{i}": "Talomi" for i in range(10)})
    assert score(fine, stuffed, parallel.gold[:1], parallel) == pytest.approx(6 * (1 + 2 / 12 + 2) / 4 - 2)  # J 2/12


@pytest.mark.parametrize(
    "text",
    [
        f"<tool_call>{W}</tool_call>",
        f"<answer>{W}</answer>",
        W + ANSWER,
        f"<think>{W}</think>",
        f"<think>{W}</think>{ANSWER}",
        f"<think>{W}</think>{BROKEN}",
    ],
)
def test_quoted_and_nested_calls_are_worth_nothing(text, fine, parallel):
    assert score(fine, text, parallel.gold[:1], parallel) == -3
