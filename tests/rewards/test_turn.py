"""The rewards of Tool-N1, Tool Zero and ToolSample, as their recipes set them; and the gold under every recipe's reward."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import yaml

from cahl_pl import rewards
from cahl_pl.datasets import JsonlDataset, RllaDataset
from cahl_pl.datasets.convert import convert, read_source
from cahl_pl.parsing import format_answer, format_call, format_turn, parse_turn
from cahl_pl.rewards import ToolN1Reward, ToolRLReward, TurnReward
from cahl_pl.rewards.turn import COMPONENTS, agreement, is_same
from cahl_pl.rollout.gold import gold_turns, next_calls
from cahl_pl.toolworld.dataset import ToolWorld
from cahl_pl.types import GoldCall, ToolCall

RECIPES = Path(__file__).parents[2] / "configs" / "recipes"


def recipe(name):
    """The reward of a recipe's file."""
    given = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())["data"]["turn_reward"]
    return getattr(rewards, given["class_path"].rpartition(".")[2])(**given["init_args"])


def at_round(reward, index):
    reward.start_round(index)
    return reward


def score(reward, text, gold, task):
    return reward.total(reward.components(parse_turn(text), gold, task))


def weather(**arguments):
    return format_call(ToolCall("get_weather", arguments))


W, S = weather(city="Talomi", days=3), format_call(ToolCall("send_text", {"to": "Bero", "message": "hi"}))
BROKEN, ANSWER = "<tool_call>broken</tool_call>", "<answer>ok</answer>"

# name -> number of gold calls (of weather, text), output, components in the order of COMPONENTS
CASES = {
    "gold": (2, f"{W}\n{S}", (1, 1, 1, 1, 1, 1)),
    "swapped": (2, S + W, (1, 1, 1, 1, 1, 1)),  # parallel calls have no order
    "another type": (1, weather(city="Talomi", days="3"), (1, 1, 1, 1, 1, 1)),  # "3" is read as 3
    "wrong value": (1, weather(city="Bero", days=3), (1, 1, 1, 1, 1 / 2, 0)),  # 1 of 2 values
    # syn: 1 of 4 checks fails; parameters: 1 of 2; values: 1 of 2
    "missing": (1, weather(city="Talomi"), (1, 3 / 4, 1, 1 / 2, 1 / 2, 0)),
    # syn: undeclared; parameters: 2 of the 3 names of both; values: 2 of 3
    "surplus": (1, weather(city="Talomi", days=3, unit="C"), (1, 3 / 4, 1, 2 / 3, 2 / 3, 0)),
    "other tool": (1, format_call(ToolCall("get_news", {"city": "Talomi", "days": 3})), (1, 1, 0, 0, 0, 0)),
    "half": (2, W, (1, 1, 1, 1, 1, 1)),  # the other one comes next
    "half, wrong value": (2, weather(city="Bero", days=3), (1, 1, 1, 1, 1 / 2, 0)),
    "twice": (1, W + W, (1, 1, 1 / 2, 1 / 2, 1 / 2, 0)),  # 1 right of max(2, 1)
    # syn: (1 + 1/4) / 2; names, parameters: 1 of 2; values: (1/2 + 0) / 2
    "both wrong": (
        2,
        weather(city="Bero", days=3) + format_call(ToolCall("send_txt", {"to": "Bero", "message": "hi"})),
        (1, 5 / 8, 1 / 2, 1 / 2, 1 / 4, 0),
    ),
    "unreadable": (1, BROKEN, (1, 0, 0, 0, 0, 0)),
    "text around": (1, f"ok {W}", (0, 1, 1, 1, 1, 1)),
    "answer for a call": (1, ANSWER, (0, 0, 0, 0, 0, 0)),
    "answer": (0, ANSWER, (1, 1, 1, 1, 1, 1)),
    "text around the answer": (0, f"so {ANSWER}", (0, 1, 0, 0, 0, 0)),
    "call for an answer": (0, W, (0, 0, 0, 0, 0, 0)),
    "nothing": (1, "", (0, 0, 0, 0, 0, 0)),
}


@pytest.mark.parametrize(("count", "text", "expected"), CASES.values(), ids=CASES)
def test_components(count, text, expected, parallel):
    found = TurnReward().components(parse_turn(text), parallel.gold[:count], parallel)
    assert found == pytest.approx(dict(zip(COMPONENTS, expected, strict=True)))


