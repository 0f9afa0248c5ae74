"""What is left of a task after some calls, against cases worked out by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from cahl_pl.parsing import format_call
from cahl_pl.rollout.left_over import left_over
from cahl_pl.types import (
    NO_RESULT,
    Action,
    Feedback,
    GoldCall,
    Message,
    Outcome,
    Step,
    SubTask,
    Task,
    ToolCall,
    ToolSpec,
)

TOOLS = tuple(
    ToolSpec(name, name, {"type": "object", "properties": {key: {} for key in keys}})
    for name, keys in {"city": ["person"], "weather": ["city"], "send": ["to", "what"], "note": ["text"]}.items()
)
CITY = GoldCall("city", {"person": "Bo"}, {"name": "Rome", "zip": 7})
WEATHER = GoldCall("weather", {"city": "Rome"}, "sunny", {"city": "$1.name"}, "the weather in $1.name for $5")
SEND = GoldCall(
    "send",
    {"to": {"at": "Rome", "cc": ["x"]}, "what": "sunny"},
    "sent",
    {"to": {"at": "$1.name", "cc": ["x"]}, "what": "$2"},
    "send $2 to $1.name, it costs $3",
)
CHAIN = Task("t", (Message("user", "please"),), TOOLS, (CITY, WEATHER, SEND), ordered=True)


def step(call, error=None, text="ok"):
    feedback = Feedback(json.dumps({"error": text} if error else text), error)
    return Step(SubTask("do it", call.name), format_call(call), Action(call=call), feedback)


def test_the_dialogue_goes_on_with_what_was_done_and_answered():
    done = [step(CITY.call), step(ToolCall("weather", {"city": "Rom"}), "tool", "no city")]
    left = left_over(CHAIN, done)
    assert left.messages == (
        Message("user", "please"),
        Message("assistant", format_call(CITY.call)),
        Message("tool", '"ok"'),
        Message("assistant", format_call(ToolCall("weather", {"city": "Rom"}))),
        Message("tool", '{"error": "no city"}'),
    )
    assert (left.id, left.tools, left.ordered) == ("t", TOOLS, True)


ITS_WEATHER = replace(WEATHER, references={}, instruction="the weather in Rome for $5")  # an amount, as is $3
ITS_SEND = replace(SEND, references={"what": "$1"}, instruction="send $1 to Rome, it costs $3")
LAST_SEND = replace(SEND, references={}, instruction="send sunny to Rome, it costs $3")
SEND_ITS = replace(
    SEND, references={"to": {"at": "$1.name", "cc": ["x"]}}, instruction="send sunny to $1.name, it costs $3"
)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        ([], (CITY, WEATHER, SEND)),
        (
            [CITY],
            (ITS_WEATHER, ITS_SEND),
        ),  # call 2 becomes 1, the result of call 1 a value, also within an object and in words
        ([WEATHER], (CITY, SEND_ITS)),
        ([CITY, WEATHER], (LAST_SEND,)),
        ([CITY, CITY], (ITS_WEATHER, ITS_SEND)),
        ([CITY, WEATHER, SEND], ()),
    ],
)
def test_calls_that_were_made_are_no_longer_gold_and_their_results_are_values(made, expected):
    assert left_over(CHAIN, [step(gold.call) for gold in made]).gold == expected


def test_an_amount_in_words_is_no_reference():
    said = "send $1.50, $1,000, $12345 and $1, $1.name"
    task = replace(CHAIN, gold=(CITY, replace(WEATHER, references={"city": "$1"}, instruction=said)))
    city = '{"name": "Rome", "zip": 7}'
    assert left_over(task, [step(CITY.call)]).gold[0].instruction == f"send $1.50, $1,000, $12345 and {city}, Rome"


def test_a_mixed_value_keeps_what_is_still_a_reference():
    both = GoldCall("note", {"text": ["Rome", "sunny"]}, "noted", {"text": ["$1.name", "$2"]})
    task = replace(CHAIN, gold=(CITY, WEATHER, both))
    assert left_over(task, [step(CITY.call)]).gold[1].references == {"text": ["Rome", "$1"]}
    assert left_over(task, [step(CITY.call), step(WEATHER.call)]).gold[0] == replace(both, references={})


def test_a_result_that_is_not_stored_stays_as_it_was_said():
    unknown = replace(CITY, result=NO_RESULT)
    left = left_over(replace(CHAIN, gold=(unknown, WEATHER)), [step(CITY.call)])
    assert left.gold == (replace(WEATHER, references={}),)


def test_equal_gold_calls_count_once_each():
    twice = replace(CHAIN, gold=(CITY, CITY), ordered=False)
    assert left_over(twice, [step(CITY.call)]).gold == (CITY,)
    assert left_over(twice, [step(CITY.call)] * 2).gold == ()
    assert left_over(twice, [step(CITY.call)] * 3).gold == ()


def test_values_are_compared_as_the_schema_types_them():
    typed = ToolSpec("city", "", {"type": "object", "properties": {"person": {"type": "integer"}}})
    task = replace(CHAIN, tools=(typed,), gold=(GoldCall("city", {"person": 3}),))
    assert left_over(task, [step(ToolCall("city", {"person": "3"}))]).gold == ()


def test_every_way_is_reduced_and_one_that_is_done_leaves_nothing():
    short = GoldCall("note", {"text": "Bo"}, "sunny")
    task = replace(CHAIN, gold=(CITY, WEATHER), alternatives=((short,),))
    left = left_over(task, [step(CITY.call)])
    assert left.gold == (replace(WEATHER, references={}, instruction="the weather in Rome for $5"),)
    assert left.alternatives == ((short,),)
    left = left_over(task, [step(short.call)])
    assert (left.gold, left.alternatives) == ((), ())


def test_where_nothing_is_left_the_tasks_own_answer_is_right():
    task = replace(CHAIN, answer="That is all.", outcome=Outcome(("sent",)))
    left = left_over(task, [step(gold.call) for gold in CHAIN.gold])
    assert (left.gold, left.answer, left.outcome) == ((), "That is all.", None)


A, B, C, D = (GoldCall("note", {"text": text}, text) for text in "ABCD")
FAILED = replace(A, result={"error": "see C"})


@pytest.mark.parametrize(
    ("foreseen", "steps", "gold", "after"),
    [
        (None, [step(A.call, "tool")], (B, C, D), None),
        (
            2,
            [step(ToolCall("note", {"text": "Z"}), "tool")],
            (FAILED, B, C, D),
            2,
        ),  # no gold call: nothing was learned by it
        (2, [step(A.call), step(ToolCall("note", {"text": "Z"}), "tool")], (B, C, D), 1),
        (2, [step(A.call, "tool")], (B, C, D), None),  # the error has said it
        (2, [step(A.call), step(B.call)], (C, D), None),
        (1, [step(A.call, "tool"), step(C.call)], (B, D), None),
        (2, [step(gold.call, "tool") for gold in (A, B, C, D)], (), None),
    ],
)
def test_what_could_not_be_foreseen_can_be_planned_once_a_gold_call_has_failed(foreseen, steps, gold, after):
    task = replace(CHAIN, gold=(FAILED, B, C, D), foreseen=foreseen)
    left = left_over(task, steps)
    assert (left.gold, left.foreseen) == (gold, after)


def test_what_is_left_is_a_task_of_which_something_is_left_again():
    task = replace(CHAIN, gold=(A, B, C), ordered=False)
    once = left_over(left_over(task, [step(A.call)]), [step(C.call)])
    assert once == left_over(task, [step(A.call), step(C.call)])
    assert once.gold == (B,)


def test_the_part_that_can_be_foreseen():
    assert CHAIN.foreseeable is CHAIN
    task = replace(CHAIN, foreseen=1)
    assert task.foreseeable == replace(CHAIN, gold=(CITY,))
