from __future__ import annotations

import itertools
import math
import time
from dataclasses import replace

import pytest

from cahl_pl.parsing import format_answer, format_call, format_plan
from cahl_pl.rewards import PlannerReward
from cahl_pl.rewards.planner import execution_reward, holds, parameter_reward
from cahl_pl.types import GoldCall, Message, Plan, SubTask, Task, ToolCall

WEATHER = ToolCall("get_weather", {"city": "Talomi", "days": 3})
SEND = ToolCall("send_text", {"to": "Bero", "message": "rain"})


def plan_of(*values, tool="f"):
    return Plan((SubTask("do it", tool, {f"p{i}": value for i, value in enumerate(values)}),))


def gold_of(*values):
    gold = GoldCall("f", {f"q{i}": value for i, value in enumerate(values)})
    return Task("t", (Message("user", "?"),), (), (gold,))


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
        ("北京", "北京", 1),
        ("北京市", "北京", 2 / 3),  # a character is a word of a script without spaces
        ("東京タワー", "東京", 2 / 5),
        ("北京", "上海", 0),
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
    assert parameter_reward(plan_of(), gold_of()) is None
    assert parameter_reward(Plan(error="empty plan"), gold_of("a")) == 0
    assert parameter_reward(plan_of("a"), gold_of()) == 0  # none of the planned values was wanted


def test_parameter_reward_where_no_call_is_needed(chat):
    words, order = SubTask("tell", None), SubTask("look", "get_weather")
    assert parameter_reward(Plan((words,)), chat) == 1
    assert parameter_reward(Plan((words, words)), chat) == 1 / 2
    assert parameter_reward(Plan((order,)), chat) == 0  # with parameters or without
    assert parameter_reward(plan_of("a"), chat) == 0
    assert parameter_reward(Plan((words, order)), chat) == 0
    assert parameter_reward(Plan(error="empty plan"), chat) == 0


def test_a_value_counts_for_the_tool_that_it_is_planned_for():
    assert parameter_reward(plan_of("a", tool="g"), gold_of("a")) == 0
    both = Plan((*plan_of("a", tool="g").subtasks, *plan_of("b").subtasks))
    assert parameter_reward(both, gold_of("a", "b")) == 1 / 2


def test_parameter_reward_expects_references(task):
    weather = task.gold[0]
    look_up = SubTask("look", "get_weather", weather.arguments)
    answer = SubTask("think", None)

    def planned(message, *before):
        return parameter_reward(Plan((*before, SubTask("send", "send_text", {"to": "Bero", "message": message}))), task)

    assert planned("$1", look_up) == 1
    assert planned("rain", look_up) == 3 / 4  # 3 of 4 values: the planner cannot know the weather
    # the number is that of the plan's sub-task, not of the gold call
    assert planned("$2", answer, look_up) == 1
    assert planned("$1", answer, look_up) == 3 / 4
    assert planned("it is $2", answer, look_up) == (3 + 1 / 3) / 4  # one of three tokens
    # a sub-task that comes later, or none, has no result
    assert planned("$2", look_up) == planned("$9", look_up) == planned("$0", look_up) == 3 / 4
    assert planned("$" + "9" * 5000, look_up) == 3 / 4
    # without its look-up "$1" is text: 1 of 4 values
    assert planned("$1") == 1 / 4
    late = Plan((SubTask("send", "send_text", {"to": "Bero", "message": "$2"}), look_up))
    assert parameter_reward(late, task) == 3 / 4


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


def subtasks_of(*tools):
    return format_plan([SubTask("do it", tool) for tool in tools])


def test_execution_reward_with_references(task, run, gold_plan):
    plan = gold_plan(task)
    weather, send = format_call(WEATHER), format_call(SEND)
    assert execution_reward(run(task, plan, weather, send)) == 1
    assert (
        execution_reward(run(task, plan, send, weather)) == 1 / 2
    )  # what uses a result comes after it: one of the two
    assert execution_reward(run(task, plan, weather)) == 1 / 2
    assert execution_reward(run(task, plan, send)) == 1 / 2
    assert execution_reward(run(task, plan, weather, send, send)) == pytest.approx(2 / 3)
    assert execution_reward(run(task, plan, "???", send)) == 1 / 2
    thought_first = subtasks_of(None, "get_weather", "send_text")
    assert execution_reward(run(task, thought_first, format_answer("hm"), weather, send)) == 1
    assert execution_reward(run(task, plan)) == 0


