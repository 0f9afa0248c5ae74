from __future__ import annotations

from dataclasses import replace

import pytest

from cahl_pl.parsing import format_answer, format_call, parse_action
from cahl_pl.rewards import ExecutorReward, Target, assign_gold
from cahl_pl.rewards.executor import format_reward, semantic_reward, syntax_reward
from cahl_pl.types import GoldCall, Plan, Step, SubTask, ToolCall, Trajectory

WEATHER = ToolCall("get_weather", {"city": "Talomi", "days": 3})
SEND = ToolCall("send_text", {"to": "Bero", "message": "rain"})
ANSWER = Target("answer")


def plan_of(*subtasks):
    return Plan(tuple(SubTask("do it", tool, parameters) for tool, parameters in subtasks))


def call(name, **arguments):
    return parse_action(format_call(ToolCall(name, arguments)))


def test_gold_is_assigned_by_similarity_in_an_order_that_references_allow(task, parallel):
    swapped = plan_of(("send_text", {"to": "Bero", "message": "hi"}), ("get_weather", {"city": "Talomi", "days": 3}))
    weather, send = parallel.gold
    assert assign_gold(swapped, parallel) == [Target("call", send), Target("call", weather)]
    # "hi" is not the weather: (1 + 1 + 1/2) / 3 for the text against 1 for the weather, and only one of them is in order
    assert assign_gold(swapped, task) == [ANSWER, Target("call", task.gold[0])]


def test_gold_is_assigned_across_steps_without_a_tool(task):
    plan = plan_of((None, {}), ("get_weather", {}), (None, {}), ("send_text", {}))
    assert assign_gold(plan, task) == [
        ANSWER,
        Target("call", task.gold[0]),
        ANSWER,
        Target("call", task.gold[1]),
    ]


def test_surplus_subtasks_have_no_gold(parallel):
    weather, send = parallel.gold
    right, wrong = (
        ("get_weather", {"city": "Talomi", "days": 3}),
        ("get_weather", {"city": "Bero", "days": 1}),
    )
    plan = plan_of(wrong, right, ("send_text", {}), right)
    assert assign_gold(plan, parallel) == [ANSWER, Target("call", weather), Target("call", send), ANSWER]
    ordered = replace(parallel, ordered=True)
    assert assign_gold(plan, ordered) == [ANSWER, Target("call", weather), Target("call", send), ANSWER]


def test_a_doubled_first_subtask_leaves_the_second_its_own_gold(task):
    """By index the executor was paid for call 2 where it was told call 1."""
    weather, send = (("get_weather", {"city": "Talomi", "days": 3}), ("send_text", {"to": "Bero", "message": "$2"}))
    plan = plan_of(weather, weather, send)
    assert assign_gold(plan, task) == [Target("call", task.gold[0]), ANSWER, Target("call", task.gold[1])]
    plan = plan_of(weather, weather, (send[0], {"to": "Bero", "message": "$1"}))
    assert assign_gold(plan, task) == [Target("call", task.gold[0]), ANSWER, Target("call", task.gold[1])]


def test_references_are_read_through_the_match(parallel):
    """Two look-ups and two texts; a plan that looks up the other city first numbers them the other way round."""
    talomi = GoldCall("get_weather", {"city": "Talomi", "days": 3})
    oslo = GoldCall("get_weather", {"city": "Oslo", "days": 3})
    first = GoldCall("send_text", {"to": "Bero", "message": "rain"}, references={"message": "$1"})
    second = GoldCall("send_text", {"to": "Bero", "message": "sun"}, references={"message": "$2"})
    four = replace(parallel, gold=(talomi, oslo, first, second), ordered=True)
    look_ups = [("get_weather", {"city": city, "days": 3}) for city in ("Oslo", "Talomi")]
    texts = [("send_text", {"to": "Bero", "message": f"${n}"}) for n in (1, 2)]
    found = [target.gold for target in assign_gold(plan_of(*look_ups, *texts), four)]
    assert found == [oslo, talomi, second, first]


def test_subtasks_left_over_get_the_gold_left_over_in_order(parallel):
    weather, send = parallel.gold
    third = GoldCall("get_news", {"city": "Bero"})
    three = replace(parallel, gold=(weather, third, send))
    plan = plan_of(("nonsense", {}), ("send_text", {}), ("other", {}))
    assert assign_gold(plan, three) == [Target("call", weather), Target("call", send), Target("call", third)]


def test_ties_keep_the_order(parallel):
    gold = tuple(GoldCall("get_weather", {"city": "Talomi", "days": 3}, result=i) for i in range(6))
    plan = plan_of(*[("get_weather", {"city": "Talomi", "days": 3})] * 6)
    targets = assign_gold(plan, replace(parallel, gold=gold))
    assert [target.gold.result for target in targets] == [0, 1, 2, 3, 4, 5]