# Tool Zero. Round 0: (form + syn + names + parameters + values) / 5; from 20 on: form/5 + exact 4/5; at 10 their mean.
@pytest.mark.parametrize(
    ("case", "first", "middle", "last"),
    [
        ("gold", 1, 1, 1),
        ("swapped", 1, 1, 1),
        ("wrong value", 0.9, 0.55, 0.2),  # (4 + 1/2)/5; (.9 + .2)/2; 1/5
        ("missing", 0.75, 0.475, 0.2),  # (1 + 3/4 + 1 + 1/2 + 1/2)/5 = 3.75/5; (.75 + .2)/2
        ("surplus", 49 / 60, 61 / 120, 0.2),  # (1 + 3/4 + 1 + 2/3 + 2/3)/5 = (49/12)/5; (49/60 + 12/60)/2
        ("other tool", 0.4, 0.3, 0.2),  # (1 + 1)/5; (.4 + .2)/2
        ("half", 1, 1, 1),
        ("half, wrong value", 0.9, 0.55, 0.2),
        ("twice", 0.7, 0.45, 0.2),  # (1 + 1 + 3/2)/5; (.7 + .2)/2
        ("both wrong", 0.575, 0.3875, 0.2),  # (1 + 5/8 + 1/2 + 1/2 + 1/4)/5 = 2.875/5; (.575 + .2)/2
        ("unreadable", 0.2, 0.2, 0.2),  # form alone: 1/5
        ("text around", 0.8, 0.8, 0.8),  # all but form: 4/5
        ("answer for a call", 0, 0, 0),
        ("answer", 1, 1, 1),
        ("text around the answer", 0.2, 0.1, 0),  # syn alone: 1/5; half of it; form/5 + exact 4/5 = 0
        ("call for an answer", 0, 0, 0),
    ],
)
def test_tool_zero(case, first, middle, last, parallel):
    count, text, _ = CASES[case]
    reward = recipe("tool_zero")
    assert score(reward, text, parallel.gold[:count], parallel) == pytest.approx(first)  # before any round
    for index, expected in ((0, first), (10, middle), (5, (first + middle) / 2), (20, last), (1000, last)):
        given = score(at_round(reward, index), text, parallel.gold[:count], parallel)
        assert given == pytest.approx(expected)


# ToolSample. Round 0: (form + syn + names)/3; 10: (form + syn + names + 2 parameters)/5; from 20 on:
# (form + syn + names + 2 parameters + 4 values)/9; 5 and 15: the means of the rounds before and after.
@pytest.mark.parametrize(
    ("case", "at_0", "at_5", "at_10", "at_15", "at_20"),
    [
        ("gold", 1, 1, 1, 1, 1),
        ("wrong value", 1, 1, 1, 8 / 9, 7 / 9),  # 3/3; (3 + 2)/5; (3 + 2 + 2)/9; (9/9 + 7/9)/2
        # (1 + 3/4 + 1)/3 = 33/36; (2.75 + 1)/5 = 27/36; (2.75 + 1 + 2)/9 = 23/36; 5: 30/36; 15: 25/36
        ("missing", 33 / 36, 30 / 36, 27 / 36, 25 / 36, 23 / 36),
        # 2.75/3 = 55/60; (2.75 + 4/3)/5 = 49/60; (2.75 + 4/3 + 8/3)/9 = 81/108; 5: 52/60; 15: (441 + 405)/1080
        ("surplus", 55 / 60, 52 / 60, 49 / 60, 846 / 1080, 81 / 108),
        ("other tool", 2 / 3, 8 / 15, 2 / 5, 14 / 45, 2 / 9),  # 2/3; 2/5; 2/9; (10 + 6)/30; (18 + 10)/90
        ("half", 1, 1, 1, 1, 1),
        # (1 + 1 + 1/2)/3 = 5/6; (2.5 + 1)/5 = 7/10; (2.5 + 1 + 2)/9 = 11/18; (25 + 21)/60; (63 + 55)/180
        ("twice", 5 / 6, 23 / 30, 7 / 10, 59 / 90, 11 / 18),
        # (1 + 5/8 + 1/2)/3 = 17/24; (2.125 + 1)/5 = 15/24; (2.125 + 1 + 1)/9 = 11/24; 5: 16/24; 15: 13/24
        ("both wrong", 17 / 24, 16 / 24, 15 / 24, 13 / 24, 11 / 24),
        ("unreadable", 1 / 3, 4 / 15, 1 / 5, 7 / 45, 1 / 9),  # form alone; (5 + 3)/30; (9 + 5)/90
        ("text around", 2 / 3, 11 / 15, 4 / 5, 38 / 45, 8 / 9),  # all but form; (10 + 12)/30; (36 + 40)/90
        ("answer for a call", 0, 0, 0, 0, 0),
        ("answer", 1, 1, 1, 1, 1),
        ("text around the answer", 1 / 3, 4 / 15, 1 / 5, 7 / 45, 1 / 9),  # syn alone
        ("call for an answer", 0, 0, 0, 0, 0),
    ],
)
def test_toolsample(case, at_0, at_5, at_10, at_15, at_20, parallel):
    count, text, _ = CASES[case]
    reward = recipe("toolsample")
    for index, expected in ((0, at_0), (5, at_5), (10, at_10), (15, at_15), (20, at_20), (500, at_20)):
        given = score(at_round(reward, index), text, parallel.gold[:count], parallel)
        assert given == pytest.approx(expected)


