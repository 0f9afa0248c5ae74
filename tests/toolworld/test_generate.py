from __future__ import annotations

import copy
import json
import re
from collections import Counter
from itertools import islice
from statistics import mean

import jsonschema
import pytest

from cahl_pl.toolworld import PROPORTIONS, SPLITS, ToolError, generate_tasks, toolkit
from cahl_pl.toolworld.generate import NO_TOOL, SMALL_TALK, split_of
from cahl_pl.toolworld.tools import TOOLS


@pytest.fixture(scope="module")
def tasks():
    """500 tasks of each split."""
    return {split: list(islice(generate_tasks(split, seed=3), 500)) for split in SPLITS}


@pytest.fixture(params=SPLITS)
def split(request):
    return request.param


def tool_of(task, name):
    return TOOLS[task.state["aliases"][name]["tool"]]


def run(task, calls):
    """Each call's result, references resolved by the results of this very run."""
    tools = toolkit(copy.deepcopy(task.state))
    results = {}
    for number, call in calls:
        arguments = dict(call.arguments)
        for parameter, reference in call.references.items():
            arguments[parameter] = results[int(reference[1:])]
        try:
            results[number] = tools[call.name](**arguments)
        except ToolError as error:
            results[number] = {"error": str(error)}
    return results


def test_gold_is_executable(tasks, split):
    for task in tasks[split]:
        calls = list(enumerate(task.gold, start=1))
        expected = {number: call.result for number, call in calls}
        assert run(task, calls) == expected, task.id
        if not task.ordered:
            assert run(task, calls[::-1]) == expected, task.id


def test_gold_calls_fit_their_schemas(tasks, split):
    for task in tasks[split]:
        assert {tool.name for tool in task.tools} == set(task.state["aliases"])
        for call in task.gold:
            validator = jsonschema.Draft202012Validator(task.tool(call.name).parameters)
            assert validator.is_valid(dict(call.arguments)), call


def test_state_is_json(tasks, split):
    for task in tasks[split]:
        assert json.loads(json.dumps(task.state)) == task.state


def test_references(tasks, split):
    for task in tasks[split]:
        for number, call in enumerate(task.gold, start=1):
            for parameter, reference in call.references.items():
                index = int(reference.removeprefix("$"))
                assert 1 <= index < number
                assert call.arguments[parameter] == task.gold[index - 1].result
        assert task.ordered == any(call.references for call in task.gold)


def test_kinds(tasks, split):
    for task in tasks[split]:
        kind, count = task.tags["kind"], len(task.gold)
        errors = [isinstance(call.result, dict) for call in task.gold]
        nested = any(call.references for call in task.gold)
        assert task.tags["calls"] == str(count)
        assert count <= 4
        if kind == "none":
            assert task.answer in SMALL_TALK
            assert count == 0
        else:
            assert task.answer is None
            assert errors == [False] * (count - 1) + [kind == "error"]
        if kind in ("single", "parallel", "nested"):
            assert nested == (kind == "nested")
            assert (count == 1) == (kind == "single")


def test_both_ways_to_fail_and_all_depths_occur(tasks):
    errors = [task.gold[-1].result["error"] for task in tasks["train"] if task.tags["kind"] == "error"]
    assert sum(error.startswith("no ") for error in errors) >= 10
    assert sum(not error.startswith("no ") for error in errors) >= 5
    nested = [task for task in tasks["train"] if task.tags["kind"] == "nested"]
    assert {sum(bool(call.references) for call in task.gold) for task in nested} == {1, 2}
    assert {len(task.gold) for task in tasks["train"]} == {0, 1, 2, 3, 4}


