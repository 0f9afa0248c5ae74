from __future__ import annotations

import itertools
import time
from dataclasses import replace

import numpy as np
import pytest

from cahl_pl.rewards.alignment import align, align_plan, precedence, read_references, reference
from cahl_pl.rewards.planner import parameter_reward
from cahl_pl.types import GoldCall, Plan, SubTask


def test_the_best_match_without_an_order():
    similarities = [[0.9, 0.8], [0.7, 0.0], [0.1, 0.1]]
    assert align(similarities) == [(0, 1), (1, 0)]  # 1.5, where greedy would get 0.9
    assert align(np.zeros((0, 3))) == align([]) == []


def test_the_best_match_in_an_order():
    similarities = [[0.9, 0.8], [0.7, 0.0], [0.1, 0.1]]
    # column 0 before column 1: (0, 0) + (2, 1) = 1.0, where (0, 1) + (1, 0) would have 1.5
    assert align(similarities, [(0, 1)]) == [(0, 0), (2, 1)]
    assert align([[0, 1], [1, 0]], [(0, 1)]) in ([(0, 1)], [(1, 0)])  # one of the two
    # 0 before 2 alone: 1 may stand anywhere
    reverse = np.eye(3)[::-1]
    pairs = align(reverse, [(0, 2)])
    assert sum(reverse[pair] for pair in pairs) == 2
    assert (1, 1) in pairs


@pytest.mark.parametrize("total", [False, True])
def test_no_allowed_match_is_better(total):
    rng = np.random.default_rng(0)
    for _ in range(150):
        rows, columns = rng.integers(1, 5, 2)
        matrix = rng.random((rows, columns)) * (rng.random((rows, columns)) < 0.8)
        every = [(i, j) for j in range(columns) for i in range(j)]
        before = every if total else [pair for pair in every if rng.random() < 0.5]
        pairs = align(matrix, before)
        assert len({r for r, _ in pairs}) == len({c for _, c in pairs}) == len(pairs)
        assert is_allowed({c: r for r, c in pairs}, before)
        best = 0.0
        for chosen in itertools.product(range(-1, rows), repeat=columns):
            place = {c: r for c, r in enumerate(chosen) if r >= 0}
            if len(set(place.values())) == len(place) and is_allowed(place, before):
                best = max(best, sum(matrix[r, c] for c, r in place.items()))
        assert sum(matrix[pair] for pair in pairs) == pytest.approx(best)


def is_allowed(place, before):
    return all(place[i] < place[j] for i, j in before if i in place and j in place)


def test_a_hostile_number_of_calls_takes_little_time():
    start = time.process_time()
    backwards = np.tile(np.eye(10)[::-1], (15, 1))
    pairs = align(backwards, [(i, i + 1) for i in range(9)])
    assert time.process_time() - start < 10
    assert sum(backwards[pair] for pair in pairs) == 10  # 150 attempts hold the right order somewhere


def test_precedence(task, parallel):
    assert precedence(task) == [(0, 1)]
    assert precedence(replace(task, ordered=False)) == [(0, 1)]  # references say it
    assert precedence(parallel) == []
    # ordered without references: what needs what is not known
    four = replace(parallel, ordered=True, gold=parallel.gold * 2)
    assert precedence(four) == [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]
    # with a reference, that one alone; what is no reference to an earlier call demands nothing
    third = GoldCall("get_news", {"city": "x"}, references={"city": "$1"})
    assert precedence(replace(parallel, ordered=True, gold=(*parallel.gold, third))) == [(0, 2)]
    for wrong in ("$3", "$0", "$7", "1", "$x"):
        bad = replace(third, references={"city": wrong})
        assert precedence(replace(parallel, gold=(*parallel.gold, bad))) == []


def test_a_chain_of_references_is_followed(task):
    """How like two references are is how like their sub-tasks are, and so on down the chain."""
    chain = (
        GoldCall("get_news", {"city": "a"}),
        GoldCall("get_news", {"city": "b"}),
        GoldCall("get_news", {"city": "x"}, references={"city": "$1"}),
        GoldCall("get_news", {"city": "y"}, references={"city": "$2"}),
        GoldCall("send_text", {"to": "p", "message": "x"}, references={"message": "$3"}),
        GoldCall("send_text", {"to": "p", "message": "y"}, references={"message": "$4"}),
    )
    news = [SubTask("", "get_news", {"city": city}) for city in ("b", "a", "$2", "$1")]
    texts = [SubTask("", "send_text", {"to": "p", "message": f"${n}"}) for n in (4, 3)]
    match = align_plan(Plan((*news, *texts)), replace(task, gold=chain))
    assert match == {0: 1, 1: 0, 2: 2, 3: 3, 4: 5, 5: 4}
    assert [read_references(f"${k}", 6, match) for k in range(1, 7)] == [reference(i) for i in (1, 0, 2, 3, 5, 4)]
    assert read_references("of $1 and $2", 1, match) == f"of {reference(1)} and $2"  # by then there is no second one
    assert read_references("$1.50 or $12", 2, match) == "$1.50 or $12"
    assert read_references(["$1", {"a": "$2"}], 2, match) == [reference(1), {"a": reference(0)}]
    assert read_references("$1.city", 2, match) == reference(1, ("city",))
    assert read_references('$1["city"][0]', 2, match) == reference(1, ("city", 0))
    assert read_references("$1", 2, {}) == reference(-1)  # a sub-task that is matched with none
    assert read_references(reference(0), 0, match) == " $1"  # a plan cannot write one


@pytest.mark.parametrize(
    ("gold", "planned", "match"),
    [
        ("$1.city", "$1.city", 1.0),
        ("$1.city", '$1["city"]', 1.0),
        ("$1", "$1.city", 1.0),  # gold does not say which part
        ("$1.city", "$1", 0.0),
        ("$1.city", "$1.country", 0.0),
        ("$1.city", "$1.citys", 0.0),
        ("$1.items[0].id", "$1.items[1].id", 0.0),
        ("$1.items[0].id", "$1.items[0].id", 1.0),
        (["$1.a", {"x": "$1.b"}], ["$1.a", {"x": "$1.b"}], 1.0),
        (["$1.a", {"x": "$1.b"}], ["$1.b", {"x": "$1.a"}], 0.0),
    ],
)
def test_a_way_into_a_result_has_to_be_the_gold_one(task, gold, planned, match):
    calls = (
        GoldCall("get_news", {"city": "a"}),
        GoldCall("send_text", {"to": "p", "message": "v"}, references={"message": gold}),
    )
    chained = replace(task, gold=calls)
    plan = Plan((SubTask("", "get_news", {"city": "a"}), SubTask("", "send_text", {"to": "p", "message": planned})))
    assert align_plan(plan, chained) == {0: 0, 1: 1}
    whole = parameter_reward(plan, chained)
    if not (isinstance(gold, list) and not match):  # of a list, the parts count by their words
        assert whole == pytest.approx((2 + match) / 3)
    assert (whole == 1) == bool(match)
