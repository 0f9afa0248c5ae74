from __future__ import annotations

from dataclasses import replace

import pytest

from cahl_pl.rollout.gold import gold_turns, is_on_track, next_calls
from cahl_pl.toolworld.dataset import ToolWorld
from cahl_pl.types import GoldCall, Message, Outcome, Task, ToolCall, ToolSpec

FIND = ToolSpec("find", "", {"type": "object", "properties": {"name": {"type": "string"}, "days": {"type": "integer"}}})
SEND = ToolSpec("send", "", {"type": "object", "properties": {"to": {"type": "string"}, "text": {"type": "string"}}})

ANN = GoldCall("find", {"name": "Ann", "days": 3}, result="rain")
BOB = GoldCall("find", {"name": "Bob", "days": 3}, result="sun")
WRONG = ToolCall("find", {"name": "Eve", "days": 3})


def send(words, **references):
    return GoldCall("send", {"to": "Cid", "text": words}, references=references)


@pytest.fixture
def task():
    return Task("t", (Message("user", "go"),), (FIND, SEND), (ANN, BOB))


@pytest.fixture
def nested(task):
    """Two look-ups, what needs the first one's result, what needs the second one's, and what needs neither."""
    return replace(task, gold=(ANN, send("rain", text="$1"), BOB, send("sun", text="$3"), send("hi")), ordered=True)


def test_parallel_calls_come_together(task):
    assert next_calls(task, []) == (ANN, BOB)
    assert next_calls(task, [BOB.call]) == (ANN,)
    assert next_calls(task, [BOB.call, ANN.call]) == ()
    assert gold_turns(task) == [(ANN, BOB)]


def test_a_call_waits_for_the_results_it_refers_to(nested):
    ann, rain, bob, sun, hi = nested.gold
    assert gold_turns(nested) == [(ann, bob, hi), (rain, sun)]
    assert next_calls(nested, [bob.call]) == (ann, sun, hi)
    assert next_calls(nested, [ann.call, hi.call]) == (rain, bob)
    # Made before its time, with a guess that is right, it is made all the same.
    assert next_calls(nested, [rain.call]) == (ann, bob, hi)


def test_a_chain_is_one_call_a_turn(task):
    chain = (ANN, GoldCall("find", {"name": "rain"}, "snow", {"name": "$1"}), send("snow", text="$2"))
    assert gold_turns(replace(task, gold=chain, ordered=True)) == [(chain[0],), (chain[1],), (chain[2],)]


def test_a_call_waits_for_all_its_references(task):
    both = GoldCall("send", {"to": "sun", "text": "rain"}, references={"to": "$2", "text": "$1"})
    waits = replace(task, gold=(ANN, BOB, both))
    assert gold_turns(waits) == [(ANN, BOB), (both,)]
    assert next_calls(waits, [ANN.call]) == (BOB,)


def test_ordered_calls_without_references_come_one_at_a_time(task):
    ordered = replace(task, ordered=True)
    assert gold_turns(ordered) == [(ANN,), (BOB,)]
    assert next_calls(ordered, [BOB.call]) == (ANN,)
    assert next_calls(ordered, [ANN.call]) == (BOB,)


def test_a_wrong_call_changes_nothing(task, nested):
    assert next_calls(task, [WRONG]) == (ANN, BOB)
    assert next_calls(task, [WRONG, ANN.call, WRONG]) == (BOB,)
    assert next_calls(nested, [WRONG]) == next_calls(nested, [])
    assert next_calls(task, [ToolCall("nonsense", {}), ANN.call, BOB.call]) == ()


def test_equal_gold_calls_are_made_once_each(task):
    twice = replace(task, gold=(ANN, ANN, BOB))
    assert next_calls(twice, []) == (ANN, ANN, BOB)
    assert next_calls(twice, [ANN.call]) == (ANN, BOB)
    assert next_calls(twice, [ANN.call] * 2) == (BOB,)
    assert gold_turns(twice) == [(ANN, ANN, BOB)]
    # Of equal gold calls the first is made first: what waits for the second still waits.
    rain = send("rain", text="$2")
    waits = replace(task, gold=(ANN, ANN, rain))
    assert next_calls(waits, [ANN.call]) == (ANN,)
    assert next_calls(waits, [ANN.call, ANN.call]) == (rain,)
    ordered = replace(task, gold=(ANN, ANN), ordered=True)
    assert gold_turns(ordered) == [(ANN,), (ANN,)]


def test_a_repeated_call_counts_for_no_other(task):
    assert next_calls(task, [ANN.call] * 3) == (BOB,)


def test_values_are_compared_as_their_types(task):
    assert next_calls(task, [ToolCall("find", {"days": "3", "name": "Ann"})]) == (BOB,)
    assert next_calls(task, [ToolCall("find", {"days": 3, "name": "Ann "})]) == (ANN, BOB)  # the tool sees the blank
    assert next_calls(task, [ToolCall("find", {"days": 4, "name": "Ann"})]) == (ANN, BOB)


def test_calls_that_no_gold_call_asks_for_end_the_hope_of_success(task, nested):
    for made in ([], [ANN.call], [BOB.call, ANN.call], [ToolCall("find", {"days": "3", "name": "Ann"})]):
        assert is_on_track(task, made)
    for made in ([WRONG], [ANN.call, WRONG], [ANN.call] * 2, [ToolCall("nonsense", {})]):
        assert not is_on_track(task, made)
    assert is_on_track(nested, [nested.gold[1].call])  # before its time, but a gold call
    chat = replace(task, gold=())
    assert is_on_track(chat, [])
    assert not is_on_track(chat, [ANN.call])
    assert not is_on_track(replace(chat, outcome=Outcome()), [ANN.call])
    assert is_on_track(replace(chat, outcome=Outcome(("rain",))), [ANN.call])  # only its end will tell


def test_without_gold_an_answer_comes_next(task):
    chat = replace(task, gold=())
    assert next_calls(chat, []) == next_calls(chat, [WRONG]) == ()
    assert gold_turns(chat) == []


@pytest.mark.parametrize("split", ["train", "test", "test_unseen_tools"])
def test_the_turns_of_toolworld_hold_each_gold_call_once_and_in_time(split):
    for task in ToolWorld(split, 100):
        turns = gold_turns(task)
        assert sorted(map(repr, task.gold)) == sorted(repr(call) for turn in turns for call in turn)
        for at, turn in enumerate(turns):
            earlier = [call for one in turns[:at] for call in one]
            for call in turn:
                assert all(task.gold[int(ref[1:]) - 1] in earlier for ref in call.references.values())
        assert len(turns) == {"none": 0, "single": 1, "parallel": 1}.get(task.tags["kind"], len(turns))
