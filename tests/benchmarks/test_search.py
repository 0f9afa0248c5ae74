"""Search back ends, and the tool that the model sees."""

from __future__ import annotations

import json

import pytest

from cahl_pl.benchmarks.search import SEARCH_TOOL, BM25Search, HTTPSearch, RecordedSearch, Search, SearchEnvironment
from cahl_pl.errors import ConfigError
from cahl_pl.types import Message, Task, ToolCall

TASK = Task("t", (Message("user", "q"),), (SEARCH_TOOL,))


class Echo(Search):
    def __init__(self):
        self.queries = []

    def __call__(self, query):
        self.queries.append(query)
        return [f"about {query}", "\ud800"]

    def options(self):
        return {}


@pytest.fixture
def texts(tmp_path):
    (tmp_path / "deep").mkdir()
    paragraphs = ["Oslo is the capital of Norway.", "Rome lies in Italy.", "", "The bank was founded."]
    (tmp_path / "deep" / "a.txt").write_text("\n\n".join(paragraphs))
    (tmp_path / "b.txt").write_bytes(b"Bergen is a city in Norway \xff too.")
    (tmp_path / "c.md").write_text("Norway")
    return str(tmp_path)


def test_bm25_finds_paragraphs(texts):
    pytest.importorskip("bm25s", reason="bm25s is not installed: pip install bm25s")
    search = BM25Search(texts, passages=2)
    assert search("capital of Norway")[0] == "Oslo is the capital of Norway."
    assert len(search("Norway")) == 2
    assert search("Rome?") == ["Rome lies in Italy."]
    assert search("zebra") == search("the of") == search("\ud800 ?") == search("") == []
    assert search.options()["corpus_passages"] == 4


def test_a_folder_without_texts_is_refused(tmp_path):
    pytest.importorskip("bm25s", reason="bm25s is not installed: pip install bm25s")
    with pytest.raises(ConfigError, match=r"holds no \*\.txt file"):
        BM25Search(str(tmp_path))


def test_recorded_answers(tmp_path):
    path = tmp_path / "answers.json"
    path.write_text(json.dumps({"Who is  Ann?": ["one", "two", "three"]}))
    search = RecordedSearch(str(path), passages=2)
    assert search(" who IS ann? ") == ["one", "two"]
    assert search("who") == []
    path.write_text("[1]")
    with pytest.raises(ConfigError, match="must hold an object"):
        RecordedSearch(str(path))
    with pytest.raises(ConfigError, match="cannot be read"):
        RecordedSearch(str(tmp_path / "no.json"))


def test_a_web_search(server, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret-7")
    organic = [{"title": "T", "snippet": "s"}, {"title": "U"}, {}, 7]
    server.replies = [(200, {"answerBox": {"title": "Box", "answer": "42"}, "organic": organic})]
    search = HTTPSearch(server.url, "MY_KEY", passages=3)
    assert search("q?") == ["Box: 42", "T: s", "U"]
    ((_, headers, body),) = server.requests
    assert body == {"q": "q?"}
    assert {key.lower(): value for key, value in headers.items()}["x-api-key"] == "secret-7"
    assert "secret-7" not in str(search.options()) + str(vars(search))


@pytest.mark.parametrize("reply", [[], {}, {"organic": None, "answerBox": []}, {"organic": [None]}])
def test_a_reply_without_results_finds_nothing(server, reply):
    server.replies = [(200, reply)]
    assert HTTPSearch(server.url, None)("q") == []


def test_a_web_search_without_its_key_is_refused_at_once(monkeypatch):
    monkeypatch.delenv("SERPER_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="SERPER_API_KEY"):
        HTTPSearch()


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (ToolCall("search", {"query": " x " + "y" * 1000}), None),
        (ToolCall("search", {"query": 7}), None),
        (ToolCall("search", {"query": "  "}), "tool"),
        (ToolCall("search", {}), "missing"),
        (ToolCall("find", {"query": "x"}), "unknown_tool"),
    ],
)
def test_the_tool(call, error):
    search = Echo()
    feedback = SearchEnvironment(search).start(TASK).call(call)
    assert feedback.error == error
    assert bool(search.queries) is (error is None)
    if search.queries:
        assert len(search.queries[0]) <= 400
        assert json.loads(feedback.text) == [f"about {search.queries[0]}", "?"]
