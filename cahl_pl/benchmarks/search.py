"""Search engines for Bamboogle: a folder of texts, an HTTP interface, or recorded answers."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from cahl_pl.environments.base import Environment, Session, failure, refusal
from cahl_pl.errors import ConfigError
from cahl_pl.http_client import key_from, post_json
from cahl_pl.python_tools.results import json_text
from cahl_pl.types import Feedback, Task, ToolCall, ToolSpec

SEARCH_TOOL = ToolSpec(
    "search",
    "Searches for passages about a query.",
    {
        "type": "object",
        "properties": {"query": {"type": "string", "description": "What to search for."}},
        "required": ["query"],
    },
)
_MAX_QUERY = 400


class Search(ABC):
    """Search for passages."""

    @abstractmethod
    def __call__(self, query: str) -> list[str]:
        """Return the best passages for a query, best first; empty when nothing was found."""

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """Return its kind and settings, as JSON values; never a secret."""


class BM25Search(Search):
    """BM25 over the text files of a folder, by `bm25s` (`pip install bm25s`). A paragraph is a passage.

    Args:
        folder: folder with `*.txt`, in sub-folders too; UTF-8, paragraphs separated by blank lines.
        passages: number of passages to return.

    Raises:
        ConfigError: `bm25s` is not installed, or the folder contains no text.
    """

    def __init__(self, folder: str, passages: int = 5) -> None:
        try:
            import bm25s
        except ImportError:
            raise ConfigError("BM25Search needs bm25s: pip install bm25s") from None
        texts = [path.read_text(encoding="utf-8", errors="replace") for path in sorted(Path(folder).rglob("*.txt"))]
        self._texts = [part.strip() for text in texts for part in text.split("\n\n") if part.strip()]
        if not self._texts:
            raise ConfigError(f"BM25Search: the folder {folder!r} holds no *.txt file with text")
        self._tokenize = bm25s.tokenize
        self._index = bm25s.BM25()
        self._index.index(self._tokenize(self._texts, show_progress=False), show_progress=False)
        self._options = {"search": "bm25", "folder": folder, "passages": passages, "corpus_passages": len(self._texts)}
        self.passages = passages

    def __call__(self, query: str) -> list[str]:
        """Return the passages of positive score."""
        tokens = self._tokenize(query, show_progress=False, return_ids=False)
        if not tokens[0]:  # only stop words and punctuation
            return []
        count = min(self.passages, len(self._texts))
        found, scores = self._index.retrieve(tokens, k=count, show_progress=False)
        return [self._texts[int(i)] for i, score in zip(found[0], scores[0], strict=True) if score > 0]

    def options(self) -> dict[str, Any]:
        """Return the folder, the number of passages returned, and the size of the corpus."""
        return self._options


class HTTPSearch(Search):
    """Web search by HTTP in the form of google.serper.dev: `{"q": query}` returns `answerBox` and `organic`.

    The key is read from an environment variable for each request, is not stored, and appears in no message.

    Args:
        url: URL of the interface; https, or this machine.
        key_variable: the environment variable that contains the key; None for an interface without one.
        key_header: the header for the key.
        passages: number of passages to return.
        timeout: time limit of a request in seconds.
        retries: further attempts if an interface is busy or does not answer.

    Raises:
        ConfigError: the variable is not set, or the key would be sent over the network unencrypted.
    """

    def __init__(
        self,
        url: str = "https://google.serper.dev/search",
        key_variable: str | None = "SERPER_API_KEY",
        key_header: str = "X-API-KEY",
        passages: int = 5,
        timeout: float = 20.0,
        retries: int = 2,
    ) -> None:
        key_from(key_variable, url)  # now rather than after the first plan
        self.url, self.key_variable, self.key_header = url, key_variable, key_header
        self.passages, self.timeout, self.retries = passages, timeout, retries

    def __call__(self, query: str) -> list[str]:
        """Return the answer box and the first results, each `title: snippet`.

        Raises:
            ConfigError: the interface refuses, or still does not answer after the retries: counting that as "nothing found"
                would change the score.
        """
        key = key_from(self.key_variable, self.url)
        headers = {} if key is None else {self.key_header: key}
        reply = post_json(self.url, {"q": query}, headers, self.timeout, self.retries)
        box = reply.get("answerBox") if isinstance(reply, dict) else None
        organic = reply.get("organic") if isinstance(reply, dict) else None
        found = [box] if isinstance(box, dict) else []
        found += [one for one in organic if isinstance(one, dict)] if isinstance(organic, list) else []
        texts = [": ".join(str(one[k]) for k in ("title", "answer", "snippet") if one.get(k)) for one in found]
        return [text for text in texts if text][: self.passages]

    def options(self) -> dict[str, Any]:
        """Return all but the key."""
        return {
            "search": "http",
            "url": self.url,
            "key_variable": self.key_variable,
            "passages": self.passages,
            "timeout": self.timeout,
        }


class RecordedSearch(Search):
    """Search in a JSON file `{query: [passage, ...]}`; a query that is missing from it finds nothing.

    Case and white space of queries do not matter.

    Args:
        path: the file.
        passages: number of passages to return.

    Raises:
        ConfigError: the file is missing or is not such an object.
    """

    def __init__(self, path: str, passages: int = 5) -> None:
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"RecordedSearch: {path} cannot be read ({error}); give its `path` a JSON file of query -> list of passages, "
                "or choose another search"
            ) from None
        if not isinstance(content, dict) or not all(isinstance(value, list) for value in content.values()):
            raise ConfigError(f"RecordedSearch: {path} must hold an object of query -> list of passages")
        self._answers = {_normal(query): [str(one) for one in found] for query, found in content.items()}
        self.passages = passages
        self._options = {"search": "recorded", "path": path, "passages": passages, "queries": len(content)}

    def __call__(self, query: str) -> list[str]:
        """Return the passages recorded for this query."""
        return self._answers.get(_normal(query), [])[: self.passages]

    def options(self) -> dict[str, Any]:
        """Return the file, the number of passages returned, and the number of queries."""
        return self._options


class SearchEnvironment(Environment):
    """Environment with one tool, `search`.

    Args:
        search: the search engine.
    """

    def __init__(self, search: Search) -> None:
        self.search = search

    def start(self, task: Task) -> Session:
        """Return a session; searches share no state."""
        return _SearchSession(task, self.search)


class _SearchSession(Session):
    def __init__(self, task: Task, search: Search) -> None:
        self._task, self._search = task, search

    def call(self, call: ToolCall) -> Feedback:
        refused = refusal(call, self._task)
        if refused is not None:
            return refused
        query = str(call.arguments["query"]).strip()[:_MAX_QUERY]
        if not query:
            return failure("the query is blank", "tool")
        return Feedback(json_text(self._search(query)))


def _normal(query: str) -> str:
    return " ".join(query.lower().split())