# Tool-N1: 1 only for the right form and exactly the gold calls.
@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("gold", 1),
        ("swapped", 1),
        ("another type", 1),
        ("wrong value", 0),
        ("missing", 0),
        ("surplus", 0),
        ("other tool", 0),
        ("half", 1),
        ("half, wrong value", 0),
        ("twice", 0),
        ("both wrong", 0),
        ("unreadable", 0),
        ("text around", 0),  # the calls are right, the form is not
        ("answer for a call", 0),
        ("answer", 1),
        ("text around the answer", 0),
        ("call for an answer", 0),
        ("nothing", 0),
    ],
)
def test_tool_n1(case, expected, parallel):
    count, text, _ = CASES[case]
    gold = parallel.gold[:count]
    assert score(recipe("tool_n1"), text, gold, parallel) == expected
    assert score(ToolN1Reward(), f"<think>hm</think>{text}", gold, parallel) == expected
    assert score(ToolN1Reward(), text, gold, parallel) == 0  # a thought must come first
    assert score(ToolN1Reward(), f"<think> </think>{text}", gold, parallel) == 0


def test_tool_n1_says_what_is_wrong(parallel):
    gold, reward = parallel.gold[:1], ToolN1Reward()
    assert reward.components(parse_turn(W), gold, parallel) == {"form": 0.0, "exact": 1.0}
    assert reward.components(parse_turn(f"<think>a</think>{W}{W}"), gold, parallel) == {"form": 1.0, "exact": 0.0}
    assert reward.components(parse_turn(f"<think>a</think>so {W}"), gold, parallel) == {"form": 0.0, "exact": 1.0}


# The weights.


def test_weights_change_linearly_between_the_rounds_given():
    reward = TurnReward({0: {"form": 3, "syn": 1}, 4: {"exact": 7}, 6: {"exact": 1, "form": 1}})
    expected = {
        0: (0.75, 0.25, 0),  # 3/4, 1/4
        1: (0.5625, 0.1875, 0.25),  # 3/4 of round 0, 1/4 of round 4
        4: (0, 0, 1),
        5: (0.25, 0, 0.75),  # halfway to (1/2, 0, 1/2)
        6: (0.5, 0, 0.5),
        99: (0.5, 0, 0.5),
    }
    for index, (form, syn, exact) in expected.items():
        weights = at_round(reward, index).weights
        assert weights == pytest.approx(dict.fromkeys(COMPONENTS, 0) | {"form": form, "syn": syn, "exact": exact})
    assert at_round(reward, 0).weights["form"] == 0.75  # a run that is begun again starts over


def test_without_weights_it_is_the_executors_reward(parallel):
    count, text, _ = CASES["missing"]
    # .1 + .2 * 3/4 + .7 (1 + 1/2 + 1/2)/3
    assert score(TurnReward(), text, parallel.gold[:count], parallel) == pytest.approx(0.25 + 0.7 * 2 / 3)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({1: {"form": 1}}, r"must begin with round 0, got the rounds \[1\]"),
        ({-1: {"form": 1}, 0: {"form": 1}}, r"must begin with round 0, got the rounds \[-1, 0\]"),
        ({0: {"forms": 1}}, "no component 'forms': use some of form, syn, names"),
        ({0: {"form": 1}, 5: {"form": 0}}, "not all 0, got form=0"),
        ({0: {"form": -1, "syn": 2}}, "at least 0"),
        ({0: {"form": float("nan")}}, "finite"),
        ({0: {}}, "not all 0"),
    ],
)
def test_bad_weights(weights, message):
    with pytest.raises(ValueError, match=message):
        TurnReward(weights)


