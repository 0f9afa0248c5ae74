"""Comparison of tools' answers with the results that rows store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from cahl_pl.datasets.gold_calls import check_value
from cahl_pl.errors import DataError
from cahl_pl.python_tools.results import json_text
from cahl_pl.schema import canonical
from cahl_pl.schema.references import read_text
from cahl_pl.types import NO_RESULT, Feedback, GoldCall


def difference(gold: GoldCall, answer: Feedback, shown: int = 100) -> str | None:
    """Return how an answer differs from the stored result, `stored ..., answered ...`; None if it does not.

    JSON text counts as its value, as when it is read; an answer that was cut is compared as far as it goes.

    Args:
        gold: the call; without a stored result there is no difference.
        answer: the tool's answer.
        shown: maximum number of characters of either to show.
    """
    if gold.result is NO_RESULT:
        return None
    stored = json_text(gold.result)
    cut = answer.text.endswith("...") and stored.startswith(answer.text[:-3])
    if cut or canonical(_value(stored)) == canonical(_value(answer.text)):
        return None
    return f"stored {_short(stored, shown)}, answered {_short(answer.text, shown)}"


def lost_reference(gold: GoldCall, before: Sequence[GoldCall], answers: Sequence[Feedback]) -> str | None:
    """Return why a value that a call takes from earlier results is not in the tools' answers; None if it is.

    Args:
        gold: the call.
        before: the calls before it.
        answers: the tools' answers to these.
    """
    answered = [replace(call, result=_value(one.text)) for call, one in zip(before, answers, strict=True)]
    for parameter, written in gold.references.items():
        try:
            check_value(parameter, gold.arguments[parameter], written, answered)
        except DataError as error:
            return str(error).partition(";")[0]
    return None


def _value(text: str) -> Any:
    value = read_text(text)
    return read_text(value) if isinstance(value, str) else value


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."