def test_execution_reward_of_ordered_calls_without_references(parallel, run, gold_plan):
    """Nobody knows which of them needs which: they keep their order, whatever stands between them."""
    ordered = replace(parallel, ordered=True)
    weather, send = (format_call(gold.call) for gold in ordered.gold)
    plan = subtasks_of("get_weather", "get_weather", "send_text")
    assert execution_reward(run(ordered, gold_plan(ordered), weather, send)) == 1
    assert execution_reward(run(ordered, gold_plan(ordered), send, weather)) == 1 / 2
    assert execution_reward(run(ordered, plan, weather, weather, send)) == pytest.approx(2 / 3)


def test_any_order_that_references_allow_is_right(task, run):
    """Two look-ups and what each leads to, in other orders than the gold calls stand in."""
    gold = (
        task.gold[0],
        task.gold[1],
        GoldCall("get_weather", {"city": "Oslo", "days": 1}, result="sun"),
        GoldCall("send_text", {"to": "Ann", "message": "sun"}, references={"message": "$3"}),
    )
    four = replace(task, gold=gold)
    calls = [format_call(one.call) for one in gold]
    for order, expected in (((0, 1, 2, 3), 1), ((2, 0, 3, 1), 1), ((0, 2, 1, 3), 1), ((1, 0, 2, 3), 3 / 4)):
        names = [gold[i].name for i in order]
        assert execution_reward(run(four, subtasks_of(*names), *(calls[i] for i in order))) == expected, order


def test_execution_reward_unordered(parallel, run, gold_plan):
    weather, send = (
        format_call(WEATHER),
        format_call(ToolCall("send_text", {"to": "Bero", "message": "rain"})),
    )
    # send_text: right names, one of two values: (1 + 1 + 1/2) / 3
    assert execution_reward(run(parallel, gold_plan(parallel), send, weather)) == pytest.approx((1 + 5 / 6) / 2)
    three = subtasks_of("send_text", "send_text", "get_weather")
    assert execution_reward(run(parallel, three, send, "???", weather)) == pytest.approx((1 + 5 / 6) / 3)


def test_execution_reward_counts_what_the_plan_asks_for(parallel, run, gold_plan):
    """max(N, executed, asked for), N = 2; surplus sub-tasks cost the same whatever becomes of them."""
    weather, send = (format_call(gold.call) for gold in parallel.gold)
    answer = format_answer("hm")
    doubled = subtasks_of(*["get_weather"] * 2, *["send_text"] * 2)
    for outputs in ((weather, answer, send, answer), (weather, weather, send, send)):
        assert execution_reward(run(parallel, doubled, *outputs)) == 2 / 4
    assert execution_reward(run(parallel, doubled, weather, answer)) == 1 / 4  # the rest beyond max_steps
    for texts, expected in ((1, 1), (2, 2 / 3), (4, 2 / 5)):  # one in text is free
        plan = subtasks_of("get_weather", "send_text", *[None] * texts)
        assert execution_reward(run(parallel, plan, weather, send, *[answer] * texts)) == pytest.approx(expected)
    assert execution_reward(run(parallel, subtasks_of("get_weather", None), weather, send)) == 1 / 2  # not asked for


def test_blanks_that_the_tool_sees_count(task, run, gold_plan):
    blank = format_call(ToolCall("send_text", {"to": "Bero ", "message": "rain"}))
    # one of two values differs: (1 + 5/6) / 2
    assert execution_reward(run(task, gold_plan(task), format_call(WEATHER), blank)) == pytest.approx((1 + 5 / 6) / 2)


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
    five = subtasks_of(*[None] * 5)
    assert execution_reward(run(chat, five, *[answer] * 5)) == 1 / 5
    assert execution_reward(run(chat, subtasks_of("get_weather"), answer)) == 0  # the plan asked for a call
    assert execution_reward(run(chat, subtasks_of(None, "get_weather"), answer)) == 0


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
        assert parameter_reward(trajectory.plan, each) in (1.0, None)
        assert execution_reward(trajectory) == 1.0


def test_listing_every_word_of_the_request_does_not_pay(task):
    words = task.request.split()
    # under one tool: "Talomi" and "3" of its values, of 15 words
    assert parameter_reward(plan_of(*words, tool="get_weather"), task) == pytest.approx(2 / 15)
    assert parameter_reward(plan_of(*words, tool="send_text"), task) == pytest.approx(1 / 15)  # "Bero"
    both = Plan((*plan_of(*words, tool="get_weather").subtasks, *plan_of(*words, "$1", tool="send_text").subtasks))
    assert parameter_reward(both, task) == pytest.approx(4 / 31)
    assert parameter_reward(plan_of(*words, tool="get_news"), task) == 0


