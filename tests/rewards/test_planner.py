from __future__ import annotations

import time
from dataclasses import replace

import pytest

from cahl_pl.parsing import format_answer, format_call, format_plan
from cahl_pl.rewards import PlannerReward
from cahl_pl.rewards.planner import execution_reward, parameter_reward
from cahl_pl.types import GoldCall, Plan, SubTask, ToolCall

WEATHER = ToolCall("get_weather", {"city": "Talomi", "days": 3})
SEND = ToolCall("send_text", {"to": "Bero", "message": "rain"})


def plan_of(*values, tool="f"):
    return Plan((SubTask("do it", tool, {f"p{i}": value for i, value in enumerate(values)}),))


def gold_of(*values):
    return [GoldCall("f", {f"q{i}": value for i, value in enumerate(values)})]


@pytest.mark.parametrize(
    ("planned", "gold", "credit"),
    [
        ("Talomi", "Talomi", 1),
        ("talomi ", "Talomi", 1),
        ("3", 3, 1),
        (3, "3", 1),
        ("3.0", 3, 1),
        ("1.1", "1.10", 0),
        (7, "007", 0),
        (True, "true", 1),
        ("None", None, 0),
        (None, "null", 1),
        (1, True, 0),
        ({"a": 1, "b": [2]}, {"b": [2.0], "a": 1}, 1),
        ("10", "1", 0),
        (10, 1, 0),
        ("a1", 1, 0),
        ("1.5", 1, 0),
        (-3, 3, 0),
        ("$1", 1, 0),
        (1, "$1", 0),
        ("$12", "$1", 0),
        ("the result of $1", "$1", 1 / 4),
        ("in Talomi", "Talomi", 1 / 2),
        ("Talomi", "in Talomi", 0),
        ("from Bero to Talomi", "Bero Talomi", 0),
        ("call Bero Talomi", "bero talomi", 2 / 3),
        ("C", "C++", 0),
        ("", "x", 0),
        ("x", "", 0),
        ("", "", 1),
        ("<=", ">=", 0),
    ],
)
def test_credit_of_one_value(planned, gold, credit):
    assert parameter_reward(plan_of(planned), gold_of(gold)) == pytest.approx(credit)


def test_parameter_reward_counts_both_sides():
    assert parameter_reward(plan_of("a"), gold_of("a", "b")) == 1 / 2
    assert parameter_reward(plan_of("a", "b", "c", "d"), gold_of("a", "b")) == 2 / 4
    assert parameter_reward(plan_of("a", "a"), gold_of("a", "b")) == 1 / 2  # one planned value, one gold value
    assert parameter_reward(plan_of("a"), gold_of("a", "a")) == 1 / 2
    assert parameter_reward(plan_of("a b", "a"), gold_of("a", "a b")) == 1  # not greedily "a" in "a b"


def test_parameter_reward_ignores_subtasks_without_a_tool():
    assert parameter_reward(plan_of("a", tool=None), gold_of("a")) == 0


def test_parameter_reward_is_undefined_without_gold_arguments():
    assert parameter_reward(plan_of("a"), [GoldCall("f", {})]) is None
    assert parameter_reward(Plan(error="empty plan"), []) is None
    assert parameter_reward(Plan(error="empty plan"), gold_of("a")) == 0


def test_parameter_reward_expects_references():
    gold = [GoldCall("f", {"q": "rain"}, references={"q": "$1"})]
    assert parameter_reward(plan_of("$1"), gold) == 1
    assert parameter_reward(plan_of("rain"), gold) == 0


@pytest.mark.parametrize(
    "values",
    [
        ["Talomi", *range(20_000)],
        ["1." * 500_000],
        ["a " * 1_000] * 500,
        [["Talomi"] * 100_000],
    ],
    ids=["many", "dots", "long", "list"],
)
def test_parameter_reward_takes_linear_time_on_hostile_plans(values):
    start = time.process_time()
    reward = parameter_reward(plan_of(*values), gold_of(*["Talomi", "a", 1] * 5))
    assert time.process_time() - start < 20  # a quadratic scan would take minutes
    assert reward is not None
    assert reward < 0.01


def test_execution_reward_ordered(task, run, gold_plan):
    plan = gold_plan(task)
    weather, send = format_call(WEATHER), format_call(SEND)
    assert execution_reward(run(task, plan, weather, send)) == 1
    assert execution_reward(run(task, plan, send, weather)) == 0
    assert execution_reward(run(task, plan, weather)) == 1 / 2
    assert execution_reward(run(task, plan, send)) == 0
    assert execution_reward(run(task, plan, weather, send, send)) == pytest.approx(2 / 3)
    assert execution_reward(run(task, plan, "???", send)) == 1 / 2  # the attempt keeps its place
    assert execution_reward(run(task, plan, format_answer("hm"), weather, send)) == 1
    assert execution_reward(run(task, plan)) == 0


def test_execution_reward_unordered(parallel, run, gold_plan):
    plan = gold_plan(parallel)
    weather, send = (
        format_call(WEATHER),
        format_call(ToolCall("send_text", {"to": "Bero", "message": "rain"})),
    )
    # send_text: right names, one of two values: (1 + 1 + 1/2) / 3
    assert execution_reward(run(parallel, plan, send, weather)) == pytest.approx((1 + 5 / 6) / 2)
    assert execution_reward(run(parallel, plan, send, "???", weather)) == pytest.approx((1 + 5 / 6) / 3)


def test_execution_reward_coerces_values(task, run, gold_plan):
    call = ToolCall("get_weather", {"city": "Talomi", "days": "3"})
    assert execution_reward(run(task, gold_plan(task), format_call(call), format_call(SEND))) == 1