def test_ties_go_to_the_near_place(parallel):
    weather, send = parallel.gold
    plan = plan_of(("get_weather", {}), ("get_weather", {}), ("send_text", {}))
    swapped = replace(parallel, gold=(send, weather))
    assert assign_gold(plan, swapped) == [ANSWER, Target("call", weather), Target("call", send)]


def test_no_call_needed_means_an_answer_everywhere(chat):
    assert assign_gold(plan_of(("get_weather", {}), (None, {})), chat) == [ANSWER, ANSWER]
    assert assign_gold(Plan(error="empty plan"), chat) == []


def test_no_subtask_names_a_tool(task):
    assert assign_gold(plan_of((None, {})), task) == [ANSWER]


@pytest.mark.parametrize(
    ("text", "call_expected", "answer_expected"),
    [
        (format_call(WEATHER), 1, 0),
        (f"<think>hm</think> {format_call(WEATHER)}", 1, 0),
        ("<tool_call>broken</tool_call>", 1, 0),
        (f"ok {format_call(WEATHER)}", 0, 0),
        ("<answer>ok</answer>", 0, 1),
        ("ok <answer>ok</answer>", 0, 0),
        ("<answer> </answer>", 0, 0),
        ("ok", 0, 0),
    ],
)
def test_format_reward(text, call_expected, answer_expected):
    action = parse_action(text)
    given = [format_reward(action, "call"), format_reward(action, "answer")]
    assert given == [call_expected, answer_expected]


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (call("get_weather", city="Talomi", days=3), 1),
        (call("get_weather", city="Talomi", days="3"), 1),
        (call("get_weather", city="Talomi", days="soon"), 0.75),
        (call("get_weather", city="Talomi"), 0.75),
        (call("get_weather", city="Talomi", days=3, unit="C"), 0.75),
        (call("get_weather", city="Talomi", days="soon", unit="C"), 0.5),
        (call("get_wether", city="Talomi", days=3), 0.25),
        (parse_action("<tool_call>broken</tool_call>"), 0),
        (parse_action("nothing"), 0),
    ],
)
def test_syntax_reward_of_calls(action, expected, task):
    assert syntax_reward(action, task, "call") == expected
    assert syntax_reward(action, task, "answer") == 0


def test_syntax_reward_of_answers(task):
    action = parse_action("<answer>ok</answer>")
    assert syntax_reward(action, task, "answer") == 1
    assert syntax_reward(action, task, "call") == 0


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (call("get_weather", days="3", city="Talomi"), 1),
        (call("get_weather", city="Bero", days=3), (1 + 1 + 1 / 2) / 3),
        (call("get_weather", city="Bero", days=1), 2 / 3),
        (call("get_weather"), 1 / 3),
        (call("get_weather", city="Talomi ", days=3), (1 + 1 + 1 / 2) / 3),  # the tool sees the blank
        (call("get_weather", city="Talomi", days=3, unit="C"), (1 + 2 / 3 + 2 / 3) / 3),
        (call("get_news", city="Talomi", days=3), 0),
        (parse_action("<answer>rain</answer>"), 0),
        (parse_action("nothing"), 0),
    ],
)
def test_semantic_reward_of_calls(action, expected, task):
    assert semantic_reward(action, Target("call", task.gold[0]), task) == pytest.approx(expected)


def test_semantic_reward_wants_the_resolved_reference(task):
    target = Target("call", task.gold[1])
    assert semantic_reward(call("send_text", to="Bero", message="rain"), target, task) == 1
    assert semantic_reward(call("send_text", to="Bero", message="$1"), target, task) == pytest.approx(5 / 6)


def test_semantic_reward_of_answers(task):
    assert semantic_reward(parse_action("<answer>ok</answer>"), ANSWER, task) == 1
    assert semantic_reward(parse_action("so <answer>ok</answer>"), ANSWER, task) == 0
    assert semantic_reward(call("get_weather"), ANSWER, task) == 0


def test_total():
    assert ExecutorReward().total({"form": 1.0, "syn": 0.5, "sem": 0.25}) == pytest.approx(0.1 + 0.1 + 0.175)
    assert ExecutorReward().total({"form": 1.0, "syn": 0.5, "sem": None}) == pytest.approx(0.2 / 0.3)
    assert ExecutorReward(w_form=1, w_syn=1, w_sem=2).total({"form": 1.0, "syn": 1.0, "sem": None}) == 4
    assert ExecutorReward(w_form=0, w_syn=0, w_sem=2).total({"form": 1.0, "syn": 1.0, "sem": None}) == 0