def test_one_value_that_holds_the_request_does_not_pay(task):
    assert parameter_reward(plan_of(task.request, tool="get_weather"), task) == pytest.approx(1 / 15 / 4)
    # Twice for each tool: three of the four occur, each a fifteenth of the text.
    twice = [*plan_of(*[task.request] * 2, tool="get_weather").subtasks]
    twice += plan_of(*[task.request] * 2, tool="send_text").subtasks
    assert parameter_reward(Plan(tuple(twice)), task) == pytest.approx(3 / 15 / 4)


def test_repeating_subtasks_does_not_pay(task, run, gold_plan, gold_run):
    subtasks = gold_run(task).plan.subtasks
    outputs = [format_call(WEATHER), format_call(SEND)]
    honest = reward(gold_run(task))
    for repeated in (subtasks * 2, (subtasks[0], subtasks[0], subtasks[1])):
        calls = [outputs[0] if subtask.tool == "get_weather" else outputs[1] for subtask in repeated]
        assert reward(run(task, format_plan(repeated), *calls)) < 0.8 * honest
    # Executed calls alone repeated, too, and with the order meaning nothing: each counts, though the plan asked for none.
    unordered = replace(task, ordered=False)
    assert execution_reward(run(unordered, gold_plan(task), *outputs, *outputs)) == 1 / 2


def test_plans_without_calls_where_calls_are_needed_do_not_pay(task, run):
    null_plan = format_plan([SubTask(task.request, None, {"city": "Talomi", "days": 3})])
    assert reward(run(task, null_plan, format_answer("rain"))) == 0
    assert reward(run(task, "<plan>\n</plan>")) == 0
    # Executing the gold calls anyway is no merit of a plan that asked for none.
    two = format_plan([SubTask(task.request, None)] * 2)
    assert reward(run(task, two, format_call(WEATHER), format_call(SEND))) == 0


def test_surplus_subtasks_do_not_pay(task, parallel, run, gold_run):
    """Answered, executed or beyond the limit of steps, with a tool or without."""
    for each in (task, parallel):
        honest = gold_run(each)
        outputs = [step.text for step in honest.steps]
        for junk in (SubTask("again", "get_weather"), SubTask("hm", None), SubTask("hm", "no_such_tool", {"a": 1})):
            plan = format_plan([*honest.plan.subtasks, *[junk] * 4])
            for more in ([], [format_answer("ok")] * 4, [outputs[0]] * 4):
                assert reward(run(each, plan, *outputs, *more)) < 0.75 * reward(honest)
    honest, outputs = gold_run(task), [format_call(WEATHER), format_call(SEND)]
    padded = format_plan([*honest.plan.subtasks, *[SubTask("hm", None)] * 4])
    answers = [format_answer("ok")] * 4
    assert reward(run(task, padded, *outputs, *answers)) == pytest.approx(0.3 + 0.7 * 2 / 5)
    first, second = honest.plan.subtasks
    doubled = format_plan([first, first, second, second])
    for texts in ([outputs[0]] * 2 + [outputs[1]] * 2, [outputs[0], answers[0], outputs[1], answers[0]]):
        assert reward(run(task, doubled, *texts)) == pytest.approx(0.5)  # 4 of 8 values, 2 of 4 sub-tasks


def test_what_is_known_to_be_paid(task, chat, run, gold_run):
    honest = gold_run(task)
    assert reward(run(chat, subtasks_of(None), format_answer("qwerty"))) == 1  # nobody can tell it from a good answer
    one_more = format_plan([*honest.plan.subtasks, SubTask("tell", None)])
    assert reward(run(task, one_more, *(step.text for step in honest.steps), format_answer("Done."))) == 1
    # the very value that the look-up would have given: 2 of 4 values, one of 2 calls
    guess = format_plan([SubTask("send", "send_text", {"to": "Bero", "message": "rain"})])
    assert reward(run(task, guess, format_call(SEND))) == pytest.approx(0.3 * 1 / 4 + 0.7 / 2)


def test_repeating_subtasks_does_not_pay_while_the_executor_is_unreliable(parallel, run):
    """Each call comes out right with probability p: a second attempt used to pay below p = 1/2."""
    one = replace(parallel, gold=parallel.gold[:1])
    right, wrong = format_call(WEATHER), format_call(ToolCall("get_weather", {"city": "x", "days": 1}))
    subtask = SubTask("look", "get_weather", WEATHER.arguments)

    def worth(count, p):  # over all that may happen
        total = 0.0
        for outputs in itertools.product((right, wrong), repeat=count):
            chance = math.prod(p if output == right else 1 - p for output in outputs)
            total += chance * reward(run(one, format_plan([subtask] * count), *outputs))
        return total

    for p in (0.05, 0.37, 0.6, 1.0):
        assert worth(1, p) > worth(2, p) + 0.1 > worth(3, p) + 0.1


