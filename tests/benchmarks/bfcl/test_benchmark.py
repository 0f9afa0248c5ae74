"""BFCL as a whole: gold through plan, parsing and backends to BFCL's own checkers, and how turns follow each other."""

from __future__ import annotations

import pytest

from cahl_pl.benchmarks import BFCL
from cahl_pl.benchmarks.bfcl.benchmark import NEW_FUNCTIONS
from cahl_pl.benchmarks.bfcl.data import AST, CATEGORIES, MULTI_TURN
from cahl_pl.errors import ConfigError
from cahl_pl.types import Message, ToolCall

# What no output can get right, in bfcl-eval 2026.3.23, each with its reason.
OUT_OF_REACH = {
    "simple_java_36": "list of `any`: the converter makes every element a text, the answer has numbers and booleans",
    "simple_java_65": "list of `any`: likewise, booleans",
    "simple_java_64": "a value within a dictionary is a text instead of a list of texts, and read as its letters",
    "live_simple_106-63-0": "required parameters with an empty list of acceptable values",
    "live_simple_112-68-0": "required parameters with an empty list of acceptable values",
    "live_multiple_862-181-3": "the answer needs a parameter that the function does not declare",
    "live_multiple_964-207-0": "the answer needs an undeclared parameter and lacks the required one",
}


@pytest.fixture
def bench():
    made = []

    def make(*categories, **options):
        made.append(BFCL(list(categories) or None, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def failures(records):
    return {one["id"]: one["error"] for one in records if not one["success"]}


@pytest.mark.slow
@pytest.mark.parametrize("categories", [AST[:6], AST[6:], ("irrelevance", "live_irrelevance", "live_relevance")])
def test_gold_is_right_in_all_single_turn_entries(bench, gold, categories):
    benchmark = bench(*categories)
    records = benchmark.run(range(len(benchmark)), gold(benchmark))
    assert set(failures(records)) == {name for name in OUT_OF_REACH if name.rsplit("_", 1)[0] in categories}
    assert all(not error.startswith("checker: ") for error in failures(records).values())


@pytest.mark.slow
@pytest.mark.parametrize("category", MULTI_TURN)
def test_gold_is_right_in_all_multi_turn_entries(bench, gold, category):
    benchmark = bench(category)
    records = benchmark.run(range(len(benchmark)), gold(benchmark))
    assert failures(records) == {}
    assert len(records) == 200


def test_gold_of_a_share_of_all_categories(bench, gold):
    benchmark = bench(max_tasks=51)
    records = benchmark.run(range(51), gold(benchmark))
    assert failures(records) == {}
    scores = benchmark.score(records)
    assert scores["overall"] == scores["non_live_ast"] == scores["multi_turn"] == 1
    assert len(scores) == 17 + 8
    assert benchmark.denominators(records) == {**dict.fromkeys(CATEGORIES, 3), "all": 51}
    assert benchmark.remarks(records) == []


@pytest.mark.parametrize("category", ["simple_python", "multiple", "parallel", "live_simple", "multi_turn_base"])
def test_other_calls_are_wrong(bench, writing, category):
    benchmark = bench(category, max_tasks=3)
    wrong = writing(lambda task: [ToolCall(task.tools[0].name, {}), ToolCall("nobody", {"x": 1})])
    assert len(failures(benchmark.run(range(3), wrong))) == 3
    assert len(failures(benchmark.run(range(3), writing(lambda task: ["no"])))) == 3


def test_irrelevance_and_relevance(bench, writing):
    benchmark = bench("irrelevance", "live_relevance", max_tasks=2)
    call, unreadable = (lambda task: [ToolCall("f", {})]), (lambda task: "no plan")
    assert [one["success"] for one in benchmark.run([0, 1], writing(call))] == [False, True]
    records = benchmark.run([0, 1], writing(unreadable))
    assert [one["success"] for one in records] == [True, False]
    assert "1 of 1 right answers in irrelevance are plans that could not be read" in benchmark.remarks(records)[-1]


def test_a_turn_sees_the_turns_before(bench, gold):
    benchmark = bench("multi_turn_miss_func", max_tasks=1)
    evaluate = gold(benchmark)
    (one,) = benchmark.run([0], evaluate)
    assert one["success"]
    assert [task.id for task in evaluate.tasks] == [
        "multi_turn_miss_func_0",
        *(f"multi_turn_miss_func_0/{turn}" for turn in (1, 2, 3, 4)),
    ]
    first, second, _, fourth, _ = evaluate.tasks
    assert second.messages[: len(first.messages)] == first.messages
    assert second.messages[1].content == '<tool_call>{"name": "cd", "parameters": {"folder": "document"}}</tool_call>'
    assert second.messages[2] == Message("tool", '{"current_working_directory": "document"}')
    assert fourth.messages[-1] == Message("user", NEW_FUNCTIONS)
    assert [any(tool.name == "sort" for tool in task.tools) for task in evaluate.tasks] == [False] * 3 + [True] * 2
    assert one["turns"][1] == ["cd(folder='temp')", "grep(file_name='final_report.pdf', pattern='budget analysis')"]
    assert one["counts"]["calls"] == 10
    assert one["counts"]["surplus"] == 0


def test_what_was_not_run_is_named_and_not_counted(bench, gold):
    benchmark = bench("multiple", "live_relevance", max_tasks=4, scheme="v4")
    records = benchmark.run(range(4), gold(benchmark))
    assert benchmark.score(records) == {"relevance_detection": 1.0, "multiple": 1.0, "live_relevance": 1.0}
    (remark,) = benchmark.remarks(records)
    assert remark.startswith("not run, and no part of any score: simple_python, simple_java, ")
    assert "multiple, " not in remark.replace("parallel_multiple", "").replace("live_multiple", "")
    assert "agentic" in benchmark.scheme


def test_wrong_options_are_named():
    with pytest.raises(ConfigError, match="BFCL has no category 'memory'"):
        BFCL(["memory"])
    with pytest.raises(ConfigError, match="BFCL has no scheme 'v5' here"):
        BFCL(["multiple"], scheme="v5")