@pytest.mark.parametrize("weights", [(-1, 1, 1), (0, 0, 0), (float("nan"), 1, 1)])
def test_bad_weights(weights):
    with pytest.raises(ValueError, match=r"reward weights must be .* got form=.*, syn=.*, sem="):
        ExecutorReward(*weights)


# Degenerate executors, each against the honest one.


def reward(text, target, task):
    executor_reward = ExecutorReward()
    step = Step(SubTask("do it", None), text, parse_action(text))
    return executor_reward.total(executor_reward.components(step, target, Trajectory(task, "", Plan()), 0))


def test_the_gold_trajectory_earns_one(task, parallel, chat, gold_run):
    for each in (task, parallel, chat):
        trajectory = gold_run(each)
        for step, target in zip(trajectory.steps, assign_gold(trajectory.plan, each), strict=True):
            assert ExecutorReward().components(step, target, Trajectory(each, "", Plan()), 0) == {
                "form": 1.0,
                "syn": 1.0,
                "sem": 1.0,
            }
            assert reward(step.text, target, each) == 1.0


def test_always_answering_does_not_pay(task):
    assert reward(format_answer("It rains."), Target("call", task.gold[0]), task) == 0


def test_always_calling_does_not_pay(chat):
    assert reward(format_call(WEATHER), ANSWER, chat) == 0


@pytest.mark.parametrize(
    "text",
    [
        format_call(WEATHER) * 2,
        f"<tool_call>{format_call(WEATHER)}</tool_call>",
        format_call(WEATHER) + format_call(SEND),
        format_call(WEATHER) + format_answer("or so"),
        f"<answer>{format_call(WEATHER)}</answer>",
        f"<think>{format_call(WEATHER)}</think>",
    ],
)
def test_more_than_one_output_or_a_quoted_one_does_not_pay(text, task):
    assert reward(text, Target("call", task.gold[0]), task) == 0


def test_quoting_the_gold_in_a_thought_adds_nothing(task):
    target, wrong = (
        Target("call", task.gold[0]),
        format_call(ToolCall("get_weather", {"city": "x", "days": 1})),
    )
    assert reward(f"<think>{format_call(WEATHER)}</think>{wrong}", target, task) == reward(wrong, target, task) < 0.8


def test_several_calls_in_one_payload_do_not_pay(task):
    payload = format_call(WEATHER).removeprefix("<tool_call>").removesuffix("</tool_call>")
    target = Target("call", task.gold[0])
    for text in (
        f"<tool_call>[{payload}, {payload}]</tool_call>",
        f"<tool_call>{payload}\n{payload}</tool_call>",
    ):
        assert reward(text, target, task) == pytest.approx(0.1)  # the tags alone


def test_a_wrong_tool_is_worth_less_than_wrong_values(task):
    target = Target("call", task.gold[0])
    wrong_tool = reward(format_call(ToolCall("get_news", WEATHER.arguments)), target, task)
    wrong_values = reward(format_call(ToolCall("get_weather", {"city": "x", "days": 1})), target, task)
    assert wrong_tool < wrong_values - 0.4
    assert wrong_values < reward(format_call(WEATHER), target, task) - 0.2


def test_calling_under_a_surplus_subtask_does_not_pay(task):
    weather = ("get_weather", {"city": "Talomi", "days": 3})
    *_, last = assign_gold(plan_of(weather, ("send_text", {"to": "Bero", "message": "$1"}), weather), task)
    assert reward(format_call(WEATHER), last, task) == 0
    assert reward(format_answer("It is done."), last, task) == 1


def test_a_blank_behind_each_text_does_not_pay(task):
    blank = ToolCall("send_text", {"to": "Bero ", "message": "rain "})
    # 0.1 + 0.2 + 0.7 (1 + 1 + 0) / 3: as any wrong values
    assert reward(format_call(blank), Target("call", task.gold[1]), task) == pytest.approx(0.3 + 0.7 * 2 / 3)


def test_undeclared_arguments_do_not_pay(task):
    """A call that is refused for them: 0.1 + 0.2 * 3/4 + 0.7 (1 + 0 + 0) / 3."""
    news = Target("call", GoldCall("get_news", {}))
    stuffed = ToolCall("get_news", {f"p{i}": i for i in range(5)})
    assert reward(format_call(stuffed), news, task) == pytest.approx(0.25 + 0.7 / 3)


def test_surplus_arguments_do_not_pay(task):
    target = Target("call", task.gold[0])
    stuffed = ToolCall("get_weather", {**WEATHER.arguments, **{w: w for w in task.request.split()}})
    assert reward(format_call(stuffed), target, task) < 0.8