def test_calls_are_matched_best_and_each_once(parallel):
    talomi, bero = ToolCall("get_weather", {"city": "Talomi", "days": 3}), ToolCall("get_weather", {"city": "Bero"})
    # (1, 1, 1) and (1, 1/2, 1) over max(3, 2) calls: bero's gold has `days` too, which is another value
    calls = [bero, talomi, talomi]
    gold = [talomi, ToolCall("get_weather", {"city": "Bero", "days": 1})]
    assert agreement(calls, gold, parallel) == pytest.approx((2 / 3, (1 + 1 / 2) / 3, (1 + 1 / 2) / 3))
    assert not is_same(calls, gold, parallel)
    assert is_same([talomi, bero], [bero, talomi], parallel)
    assert not is_same([talomi, talomi], [talomi, bero], parallel)
    assert not is_same([talomi], [talomi, talomi], parallel)


# The gold earns the maximum.


@cache
def every_reward():
    """Each recipe's reward, in the forms and at the rounds at which they differ, with the thought that it wants."""
    staged = {"tool_zero": (0, 10, 30), "toolsample": (0, 5, 15, 25), "tool_n1": (0,), "toolrl": (0,)}
    scales = (("max1", 0), ("two_stage", 29), ("two_stage", 30), ("smooth", 75))
    thinking = [(reward, "<think>hm</think>") for reward in (ToolN1Reward(), TurnReward(), ToolRLReward())]
    others = [at_round(recipe(name), index) for name, rounds in staged.items() for index in rounds]
    others += [at_round(ToolRLReward(scale, thinking=False), index) for scale, index in scales]
    others += [ToolRLReward(granularity=some, thinking=False) for some in ("refined", "intermediate", "coarse")]
    return [*thinking, *((reward, "") for reward in others)]


def check_gold(task):
    """Turn by turn, and the answer at the end."""
    turns = gold_turns(task)
    assert sum(map(len, turns)) == len(task.gold)
    for gold in [*turns, ()]:
        text = format_turn([one.call for one in gold]) if gold else format_answer(task.answer or "Done.")
        for reward, thought in every_reward():
            maximum = 1.0
            if isinstance(reward, ToolRLReward):  # an answer has its form alone
                maximum = reward.maximum if gold else reward.format_range[1]
            given = score(reward, thought + text, gold, task)
            assert given == pytest.approx(maximum), (task.id, reward, text)


def test_the_gold_earns_the_maximum(task, parallel, chat):
    for each in (task, parallel, chat, replace(parallel, ordered=True), replace(parallel, gold=parallel.gold * 2)):
        check_gold(each)


@pytest.mark.parametrize("split", ["train", "test", "test_unseen_tools"])
def test_the_gold_of_toolworld_earns_the_maximum(split):
    for each in ToolWorld(split, 200):
        check_gold(each)


