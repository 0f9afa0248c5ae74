"""Comparing answers in text: exact match, sub-string match and F1 after SQuAD's normalisation, and judges."""

from __future__ import annotations

import re
import string
from abc import ABC, abstractmethod
from collections import Counter
from typing import Any, Final

from cahl_pl.http_client import key_from, post_json
from cahl_pl.import_path import import_function

_ARTICLES: Final = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)


def normalize(text: str) -> str:
    """Return a text in lower case, without punctuation, articles and surplus white space (SQuAD's script, arXiv 1606.05250)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, gold: str) -> float:
    """Return 1.0 if both are the same once normalised, else 0.0."""
    return float(normalize(prediction) == normalize(gold))


def substring_match(prediction: str, gold: str) -> float:
    """Return 1.0 if the prediction contains the gold, both normalised, else 0.0."""
    return float(normalize(gold) in normalize(prediction))


def f1(prediction: str, gold: str) -> float:
    """Return the harmonic mean of precision and recall over the normalised words."""
    predicted, wanted = Counter(normalize(prediction).split()), Counter(normalize(gold).split())
    common = (predicted & wanted).total()
    return 2 * common / (predicted.total() + wanted.total()) if common else 0.0


class Judge(ABC):
    """Judge of answers, for when comparing words cannot tell whether one is right."""

    @abstractmethod
    def __call__(self, question: str, gold: str, prediction: str) -> bool | None:
        """Return whether the prediction is right; None if the judge gave no clear verdict, which counts as wrong."""

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """Return its kind and settings, as JSON values; never a secret."""


class CallableJudge(Judge):
    """Judge by a Python function `(question, gold, prediction) -> bool`.

    Args:
        path: its import path, such as `my_package.my_judge`.

    Raises:
        ConfigError: the path does not lead to a callable.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._function = import_function(path, "CallableJudge:")

    def __call__(self, question: str, gold: str, prediction: str) -> bool | None:
        """Return the function's verdict."""
        return bool(self._function(question, gold, prediction))

    def options(self) -> dict[str, Any]:
        """Return the import path."""
        return {"judge": "callable", "path": self.path}


JUDGE_PROMPT: Final = """\
Question: {question}
Reference answer: {gold}
Given answer: {prediction}
Does the given answer mean the same as the reference answer? Reply with Yes or No only."""


class EndpointJudge(Judge):
    """Judge by a model behind an OpenAI-compatible interface, asked for Yes or No at temperature 0.

    The key is read from an environment variable for each request, is not stored, and appears in no message.

    Args:
        url: URL of the interface, without `/chat/completions`; https, or this machine.
        model: the model's name there.
        key_variable: the environment variable that holds the key; None for an interface without one.
        prompt: the prompt, with `{question}`, `{gold}` and `{prediction}`.
        timeout: time limit of a request in seconds.
        retries: further attempts if an interface is busy or does not answer.

    Raises:
        ConfigError: the variable is not set, or the key would be sent over the network unencrypted.
    """

    def __init__(
        self,
        url: str,
        model: str,
        key_variable: str | None = "OPENAI_API_KEY",
        prompt: str = JUDGE_PROMPT,
        timeout: float = 60.0,
        retries: int = 2,
    ) -> None:
        key_from(key_variable, url)
        self.url, self.model, self.key_variable, self.prompt = url.rstrip("/"), model, key_variable, prompt
        self.timeout, self.retries = timeout, retries

    def __call__(self, question: str, gold: str, prediction: str) -> bool | None:
        """Return the verdict.

        Raises:
            ConfigError: the interface refuses or does not answer.
        """
        words = {"question": question, "gold": gold, "prediction": prediction}
        # one pass, so that an answer that contains "{gold}" stays as it is
        text = re.sub(r"\{(question|gold|prediction)\}", lambda match: words[match[1]], self.prompt)
        key = key_from(self.key_variable, self.url)
        reply = post_json(
            f"{self.url}/chat/completions",
            {"model": self.model, "temperature": 0, "messages": [{"role": "user", "content": text}]},
            {} if key is None else {"Authorization": f"Bearer {key}"},
            self.timeout,
            self.retries,
        )
        try:
            word = re.match(r"\W*(yes|no)\b", str(reply["choices"][0]["message"]["content"]), re.IGNORECASE)
        except (KeyError, IndexError, TypeError):
            return None
        return None if word is None else word[1].lower() == "yes"

    def options(self) -> dict[str, Any]:
        """Return all but the key."""
        return {
            "judge": "endpoint",
            "url": self.url,
            "model": self.model,
            "key_variable": self.key_variable,
            "prompt": self.prompt,
        }