def test_execution_reward_of_an_unreadable_plan_is_zero(task, chat, run):
    assert execution_reward(run(task, "go", format_call(WEATHER), format_call(SEND))) == 0
    assert execution_reward(run(chat, "go", format_answer("ok"))) == 0


def test_execution_reward_where_no_call_is_needed(chat, run, gold_plan):
    plan, answer = gold_plan(chat), format_answer("You are welcome.")
    assert execution_reward(run(chat, plan, answer)) == 1
    assert execution_reward(run(chat, plan, answer, format_call(WEATHER))) == 0
    assert execution_reward(run(chat, plan, answer, "???")) == 0
    assert execution_reward(run(chat, plan, f"well, {answer}")) == 0
    assert execution_reward(run(chat, plan)) == 0


def test_components_are_averaged_over_the_executions(task, run, gold_plan, gold_run):
    half = run(task, gold_plan(task), format_call(WEATHER))
    components = PlannerReward().components(half.plan, [gold_run(task), half])
    assert components == {"param": 1.0, "exe": 0.75}
    assert PlannerReward().total(components) == pytest.approx(0.3 + 0.7 * 0.75)
    assert PlannerReward(w_param=1, w_exe=3).total(components) == pytest.approx(1 + 3 * 0.75)


def test_total_is_renormalised_where_a_component_is_undefined():
    assert PlannerReward().total({"param": None, "exe": 0.5}) == pytest.approx(0.5)
    assert PlannerReward(w_param=1, w_exe=3).total({"param": None, "exe": 0.5}) == pytest.approx(2.0)
    assert PlannerReward(w_param=1, w_exe=0).total({"param": None, "exe": 0.5}) == 0


@pytest.mark.parametrize("weights", [(-0.1, 1), (0, 0), (float("nan"), 1), (float("inf"), 1)])
def test_bad_weights(weights):
    with pytest.raises(ValueError, match=r"reward weights must be .* got param=.*, exe="):
        PlannerReward(*weights)


def test_no_trajectory():
    with pytest.raises(ValueError, match="at least one trajectory"):
        PlannerReward().components(Plan(), [])


# Degenerate planners, each against the honest one.


def reward(trajectory):
    planner_reward = PlannerReward()
    return planner_reward.total(planner_reward.components(trajectory.plan, [trajectory]))


def test_the_gold_trajectory_earns_one(task, parallel, chat, gold_run):
    for each in (task, parallel, chat):
        trajectory = gold_run(each)
        assert reward(trajectory) == 1.0
        assert parameter_reward(trajectory.plan, each.gold) in (1.0, None)
        assert execution_reward(trajectory) == 1.0


def test_listing_every_word_of_the_request_does_not_pay(task):
    words = task.request.split()
    assert parameter_reward(plan_of(*words), task.gold) == pytest.approx(3 / 15)
    assert parameter_reward(plan_of(*words, "$1", "$2"), task.gold) == pytest.approx(4 / 17)


def test_one_value_that_holds_the_request_does_not_pay(task):
    assert parameter_reward(plan_of(task.request), task.gold) == pytest.approx(1 / 15 / 4)
    # Once for each gold value: three of the four occur, each a fifteenth of the text.
    assert parameter_reward(plan_of(*[task.request] * 4), task.gold) == pytest.approx(3 / 15 / 4)


def test_repeating_subtasks_does_not_pay(task, run, gold_plan, gold_run):
    subtasks = gold_run(task).plan.subtasks
    outputs = [format_call(WEATHER), format_call(SEND)]
    honest = reward(gold_run(task))
    for repeated in (subtasks * 2, (subtasks[0], subtasks[0], subtasks[1])):
        calls = [outputs[0] if subtask.tool == "get_weather" else outputs[1] for subtask in repeated]
        assert reward(run(task, format_plan(repeated), *calls)) < 0.8 * honest
    # Executed calls alone repeated, too, and with the order meaning nothing.
    unordered = replace(task, ordered=False)
    assert execution_reward(run(unordered, gold_plan(task), *outputs, *outputs)) == 1 / 2


def test_plans_without_calls_where_calls_are_needed_do_not_pay(task, run):
    null_plan = format_plan([SubTask(task.request, None, {"city": "Talomi", "days": 3})])
    assert reward(run(task, null_plan, format_answer("rain"))) == 0
    assert reward(run(task, "<plan>\n</plan>")) == 0
    # Executing the gold calls anyway is the executor's merit, and pays less than planning them.
    assert reward(run(task, null_plan, format_call(WEATHER), format_call(SEND))) == pytest.approx(0.7)


def test_duplicated_or_quoted_plans_do_not_pay(task, run, gold_plan):
    plan, calls = gold_plan(task), (format_call(WEATHER), format_call(SEND))
    for text in (plan + plan, f"<plan>{plan}</plan>", f"<think>{plan}</think>", f"{plan} now"):
        assert reward(run(task, text, *calls)) == 0


def test_calls_for_a_request_that_needs_none_do_not_pay(chat, run):
    plan = format_plan([SubTask("look", "get_weather", WEATHER.arguments)])
    assert reward(run(chat, plan, *[format_call(WEATHER)] * 4)) == 0


def test_stuffed_plan_with_honest_execution_loses(task, run, gold_run):
    stuffed = format_plan([SubTask("do it", "get_weather", {w: w for w in task.request.split()})])
    assert reward(run(task, stuffed, format_call(WEATHER), format_call(SEND))) < reward(gold_run(task)) - 0.2
