from __future__ import annotations

import pytest

from cahl_pl.rewards.planner import parameter_reward
from cahl_pl.types import GoldCall, Message, Plan, SubTask, Task, ToolSpec

ROUTE = ToolSpec(
    "route",
    "a route",
    {
        "type": "object",
        "properties": {"a": {"type": "string"}, "b": {"type": "string"}, "via": {"type": "string", "enum": ["KX31"]}},
    },
)
SEND = ToolSpec(
    "send", "send", {"type": "object", "properties": {"to": {"type": "string"}, "loud": {"type": "boolean"}}}
)
GOLD = (
    GoldCall("route", {"a": "Mane", "b": "Gage", "via": "KX31"}, "long"),
    GoldCall("send", {"to": "long", "loud": True}, None, {"to": "$1"}),
)
TASK = Task("t", (Message("user", "?"),), (ROUTE, SEND), GOLD)


def earned(*subtasks):
    return parameter_reward(Plan(tuple(SubTask(*s) for s in subtasks)), TASK, in_words=True)


GOOD = [("the route from Mane to Gage", "route"), ("send $1 loudly", "send")]


@pytest.mark.parametrize(
    ("subtasks", "credit"),
    [
        (GOOD, 1),  # of three values: the code and the truth value are not expected
        ([("the route from Mane", "route"), GOOD[1]], 2 / 3),
        ([("the route from Manet to Gage", "route"), GOOD[1]], 2 / 3),
        ([GOOD[0], ("send it loudly", "send")], 2 / 3),
        ([GOOD[0], ("send $2", "send")], 2 / 3),
        ([("the route from Mane to Gage", "send"), ("send $1", "route")], 0),
        ([("", "route"), ("", "send")], 0),
        ([GOOD[0], GOOD[0], ("send $1", "send")], 3 / 5),  # a repetition
        ([("Mane to Gage, then send $1", "route"), ("Mane to Gage, then send $1", "send")], 1),  # no better than GOOD
        ([("the route", "route", {"a": "Mane", "b": "Gage"}), ("send", "send", {"to": "$1"})], 1),  # mapped: as ever
        ([("the route Mane Gage", "route", {"a": "x"}), ("send $1", "send")], 1 / 3),  # what is mapped counts alone
    ],
)
def test_values_are_found_in_the_words(subtasks, credit):
    assert earned(*subtasks) == pytest.approx(credit)


def test_without_the_option_words_earn_nothing():
    assert parameter_reward(Plan((SubTask("the route from Mane to Gage", "route"),)), TASK) == 0


def test_all_values_in_each_of_two_sub_tasks_for_one_tool_cost_what_surplus_values_cost():
    gold = (GoldCall("send", {"to": "Bero"}), GoldCall("send", {"to": "Nena"}))
    task = Task("t", (Message("user", "?"),), (SEND,), gold)
    honest = Plan((SubTask("to Bero", "send"), SubTask("to Nena", "send")))
    everything = Plan((SubTask("to Bero and Nena", "send"),) * 2)
    assert parameter_reward(honest, task, in_words=True) == 1
    assert parameter_reward(everything, task, in_words=True) == 0.5
