"""Comparing answers: SQuAD's normalisation by hand, and judges that answer as they like."""

from __future__ import annotations

import pytest

from cahl_pl.benchmarks.answers import CallableJudge, EndpointJudge, exact_match, f1, normalize, substring_match
from cahl_pl.errors import ConfigError


def strict_judge(question, gold, prediction):
    return gold == prediction


def test_normalisation():
    assert normalize(" The  U.S. president,\nan Adams! ") == "us president adams"
    assert normalize("theatre") == "theatre"


@pytest.mark.parametrize(
    ("prediction", "exact", "inside", "overlap"),
    [
        ("james madison", 1, 1, 1),
        ("The James Madison.", 1, 1, 1),
        ("It was James Madison", 0, 1, 2 * 2 / (4 + 2)),
        ("James Monroe", 0, 0, 2 * 1 / (2 + 2)),
        ("", 0, 0, 0),
        ("a the an", 0, 0, 0),
    ],
)
def test_scorers(prediction, exact, inside, overlap):
    gold = "James Madison"
    assert exact_match(prediction, gold) == exact
    assert substring_match(prediction, gold) == inside
    assert f1(prediction, gold) == pytest.approx(overlap)


def test_a_judge_by_its_import_path(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "my_judges", sys.modules[__name__])
    judge = CallableJudge("my_judges.strict_judge")
    assert (judge("q", "a", "a"), judge("q", "a", "b")) == (True, False)
    assert judge.options() == {"judge": "callable", "path": "my_judges.strict_judge"}
    with pytest.raises(ConfigError, match="cannot be imported"):
        CallableJudge("my_judges.nobody")
    with pytest.raises(ConfigError, match="is not a function"):
        CallableJudge("my_judges.pytest")


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [("Yes", True), ("**No.**", False), ("yes, since", True), ("Perhaps", None), ("Yesterday", None), ("", None)],
)
def test_a_judge_behind_an_interface(server, monkeypatch, reply, verdict):
    monkeypatch.setenv("JUDGE_KEY", "secret-7")
    server.replies = [(200, {"choices": [{"message": {"content": reply}}]})]
    judge = EndpointJudge(server.url + "/v1/", "m", "JUDGE_KEY")
    assert judge("q?", "{prediction}", "a") is verdict
    ((path, headers, body),) = server.requests
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer secret-7"
    assert (body["model"], body["temperature"]) == ("m", 0)
    assert "Reference answer: {prediction}\nGiven answer: a\n" in body["messages"][0]["content"]
    assert "secret-7" not in str(judge.options()) + str(vars(judge))


@pytest.mark.parametrize("reply", [[], {"choices": []}, {"choices": [{"message": None}]}, "x"])
def test_a_reply_of_another_form_is_no_verdict(server, reply):
    server.replies = [(200, reply)]
    assert EndpointJudge(server.url, "m", None)("q", "a", "b") is None