def test_requests_hold_every_literal_argument(tasks, split):
    for task in tasks[split]:
        for call in task.gold:
            for parameter, value in call.arguments.items():
                if parameter in call.references:
                    continue
                text = {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
                assert re.search(rf"(?<![\w.]){re.escape(text)}(?!\w)", task.request), (task.request, value)


def test_offers(tasks, split):
    for task in tasks[split]:
        names = [tool.name for tool in task.tools]
        assert 4 <= len(names) == len(set(names)) <= 6
        gold = {call.name for call in task.gold}
        assert gold < set(names)


def test_distractors_often_are_siblings(tasks, split):
    calling = [task for task in tasks[split] if task.gold]
    with_sibling = 0
    for task in calling:
        gold = {call.name for call in task.gold}
        domains = {tool_of(task, name).domain for name in gold}
        with_sibling += any(tool.name not in gold and tool_of(task, tool.name).domain in domains for tool in task.tools)
    assert with_sibling / len(calling) > 0.95


def test_proportions(split):
    # 800 draws: a standard deviation is 1.7 % at most.
    kinds = Counter(task.tags["kind"] for task in islice(generate_tasks(split, seed=8), 800))
    for kind, share in PROPORTIONS.items():
        assert kinds[kind] / 800 == pytest.approx(share, abs=0.05), kind


def test_own_proportions():
    tasks = islice(generate_tasks("train", 0, proportions={"single": 1, "error": 3}), 200)
    kinds = Counter(task.tags["kind"] for task in tasks)
    assert set(kinds) == {"single", "error"}
    assert 25 <= kinds["single"] <= 75


@pytest.mark.parametrize(
    ("split", "proportions", "message"),
    [
        ("valid", PROPORTIONS, "Unknown ToolWorld split 'valid': use one of train, test, test_unseen_tools"),
        ("train", {"twice": 1}, r"Unknown kinds of tasks \['twice'\]"),
        ("train", {"none": -1, "single": 2}, "give weights >= 0, not all zero"),
        ("train", {"none": 0}, "give weights >= 0, not all zero"),
        ("train", {}, "give weights >= 0, not all zero"),
    ],
)
def test_bad_requests_for_tasks(split, proportions, message):
    with pytest.raises(ValueError, match=message):
        generate_tasks(split, 0, proportions=proportions)


def test_determinism_and_resuming(tasks, split):
    assert list(islice(generate_tasks(split, seed=3, start=40), 10)) == tasks[split][40:50]
    assert tasks[split][17].id == f"{split}-3-17"
    other = islice(generate_tasks(split, seed=4), 50)
    assert [task.request for task in other] != [task.request for task in tasks[split][:50]]


def test_stream_is_the_same_on_every_machine():
    # Frozen: numbers are published for (split, seed, index). Renew it when the world changes on purpose.
    task = next(generate_tasks("test", 0))
    first = "Check the birthday for Nifido, then get the very first letter of it; next, give me that in reverse."
    assert task.request == first


def test_splits_are_disjoint(tasks):
    assert {split_of(task.request) for task in tasks["train"]} == {"train"}
    assert {split_of(task.request) for task in tasks["test"] + tasks["test_unseen_tools"]} == {"test"}
    requests = {split: {task.request.lower() for task in tasks[split]} for split in SPLITS}
    assert not requests["train"] & (requests["test"] | requests["test_unseen_tools"])


def test_unseen_tools_are_unseen(tasks):
    for split in ("train", "test"):
        for task in tasks[split]:
            assert not any(tool_of(task, tool.name).unseen for tool in task.tools), task.id
    for task in tasks["test_unseen_tools"]:
        names = [call.name for call in task.gold] or [tool.name for tool in task.tools]
        assert any(tool_of(task, name).unseen for name in names), task.id


def test_every_tool_is_asked_for():
    for split, unseen in (("train", False), ("test_unseen_tools", True)):
        tasks = islice(generate_tasks(split, 1, proportions={"single": 1}), 600)
        asked = {tool_of(task, call.name).id for task in tasks for call in task.gold}
        assert asked == {name for name, tool in TOOLS.items() if tool.unseen == unseen}


def test_no_offered_tool_serves_a_request_without_calls(tasks):
    # The nouns of a request that no tool serves name no offered tool.
    for task in tasks["train"] + tasks["test"] + tasks["test_unseen_tools"]:
        if task.answer != NO_TOOL:
            continue
        for tool in task.tools:
            for phrase in tool_of(task, tool.name).asks + tool_of(task, tool.name).orders:
                pattern = re.sub(r"\\\{\w+\\\}", ".+", re.escape(phrase))
                assert not re.search(rf"\b{pattern}", task.request.rstrip(".?")), (task.request, phrase)


def test_text_is_short(tasks, split):
    words = [len(task.request.split()) for task in tasks[split]]
    assert min(words) >= 5
    assert max(words) <= 35
    assert mean(words) < 15
    tools = [tool for task in tasks[split] for tool in task.tools]
    assert mean(len(f"{tool.name} {tool.description}") for tool in tools) < 45


def test_requests_are_sentences(tasks, split):
    for task in tasks[split]:
        assert task.request[-1] in ".?!"
        assert not task.request[0].islower()
        assert "{" not in task.request
        assert "  " not in task.request
        assert task.messages[-1].role == "user"
