from __future__ import annotations

import copy
from collections import Counter
from itertools import islice

import jsonschema
import pytest

from cahl_pl.rollout.gold import gold_plan
from cahl_pl.toolworld import SPLITS, ToolError, ToolWorld2, toolkit
from cahl_pl.toolworld.compounds import CODE, CODED_DOMAINS, find_tool, links
from cahl_pl.toolworld.generate import split_of
from cahl_pl.toolworld.granularity import SPOILT, generate_choices
from cahl_pl.types import Outcome


@pytest.fixture(scope="module", params=SPLITS)
def tasks(request):
    """250 tasks of a split."""
    return list(islice(generate_choices(request.param, seed=3), 250))


def ways(task):
    return [task.gold, *task.alternatives]


def run(task, way):
    """Results of a way's calls, references resolved by the results of this very run, and the state afterwards."""
    state = copy.deepcopy(task.state)
    tools = toolkit(state)
    results = []
    for call in way:
        arguments = dict(call.arguments)
        for parameter, reference in call.references.items():
            arguments[parameter] = results[int(reference[1:]) - 1]
        results.append(tools[call.name](**arguments))
    return results, state


def test_every_way_can_be_executed_and_leads_to_the_same(tasks):
    for task in tasks:
        found = [run(task, way) for way in ways(task)]
        for way, (results, state) in zip(ways(task), found, strict=True):
            assert results == [call.result for call in way], task.id
            assert state == found[0][1], task.id
            if task.gold and task.outcome.state is not None:
                assert state == task.outcome.state
            for asked in task.outcome.results if task.gold else ():
                assert asked in results


def test_ways_differ_and_fit_the_schemas(tasks):
    for task in tasks:
        names = [tool.name for tool in task.tools]
        assert len(set(names)) == len(names)
        assert {name for way in ways(task) for name in (call.name for call in way)} <= set(names)
        assert len({tuple(call.name for call in way) for way in ways(task)}) == len(ways(task))
        for way in ways(task):
            for call in way:
                jsonschema.validate(dict(call.arguments), dict(task.tool(call.name).parameters))
                assert call.instruction


def test_a_chain_of_three_has_four_ways_and_a_chain_of_two_has_two(tasks):
    expected = {"none": {1}, "single": {1}, "chain of 2": {2}, "chain of 3": {4}, "pair": {2}}
    found = {kind: {len(ways(t)) for t in tasks if t.tags["kind"] == kind} for kind in expected}
    assert found == expected


def test_the_first_way_is_any_of_them(tasks):
    lengths = Counter(len(t.gold) for t in tasks if t.tags["kind"] == "chain of 2")
    assert min(lengths[1], lengths[2]) > 0.3 * lengths.total()


def test_what_compounds_of_some_domains_want_stands_in_their_schema_alone(tasks):
    coded = 0
    for task in tasks:
        text = task.request + "".join(tool.name + tool.description for tool in task.tools)
        for way in ways(task):
            for call, step in zip(way, gold_plan(task, in_words=True), strict=False):
                if CODE in call.arguments:
                    coded += 1
                    assert call.arguments[CODE] not in text
                    assert call.arguments[CODE] not in step.instruction
    assert coded > 20


def test_a_wrong_code_is_refused():
    task = next(t for t in generate_choices("train", 0) if any(CODE in c.arguments for c in t.gold))
    call = next(c for c in task.gold if CODE in c.arguments)
    tools = toolkit(copy.deepcopy(task.state))
    with pytest.raises(ToolError, match="wrong via"):
        tools[call.name](**{**call.arguments, CODE: "ZZ00"})
    with pytest.raises(ToolError, match="missing via"):
        tools[call.name](**{name: value for name, value in call.arguments.items() if name != CODE})


def test_unseen_tools_are_in_the_gold_of_their_split_and_nowhere_else():
    def unseen(task):
        return [call.name for call in task.gold if find_tool(task.state["aliases"][call.name]["tool"]).unseen]

    for split in SPLITS:
        tasks = [t for t in islice(generate_choices(split, 5), 150) if t.gold]
        assert all(bool(unseen(t)) == (split == "test_unseen_tools") for t in tasks if len(t.alternatives) > 0)
        assert all(split_of(t.request) == ("train" if split == "train" else "test") for t in tasks)


def test_plans_in_words_hold_what_the_calls_need(tasks):
    for task in filter(lambda task: task.gold, tasks):
        for call, step in zip(task.gold, gold_plan(task, in_words=True), strict=True):
            assert step.parameters == {}
            for name, value in call.planned.arguments.items():
                if name != CODE and not isinstance(value, bool):
                    assert str(value) in step.instruction, (task.id, step)


def test_a_habit_spoils_what_it_says_and_nothing_else():
    right, no_codes, literal = (
        list(islice(generate_choices("train", 1, habit=habit), 60))
        for habit in ("none", "no_codes", "literal_references")
    )
    assert any(CODE in call.arguments for task in right for call in task.gold)
    assert not any(CODE in call.arguments for task in no_codes for way in ways(task) for call in way)
    changed = 0
    for good, bad in zip(right, literal, strict=True):
        assert (good.request, good.state, good.outcome) == (bad.request, bad.state, bad.outcome)
        for one, other in zip(good.gold, bad.gold, strict=True):
            assert {**one.arguments, **one.references} == other.arguments
            changed += one.arguments != other.arguments
    assert changed > 5


def test_unsure_gold_leaves_codes_out_and_is_wrong_in_six_of_ten_references():
    right, unsure = (list(islice(generate_choices("train", 1, habit=habit), 400)) for habit in ("none", "unsure"))
    codes, results = 0, []
    for good, bad in zip(right, unsure, strict=True):
        assert (good.request, good.state, good.outcome) == (bad.request, bad.state, bad.outcome)
        for one, other in zip(good.gold, bad.gold, strict=True):
            assert CODE not in other.arguments
            codes += CODE in one.arguments
            results += [other.arguments[name] == reference for name, reference in one.references.items()]
            for name in one.arguments.keys() - one.references.keys() - {CODE}:
                assert one.arguments[name] == other.arguments[name]
    assert min(codes, len(results)) > 50
    assert sum(results) / len(results) == pytest.approx(SPOILT, abs=0.12)


def test_links_join_what_means_the_same_and_some_compounds_want_codes():
    assert len(links()) == 56
    domains = {link.tool.domain for _, link in links()}
    assert set(CODED_DOMAINS) < domains


def test_the_dataset_is_the_stream_and_refuses_what_it_does_not_know():
    assert ToolWorld2("test", 3, 7)[2] == next(generate_choices("test", 7, start=2))
    assert all(isinstance(task.outcome, Outcome) for task in ToolWorld2(size=5))
    with pytest.raises(ValueError, match="habit 'bad'"):
        ToolWorld2(habit="bad")
    with pytest.raises(ValueError, match="kinds of tasks"):
        ToolWorld2(proportions={"nested": 1.0})[0]