def test_values_under_a_wrong_tool_do_not_pay(task, run, gold_run):
    """The executor corrects the tools, since it sees the request; the plan keeps R_h,exe alone."""
    honest = gold_run(task)
    plan = format_plan([replace(subtask, tool="get_news") for subtask in honest.plan.subtasks])
    assert reward(run(task, plan, *(step.text for step in honest.steps))) == pytest.approx(0.7)


def test_values_where_none_are_wanted_do_not_pay(task, run):
    news = replace(task, gold=(GoldCall("get_news", {}),))
    stuffed = format_plan([SubTask("look", "get_news", {w: w for w in task.request.split()})])
    call = format_call(ToolCall("get_news", {}))
    assert reward(run(news, format_plan([SubTask("look", "get_news")]), call)) == 1
    assert reward(run(news, stuffed, call)) == pytest.approx(0.7)


def test_duplicated_or_quoted_plans_do_not_pay(task, run, gold_plan):
    plan, calls = gold_plan(task), (format_call(WEATHER), format_call(SEND))
    for text in (plan + plan, f"<plan>{plan}</plan>", f"<think>{plan}</think>", f"{plan} now"):
        assert reward(run(task, text, *calls)) == 0


def test_calls_for_a_request_that_needs_none_do_not_pay(chat, run):
    plan = format_plan([SubTask("look", "get_weather", WEATHER.arguments)])
    assert reward(run(chat, plan, *[format_call(WEATHER)] * 4)) == 0
    assert reward(run(chat, plan, format_answer("You are welcome."))) == 0  # nor is ordering one


@pytest.mark.parametrize("weights", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.1, 0, 0.9), (0.3, 0.7, 0)])
def test_a_planner_that_always_orders_a_call_does_not_pay_under_any_weights(chat, run, gold_plan, weights):
    """ToolWorld 2 once paid every plan nothing where no call is needed, and its planner forgot to order none."""
    w_param, w_exe, w_prob = weights
    planner_reward = PlannerReward(w_param, w_exe, w_prob=w_prob)
    answer = format_answer("You are welcome.")
    order = format_plan([SubTask("look", "get_weather", WEATHER.arguments)])
    bare = format_plan([SubTask("look", "get_weather")])
    totals = []
    for plan in (gold_plan(chat), order, bare, "no plan"):
        trajectory = run(chat, plan, answer)
        totals.append(planner_reward.total(planner_reward.components(trajectory.plan, [trajectory])))
    assert totals == [pytest.approx(w_param + w_exe + w_prob), 0, 0, 0]


def test_answering_in_pieces_does_not_pay(chat, run):
    five = format_plan([SubTask("answer", None)] * 5)
    assert reward(run(chat, five, *[format_answer("You are welcome.")] * 5)) == pytest.approx(1 / 5)


def test_stuffed_plan_with_honest_execution_loses(task, run, gold_run):
    stuffed = format_plan([SubTask("do it", "get_weather", {w: w for w in task.request.split()})])
    assert reward(run(task, stuffed, format_call(WEATHER), format_call(SEND))) < reward(gold_run(task)) - 0.2


def test_a_value_is_found_in_text_without_spaces():
    assert holds("\u5317\u4eac\u5e02", "\u5317\u4eac")
    assert not holds("\u5317\u4eac\u5e02", "\u4e1c\u4eac")
    assert not holds("Osloer", "Oslo")


@pytest.mark.parametrize("text", ["The fee is $1", "$1 million", "SELECT $1", "awk '{print $1}'", "a\0b"])
@pytest.mark.parametrize("in_words", [False, True])
def test_a_plain_value_that_looks_like_a_reference_is_a_value(text, in_words):
    calls = (GoldCall("send", {"to": "Ann", "body": "hi"}, "ok"), GoldCall("send", {"to": "Bob", "body": text}, "ok"))
    task = Task("t", (Message("user", "q"),), (), calls)
    planned = Plan(tuple(SubTask("send it", call.name, call.planned.arguments) for call in calls))
    assert parameter_reward(planned, task, in_words) == pytest.approx(1.0)


@pytest.mark.parametrize("text", ["The fee is $1", "awk '{print $1}'"])
def test_so_it_is_in_words(text):
    calls = (GoldCall("send", {"body": "hi"}, "ok"), GoldCall("send", {"body": text}, "ok"))
    task = Task("t", (Message("user", "q"),), (), calls)
    planned = Plan((SubTask("send hi", "send"), SubTask(f"send {text}", "send")))
    assert parameter_reward(planned, task, in_words=True) == pytest.approx(1.0)
