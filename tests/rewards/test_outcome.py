"""Rewards by what was achieved: hand-computed shares, and what must not pay."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from cahl_pl.environments import ExecutableEnvironment, RecordedEnvironment
from cahl_pl.parsing import format_answer, format_call, format_plan, parse_action, parse_plan
from cahl_pl.rewards import OutcomeExecutorReward, OutcomePlannerReward, Target
from cahl_pl.rewards.outcome import is_fulfilled, outcome_reward, taken_up
from cahl_pl.types import GoldCall, Message, Outcome, Plan, Step, SubTask, Task, ToolCall, ToolSpec, Trajectory


def toolkit(state):
    def get_city(name):
        return state["city"][name]

    def get_price(origin, destination):
        return state["price"][f"{origin}-{destination}"]

    def set_light(room, level):
        if level > 100:
            raise ValueError("too bright")
        state["light"][room] = level
        return "done"

    def add_event(event):
        state["events"][event] = True
        return "added"

    def cancel_event(event):
        del state["events"][event]
        return "cancelled"

    tools = (get_city, get_price, set_light, add_event, cancel_event)
    return {function.__name__: function for function in tools}


def tool(name, /, **parameters):
    schema = {"type": "object", "properties": {p: {"type": kind} for p, kind in parameters.items()}}
    return ToolSpec(name, "", {**schema, "required": list(parameters)})


TOOLS = (
    tool("get_city", name="string"),
    tool("get_price", origin="string", destination="string"),
    tool("set_light", room="string", level="integer"),
    tool("add_event", event="string"),
    tool("cancel_event", event="string"),
)
STATE = {
    "city": {"Ann": "Oslo", "Bob": "Oslo", "Cid": "Rome"},
    "price": {"Bonn-Oslo": 12, "Bonn-Rome": 7, "Rome-Oslo": 30},
    "light": {"hall": 10, "porch": 20},
    "events": {},
}
ENVIRONMENT = ExecutableEnvironment(toolkit)


def want(*results, **changes):
    """A task that wants these results, and these entries of a table changed."""
    state = {table: STATE[table] | entries for table, entries in changes.items()}
    outcome = Outcome(results, STATE | state if state else None)
    gold = (GoldCall("get_city", {"name": "Bob"}),)
    messages = (Message("user", "The city of Ann, and the price from Bonn to there."),)
    return Task("t", messages, TOOLS, gold, state=STATE, outcome=outcome)


def call(name, /, **arguments):
    return format_call(ToolCall(name, arguments))


def city(name):
    return call("get_city", name=name)


def price(origin, destination):
    return call("get_price", origin=origin, destination=destination)


def light(room, level):
    return call("set_light", room=room, level=level)


def steps_of(*texts):
    return [Step(SubTask("do it", None), text, parse_action(text)) for text in texts]


def score(task, *texts):
    return outcome_reward(task, steps_of(*texts), ENVIRONMENT)


ANSWER, BROKEN = format_answer("Done."), "<tool_call>broken</tool_call>"
ONE, TWO, PRICE = want("Oslo"), want("Oslo", 7), want(12)
HALL = want(light={"hall": 50})
BOTH = want("Rome", light={"hall": 50, "porch": 50})
ERROR = replace(want({"error": "too bright"}), messages=(Message("user", "Set the light in the hall to 200."),))
NONE = replace(ONE, outcome=Outcome())


@pytest.mark.parametrize(
    ("task", "texts", "expected"),
    [
        (ONE, [city("Ann")], 1),
        (ONE, [city("Ann"), ANSWER], 1),  # an answer in text afterwards costs nothing
        (ONE, [city("Cid")], 0),  # Rome: 0 of 1
        (TWO, [city("Ann"), price("Bonn", "Rome")], 1),
        (TWO, [price("Bonn", "Rome"), city("Ann")], 1),
        (TWO, [city("Ann")], 1 / 2),  # 1 of 2 results, 1 of 1 calls
        (TWO, [city("Ann"), price("Bonn", "Oslo")], 1 / 4),  # 1 of 2 results, 1 of 2 calls
        (TWO, [city("Ann"), price("Bonn", "Rome"), city("Cid")], 2 / 3),  # 2 of 3 calls; Rome is no argument later
        (ONE, [city("Ann"), BROKEN], 1 / 2),  # what cannot be read was an attempt
        (ONE, [call("get_town", name="Ann"), city("Ann")], 1 / 2),
        # Nested: the look-up serves, since its result is an argument of the call that serves.
        (PRICE, [city("Ann"), price("Bonn", "Oslo")], 1),
        (PRICE, [price("Bonn", "Ann")], 0),  # the look-up is missing, the name stands for its result
        (PRICE, [city("Ann"), price("Bonn", "Ann")], 0),
        (PRICE, [city("Cid"), price("Bonn", "Oslo")], 1 / 2),  # Rome leads nowhere: 1 of 2 calls
        (PRICE, [price("Bonn", "Oslo"), city("Ann")], 1 / 2),  # nor does what comes too late
        (PRICE, [city("Ann")], 0),
        (want(30), [city("Cid"), city("Ann"), price("Rome", "Oslo")], 1),  # two arguments, two look-ups
        # State: one entry that should change.
        (HALL, [light("hall", 50)], 1),
        (HALL, [light("hall", 60)], 0),  # the wrong value: 0 of 1
        (HALL, [light("hall", 50), light("porch", 50)], 1 / 4),  # 1 of 1 + 1 spoilt, 1 of 2 calls
        (HALL, [light("hall", 50), light("porch", 20)], 1 / 2),  # porch was 20: nothing spoilt, 1 of 2 calls
        (HALL, [light("porch", 50)], 0),
        (HALL, [light("hall", 60), light("hall", 50)], 1 / 2),  # right in the end, the last call alone served
        (HALL, [light("hall", 50), light("hall", 60)], 0),  # 0 of 1
        (HALL, [light("hall", 50), light("hall", 10)], 0),  # undone
        (HALL, [light("hall", 200), light("hall", 50)], 1 / 2),  # refused, then right
        # 1 result and 2 entries.
        (BOTH, [city("Cid"), light("hall", 50), light("porch", 50)], 1),
        (BOTH, [light("hall", 50), light("porch", 50)], 2 / 3),
        (BOTH, [city("Cid"), light("hall", 50), light("porch", 60)], 2 / 3),  # all served, 2 of 3 hold
        (BOTH, [city("Ann"), light("hall", 50)], 1 / 3 * 1 / 2),
        # An error that a right call meets.
        (ERROR, [light("hall", 200)], 1),
        (ERROR, [light("hall", 50)], 0),  # 0 of 1 + 1 spoilt
        (ERROR, [light("hall", 50), light("hall", 200)], 1 / 4),  # 1 of 1 + 1 spoilt, 1 of 2 calls
        (ERROR, [light("hall", 10**9)], 0),  # refused too, but nobody has said such a number
        (ERROR, [light("porch", 200)], 0),  # nor that room
        (ERROR, [light("hall", "200")], 1),
        # An entry that should go, and one that should come.
        (want(events={"party": True}), [call("add_event", event="party")], 1),
        (want(events={"party": True}), [call("add_event", event="ball")], 0),
        # Nothing is needed.
        (NONE, [ANSWER], 1),
        (NONE, [ANSWER, ANSWER], 1),
        (NONE, [f"so {ANSWER}"], 0),
        (NONE, [city("Ann")], 0),
        (NONE, [city("Ann"), ANSWER], 0),
        (NONE, [BROKEN, ANSWER], 0),
        (NONE, [""], 0),
        (NONE, [], 0),
        # Calls are needed.
        (ONE, [ANSWER], 0),
        (ONE, [format_answer("Oslo")], 0),
        (ONE, [BROKEN], 0),
        (ONE, [""], 0),
        (ONE, [], 0),
    ],
)
def test_hand_computed(task, texts, expected):
    assert score(task, *texts) == pytest.approx(expected)


def test_an_entry_that_should_go():
    task = replace(want(), state={**STATE, "events": {"party": True, "ball": True}})
    task = replace(task, outcome=Outcome((), {**STATE, "events": {"ball": True}}))
    cancel = [call("cancel_event", event=event) for event in ("party", "ball")]
    assert score(task, cancel[0]) == 1
    assert score(task, cancel[1]) == 0
    assert score(task, *cancel) == pytest.approx(1 / 2 * 1 / 2)  # 1 of 1 + 1 spoilt, 1 of 2 calls


def test_equal_results_are_wanted_as_often():
    task = want("Oslo", "Oslo")
    assert score(task, city("Ann"), city("Bob")) == 1
    assert score(task, city("Ann")) == 1 / 2
    # Asking the same again tells nothing new.
    assert score(task, city("Ann"), city("Ann")) == pytest.approx(1 / 2 * 1 / 2)


def test_values_are_compared_as_json():
    assert score(want(12.0), price("Bonn", "Oslo")) == 1
    assert score(want("12"), price("Bonn", "Oslo")) == 0
    assert score(want(light={"hall": 50.0}), light("hall", "50")) == 1


def test_a_call_that_breaks_its_schema_gives_no_result():
    refused = call("set_light", room="hall")
    text = ENVIRONMENT.start(ONE).call(ToolCall("set_light", {"room": "hall"})).text
    assert score(want({"error": text}), refused) == score(want(text), refused) == score(want(""), refused) == 0


def test_the_tasks_state_is_left_alone():
    assert score(HALL, light("hall", 50)) == score(HALL, light("hall", 50)) == 1
    assert STATE["light"] == {"hall": 10, "porch": 20}


def test_results_alone_need_no_state():
    task = replace(want(12), gold=(GoldCall("get_price", {"origin": "Bonn", "destination": "Oslo"}, result=12),))
    assert outcome_reward(task, steps_of(price("Bonn", "Oslo")), RecordedEnvironment()) == 1


@pytest.mark.parametrize(
    ("task", "texts", "expected"),
    [
        (PRICE, [city("Ann"), price("Bonn", "Oslo")], True),
        (PRICE, [city("Eve"), price("Bonn", "Eve"), city("Ann"), price("Bonn", "Oslo")], True),  # failed without effect
        (PRICE, [BROKEN, price("Bonn", "Oslo"), ANSWER], True),
        (PRICE, [city("Cid"), price("Bonn", "Oslo")], False),  # succeeded, and served nothing
        (TWO, [city("Ann")], False),
        (HALL, [light("hall", 200), light("hall", 50)], True),
        (HALL, [light("hall", 60), light("hall", 50)], False),
        (HALL, [light("hall", 50), light("porch", 50)], False),
        (NONE, [ANSWER], True),
        (NONE, [city("Eve"), ANSWER], True),
        (NONE, [city("Ann"), ANSWER], False),
        (NONE, [city("Eve")], False),
    ],
)
def test_fulfilled(task, texts, expected):
    assert is_fulfilled(task, steps_of(*texts), ENVIRONMENT) is expected


# The two rewards.


@pytest.fixture
def planner():
    reward = OutcomePlannerReward()
    reward.environment = ENVIRONMENT
    return reward


@pytest.fixture
def executor():
    reward = OutcomeExecutorReward()
    reward.environment = ENVIRONMENT
    return reward


def episode(task, *texts, tools=(), parameters=()):
    """An execution whose sub-tasks name these tools, or those that the texts call, with these parameters."""
    actions = [parse_action(text) for text in texts]
    named = tools or [action.call.name if action.call else None for action in actions]
    subtasks = [SubTask("do it", name, given) for name, given in itertools.zip_longest(named, parameters, fillvalue={})]
    session = ENVIRONMENT.start(task) if task.state is STATE else None
    answers = [session.call(action.call) if session and action.call else None for action in actions]
    steps = tuple(map(Step, subtasks, texts, actions, answers))
    text = format_plan(subtasks)
    return Trajectory(task, text, parse_plan(text), steps)


def test_planners_reward_is_the_mean_over_the_executions(planner):
    executions = [episode(TWO, city("Ann"), price("Bonn", "Rome")), episode(TWO, city("Ann"), price("Bonn", "Oslo"))]
    components = planner.components(executions[0].plan, executions)
    assert components == {"outcome": pytest.approx((1 + 1 / 4) / 2)}
    assert planner.total(components) == pytest.approx(0.625)


def test_a_plan_that_cannot_be_read_is_worth_nothing(planner):
    for text in ("", "<plan></plan>", f"<plan>{city('Ann')}</plan>", f"<plan><plan>{'{}'}</plan></plan>"):
        plan = parse_plan(text)
        assert planner.total(planner.components(plan, [Trajectory(ONE, text, plan)])) == 0
        assert planner.total(planner.components(plan, [Trajectory(NONE, text, plan)])) == 0
    assert planner.total(planner.components(Plan(error="no"), [episode(ONE, city("Ann"))])) == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (city("Ann"), (1, 1, 1)),
        (f"so {city('Ann')}", (0, 1, 1)),
        (city("Cid"), (1, 1, 0)),  # the price to Rome would follow
        (call("get_city", city="Ann"), (1, 0.75, 0)),  # refused: there is no result to go on with
        (BROKEN, (1, 0, 0)),
        ("", (0, 0, 0)),
        (ANSWER, (0, 0, 0)),  # an answer in place of a look-up leads nowhere
    ],
)
def test_executors_components(text, expected, executor):
    ran = episode(PRICE, city("Bob"), price("Bonn", "Oslo"))
    step = replace(ran.steps[0], text=text, action=parse_action(text))
    found = executor.components(step, Target("answer"), ran, 0)
    assert found == pytest.approx(dict(zip(("form", "syn", "outcome"), expected, strict=True)))
    assert executor.total(found) == pytest.approx(0.1 * found["form"] + 0.2 * found["syn"] + 0.7 * found["outcome"])


@pytest.mark.parametrize("carried_out", [city("Cid"), city("Eve"), BROKEN, ANSWER, city("Ann")])
@pytest.mark.parametrize("planned", [True, False])
def test_a_right_look_up_is_told_from_a_wrong_one_whichever_was_carried_out(executor, carried_out, planned):
    """As the plan says ("$1") or, where it says nothing, as the values do; there a step without a result is not taken up."""
    found = {city("Cid"): "Rome", city("Ann"): "Oslo"}.get(carried_out, "Eve")
    says = [{"name": "Ann"}, {"origin": "Bonn", "destination": "$1"}] if planned else []
    tools = ["get_city", "get_price"]
    ran = episode(PRICE, carried_out, price("Bonn", found), tools=tools, parameters=says)
    outputs = [city("Ann"), city("Bob"), city("Cid"), ANSWER, BROKEN, call("get_city", city="Ann")]
    steps = [replace(ran.steps[0], text=text, action=parse_action(text)) for text in outputs]
    given = [executor.components(step, Target("answer"), ran, 0)["outcome"] for step in steps]
    if planned or found != "Eve":
        assert given == [1, 1, 0, 0, 0, 0]
    else:
        assert given == [0] * 6  # "Eve" was no result


def test_a_value_that_the_plan_gives_comes_from_nowhere_else(executor):
    """The first look-up gives Oslo by chance, and the plan names Oslo for the price: another look-up changes nothing there."""
    says = [{"name": "Ann"}, {"origin": "Bonn", "destination": "Oslo"}]
    ran = episode(want("Rome", 12), city("Ann"), price("Bonn", "Oslo"), parameters=says)
    assert taken_up(ran, 0) == {}
    better = steps_of(city("Cid"))[0]
    assert executor.components(better, Target("answer"), ran, 0)["outcome"] == 1
    # a parameter of another tool than the planned one, or that the plan leaves open, goes by its value
    assert taken_up(episode(PRICE, city("Ann"), price("Bonn", "Oslo")), 0) == {1: ["destination"]}
    other = episode(PRICE, city("Ann"), price("Bonn", "Oslo"), tools=["get_city", "get_news"], parameters=says)
    assert taken_up(other, 0) == {1: ["destination"]}
    assert taken_up(other, 1) == {}


def test_each_step_is_judged_with_the_others_as_they_were(executor):
    ran = episode(BOTH, city("Cid"), light("hall", 60), light("porch", 50))  # 2 of 3
    given = [executor.components(step, Target("answer"), ran, i)["outcome"] for i, step in enumerate(ran.steps)]
    assert given == pytest.approx([2 / 3] * 3)
    better = steps_of(light("hall", 50))[0]
    assert executor.components(better, Target("answer"), ran, 1)["outcome"] == 1
    assert executor.components(better, Target("answer"), ran, 0)["outcome"] < 2 / 3


def test_an_answer_is_expected_where_the_plan_says_so(executor):
    ran = episode(NONE, ANSWER)
    assert executor.components(ran.steps[0], Target("call"), ran, 0) == {"form": 1, "syn": 1, "outcome": 1}
    planned = episode(NONE, ANSWER, tools=["get_city"])
    assert executor.components(planned.steps[0], Target("answer"), planned, 0) == {"form": 0, "syn": 0, "outcome": 1}


# Degenerate policies, each against the honest one.


def everything(task):
    """Every tool with every value that the request and the state name."""
    names = ["Ann", "Bob", "Cid", "Bonn", "Oslo", "Rome", "hall", "porch", "party"]
    texts = [city(name) for name in names] + [call("add_event", event=name) for name in names]
    return [*texts, *(price(a, b) for a in names for b in names), *(light(a, n) for a in names for n in (12, 50))]


HONEST = {
    "result": (ONE, [city("Ann")]),
    "nested": (PRICE, [city("Ann"), price("Bonn", "Oslo")]),
    "state": (HALL, [light("hall", 50)]),
    "both": (BOTH, [city("Cid"), light("hall", 50), light("porch", 50)]),
    "error": (ERROR, [light("hall", 200)]),
    "none": (NONE, [ANSWER]),
}
DEGENERATE = {
    "everything": lambda task, honest: everything(task),
    "everything and the honest": lambda task, honest: everything(task) + honest,
    "twice": lambda task, honest: honest * 2,
    "five times": lambda task, honest: honest * 5,
    "each twice": lambda task, honest: [text for text in honest for _ in range(2)],
    "the last again": lambda task, honest: [*honest, honest[-1]],
    "the first again": lambda task, honest: [honest[0], *honest],
    "a wrong value first": lambda task, honest: [light("hall", 60), *honest],
    "a wrong value last": lambda task, honest: [*honest, light("hall", 60)],
    "another look-up first": lambda task, honest: [price("Bonn", "Rome"), *honest],
    "another look-up last": lambda task, honest: [*honest, price("Bonn", "Rome")],
    "what cannot be read": lambda task, honest: [BROKEN, *honest],
    "nested tags": lambda task, honest: [f"<tool_call>{text}</tool_call>" for text in honest],
    "repeated tags": lambda task, honest: [text * 2 for text in honest],
    "quoted": lambda task, honest: [f"<answer>{text}</answer>" for text in honest],
    "only thought": lambda task, honest: [f"<think>{text}</think>" for text in honest],
    "thought, then an answer in place of calls": lambda task, honest: (
        [f"<think>{text}</think>" for text in honest] + [ANSWER] * (task is not NONE)
    ),
    "all in one output": lambda task, honest: ["".join([*honest, city("Bob")])],
    "nothing": lambda task, honest: [],
    "empty outputs": lambda task, honest: [""] * len(honest),
    "the wrong kind": lambda task, honest: [city("Bob")] if task is NONE else [ANSWER],
}


@pytest.mark.parametrize("kind", HONEST)
@pytest.mark.parametrize("make", DEGENERATE.values(), ids=DEGENERATE)
def test_degenerate_executions_do_not_pay(make, kind):
    task, honest = HONEST[kind]
    texts = make(task, honest)
    if task is NONE and set(texts) == {ANSWER}:
        return  # to answer more than once is harmless
    assert score(task, *honest) == 1
    assert score(task, *texts) <= 3 / 4


def test_values_that_are_always_refused_do_not_pay():
    billion = light("hall", 10**9)
    assert [score(task, *[billion] * len(honest)) for task, honest in HONEST.values()] == [0.0] * len(HONEST)
    # an error that names the value is another one
    assert score(want({"error": "200 is too bright"}), billion) == 0


def test_what_a_wanted_error_is_met_by_may_come_from_an_earlier_result_or_a_list():
    """Texts of the dialogue, of what tools have answered, and those that the schema lists."""
    said = "Set the light where Bob lives to 200, brightly."
    task = replace(ERROR, messages=(Message("system", "Be kind."), Message("user", said)))
    assert score(task, light("Oslo", 200)) == 0
    assert score(task, city("Bob"), light("Oslo", 200)) == 1
    listed = {"type": "object", "properties": {"room": {"enum": ["Oslo", "attic"]}, "level": {"type": "integer"}}}
    tools = tuple(replace(tool, parameters=listed) if tool.name == "set_light" else tool for tool in TOOLS)
    assert score(replace(task, tools=tools), light("attic", 200)) == 1  # the user may have said it in other words
    assert score(replace(task, tools=tools), light("attic", 201)) == 0


def test_a_look_up_whose_result_is_an_argument_elsewhere():
    # Rome is known from the request; to look up another person who lives there too is as good, and never better.
    assert score(want(30), price("Rome", "Oslo")) == 1
    # Two look-ups of one value: only one of them can have led there.
    assert score(PRICE, city("Ann"), city("Bob"), price("Bonn", "Oslo")) == pytest.approx(2 / 3)
    # "done" is an argument later, and a call that served gave it: no second one did.
    done = [light("hall", 50), light("porch", 20), call("add_event", event="done")]
    assert score(want(light={"hall": 50}, events={"done": True}), *done) == pytest.approx(2 / 3)
    # A result that only a call in vain takes up leads nowhere.
    assert score(ONE, city("Ann"), city("Cid"), price("Bonn", "Rome")) == pytest.approx(1 / 3)
    # Nor does one that is taken up by a call which was undone later.
    assert score(HALL, city("Ann"), light("Oslo", 3), light("hall", 50)) == pytest.approx(1 / 2 * 1 / 3)


def test_a_thought_that_holds_a_call_is_not_carried_out():
    task = want("Oslo", "Rome")
    assert score(task, f"<think>{city('Ann')}</think>{city('Cid')}") == 1 / 2


def test_an_empty_table_is_no_entry_of_its_own():
    # `events` is empty before: what comes into it is the one check, met or not, and a wrong entry meets nothing.
    task = want(events={"party": True})
    assert score(task, call("add_event", event="party"), call("add_event", event="ball")) == pytest.approx(1 / 4)
    assert score(task, call("add_event", event="ball")) == 0


def test_executor_is_not_paid_for_repeating_another_step(executor):
    ran = episode(BOTH, city("Cid"), light("hall", 50), light("porch", 50))
    honest = executor.total(executor.components(ran.steps[2], Target("answer"), ran, 2))
    for text in (city("Cid"), light("hall", 50), ANSWER, BROKEN, "", light("porch", 60)):
        step = replace(ran.steps[2], text=text, action=parse_action(text))
        assert executor.total(executor.components(step, Target("answer"), ran, 2)) < honest - 0.2
