"""Bamboogle: the rounds of a question, its scorers, and what the report says of search and judge."""

from __future__ import annotations

import json

import pytest

from cahl_pl.benchmarks import Bamboogle, RecordedSearch
from cahl_pl.benchmarks.answers import Judge
from cahl_pl.benchmarks.bamboogle import LAST_ROUND
from cahl_pl.datasets import DataError
from cahl_pl.errors import ConfigError
from cahl_pl.types import Message, ToolCall


class Kind(Judge):
    """Says yes to what holds the word, nothing clear to a question mark."""

    def __init__(self):
        self.asked = []

    def __call__(self, question, gold, prediction):
        self.asked.append((question, gold, prediction))
        return None if "?" in prediction else "Madison" in prediction

    def options(self):
        return {"judge": "kind"}


@pytest.fixture
def search(tmp_path):
    path = tmp_path / "answers.json"
    path.write_text(json.dumps({"citibank": ["founded in 1812"], "president 1812": ["James Madison"]}))
    return RecordedSearch(str(path))


@pytest.fixture
def bench(tmp_path, search):
    questions = [
        {"Question": "Which president?", "Answer": "james madison"},
        {"Question": "Which rocket?", "Answer": "Titan"},
    ]
    (tmp_path / "questions.json").write_text(json.dumps(questions))
    return lambda **options: Bamboogle(tmp_path / "questions.json", search, **options)


def find(query):
    return ToolCall("search", {"query": query})


def test_later_rounds_see_what_was_found(bench, writing):
    rounds = [[find("citibank")], [find("president 1812"), "James Madison."]]
    evaluate = writing(lambda task: rounds[task.id.count("/")])
    (one,) = bench().run([0], evaluate)
    first, second = evaluate.tasks
    assert second.messages == (
        *first.messages,
        Message("assistant", '<tool_call>{"name": "search", "parameters": {"query": "citibank"}}</tool_call>'),
        Message("tool", '["founded in 1812"]'),
    )
    assert (one["prediction"], one["rounds"], one["success"]) == ("James Madison.", 2, True)
    assert one["counts"]["calls_in_successes"] == 2


def test_the_last_round_asks_for_an_answer_and_offers_no_tool(bench, writing):
    evaluate = writing(lambda task: [find("citibank")])
    (one,) = bench(rounds=3).run([0], evaluate)
    assert [len(task.tools) for task in evaluate.tasks] == [1, 1, 0]
    assert [task.messages[-1].role for task in evaluate.tasks] == ["user", "tool", "user"]
    assert evaluate.tasks[-1].messages[-1].content == LAST_ROUND
    assert (one["prediction"], one["rounds"], one["success"]) == (None, 3, False)
    assert one["episodes"][-1]["steps"][0]["error"] == "unknown_tool"


def test_a_single_round_may_search(bench, writing):
    evaluate = writing(lambda task: [find("citibank"), "1812"])
    (one,) = bench(rounds=1).run([0], evaluate)
    assert (len(evaluate.tasks[0].tools), one["prediction"]) == (1, "1812")


def test_a_round_with_neither_call_nor_answer_ends_the_question(bench, writing):
    evaluate = writing(lambda task: "no plan" if "president" in task.messages[0].content else [find("x")])
    first, second = bench().run([0, 1], evaluate)
    assert (first["rounds"], first["prediction"], second["rounds"]) == (1, None, 4)
    assert len(evaluate.tasks) == 5


def test_scores(bench, writing):
    judge = Kind()
    benchmark = bench(judge=judge)
    answers = {"Which president?": ["It was James Madison"], "Which rocket?": "no plan"}
    records = benchmark.run([0, 1], writing(lambda task: answers[task.messages[0].content]))
    assert benchmark.score(records) == {
        "overall": 0.5,  # the judge's
        "exact_match": 0,
        "substring_match": 0.5,
        "f1": pytest.approx((2 * 2 / 6) / 2),
        "judge": 0.5,
        "answered": 0.5,
        "searches_per_question": 0,
    }
    assert judge.asked == [("Which president?", "james madison", "It was James Madison")]
    assert bench().score(records)["overall"] == 0.5  # `success` was recorded
    assert "judge" not in bench().score(records)


def test_an_unclear_verdict_is_wrong_and_counted(bench, writing):
    benchmark = bench(judge=Kind())
    records = benchmark.run([0], writing(lambda task: ["?"]))
    assert benchmark.score(records)["judge"] == 0
    assert benchmark.remarks(records) == ["1 verdict of the judge was neither Yes nor No and counted as wrong"]


def test_the_report_says_what_was_used(bench):
    options = bench(judge=Kind(), rounds=2, headline="exact_match").options()
    assert options["search"]["search"] == "recorded"
    assert (options["judge"], options["rounds"]) == ({"judge": "kind"}, 2)
    assert bench(rounds=2).scheme == "exact match, 2 rounds of search"
    assert bench(judge=Kind()).scheme == "judge, 4 rounds of search"


def test_wrong_options_and_rows_are_named(bench, tmp_path, search):
    with pytest.raises(ConfigError, match="rounds must be at least 1"):
        bench(rounds=0)
    with pytest.raises(ConfigError, match="needs a judge"):
        bench(headline="judge")
    (tmp_path / "bad.json").write_text('[{"Question": "q", "Answer": 3}]')
    with pytest.raises(DataError, match=r"bad\.json, row 1 .*'Answer' must be text"):
        Bamboogle(tmp_path / "bad.json", search)


def test_the_real_questions(data_dir, search, writing):
    benchmark = Bamboogle(data_dir / "bamboogle" / "data.json", search)
    assert len(benchmark) == 125
    gold = {question: answer for question, answer in benchmark.questions}
    records = benchmark.run(range(125), writing(lambda task: [gold[task.messages[0].content]]))
    assert benchmark.score(records)["exact_match"] == 1.0