def test_the_gold_of_real_rows_earns_the_maximum(data_dir):
    rows = RllaDataset(data_dir / "rlla" / "rlla_4k_test.parquet")
    for index in range(0, len(rows), max(1, len(rows) // 200)):
        check_gold(rows[index])


@pytest.mark.parametrize(("level", "count"), [(1, 391), (2, 61), (3, 131)])
def test_the_gold_of_api_bank_earns_the_maximum(data_dir, tmp_path, level, count):
    source = data_dir / "apibank" / f"level-{level}-api_processed.json"
    convert(read_source("api-bank", source), source.name, tmp_path / "tasks.jsonl")
    tasks = JsonlDataset(tmp_path / "tasks.jsonl", strict=True)
    assert len(tasks) == count
    for index in range(0, count, 2):
        check_gold(tasks[index])


# Degenerate policies, each against the honest one.


def words(task):
    return [word.strip(".,?!") for word in task.request.split()]


def everything(task):
    """Every tool with every value of the request, as far as the parser reads so many calls."""
    values = words(task)
    return [ToolCall(tool.name, dict.fromkeys(tool.parameters["properties"], v)) for tool in task.tools for v in values]


# Outputs where W is right.
DEGENERATE = {
    "every tool, every value": lambda task: format_turn(everything(task)[:64]),
    "every tool, every value and the right call": lambda task: format_turn([*everything(task)[:8]]) + W,
    "every tool with the right values": lambda task: "".join(
        format_call(ToolCall(tool.name, {"city": "Talomi", "days": 3})) for tool in task.tools
    ),
    "twice": lambda task: W * 2,
    "five times": lambda task: W * 5,
    "twice in one element": lambda task: W.replace("</tool_call>", "\n" + W[len("<tool_call>") :]),
    "wrong, then right": lambda task: weather(city="Bero", days=3) + W,
    "right, then wrong": lambda task: W + weather(city="Bero", days=3),
    "right among other values": lambda task: "".join(weather(city="Talomi", days=n) for n in range(10)),
    "nested tags": lambda task: f"<tool_call>{W}</tool_call>",
    "repeated tags": lambda task: f"<tool_call><tool_call>{W[len('<tool_call>') :]}",
    "call in an answer": lambda task: f"<answer>{W}</answer>",
    "call and answer": lambda task: W + ANSWER,
    "answer": lambda task: ANSWER,
    "nothing": lambda task: "",
    "only a thought that holds the call": lambda task: f"<think>{W}</think>",
    "a thought that holds the call, then an answer": lambda task: f"<think>{W}</think>{ANSWER}",
    "all words as arguments": lambda task: weather(**{w: w for w in words(task)} | {"city": "Talomi", "days": 3}),
    "no arguments": lambda task: weather(),
    "another tool, right values": lambda task: format_call(ToolCall("get_news", {"city": "Talomi", "days": 3})),
}


@pytest.mark.parametrize("make", DEGENERATE.values(), ids=DEGENERATE)
def test_degenerate_outputs_do_not_pay(make, parallel):
    gold = parallel.gold[:1]
    for reward, thought in every_reward():
        honest, given = (score(reward, thought + text, gold, parallel) for text in (W, make(parallel)))
        assert given < honest - 0.05, (reward, given, honest)


@pytest.mark.parametrize("text", [W, W + S, BROKEN, "", f"<think>{ANSWER}</think>", W + ANSWER, "<answer> </answer>"])
def test_anything_but_an_answer_does_not_pay_where_no_call_is_right(text, chat):
    for reward, thought in every_reward():
        assert score(reward, thought + text, (), chat) < score(reward, thought + ANSWER, (), chat) - 0.05


def test_quoting_the_call_in_a_thought_adds_nothing(parallel):
    wrong = weather(city="Bero", days=1)
    for reward, _ in every_reward():
        thoughts = (f"<think>it may be {words_}</think>" for words_ in (W, "so"))
        quoted, plain = (score(reward, thought + wrong, parallel.gold[:1], parallel) for thought in thoughts)
        assert quoted == plain


def test_more_repetitions_cost_more(parallel):
    for reward in (TurnReward(), recipe("tool_zero"), recipe("toolsample")):
        given = [score(reward, W * n, parallel.gold[:1], parallel) for n in (1, 2, 5, 50)]
        assert given == sorted(given, reverse=True)
        assert len(set(given)) == 4


def test_a_reference_that_was_not_resolved_is_a_wrong_value(task):
    gold = task.gold[1:]
    written = format_call(ToolCall("send_text", {"to": "Bero", "message": "$1"}))
    assert score(TurnReward(), written, gold, task) == pytest.approx(0.1 + 0.2 + 0.7 * (1 + 1 + 1 / 2) / 3)
    assert score(recipe("tool_n1"), written, gold, task) == 0


def test_calls_of_equal_gold_are_wanted_as_often(parallel):
    twice = [GoldCall("get_weather", {"city": "Talomi", "days": 3})] * 2
    assert score(recipe("tool_n1"), W * 2, twice, parallel) == 1
    assert score(recipe("tool_n1"), W, twice, parallel) == 1  # the other one comes next
    assert score(recipe("tool_n1"), W * 3, twice, parallel) == 0
    # (1 + 1 + 2/3 + 2/3 + 2/3)/5
    assert score(recipe("tool_zero"), W * 3, twice, parallel) == pytest.approx(0.8)


def test_calls_that_are_due_together_may_be_made_one_at_a_time(parallel):
    """Each turn earns what the gold earns, whichever comes first; leaving the rest out does not."""
    for reward, thought in every_reward():
        together = score(reward, thought + W + S, parallel.gold, parallel)
        for first, second in ((W, S), (S, W)):
            assert score(reward, thought + first, parallel.gold, parallel) == pytest.approx(together)
            left = next_calls(parallel, parse_turn(first).calls)
            assert score(reward, thought + second, left, parallel) == pytest.approx(together)
            assert score(reward, thought + ANSWER, left, parallel) < together - 0.3
            assert score(reward, thought + first, left, parallel) < together - 0.3
