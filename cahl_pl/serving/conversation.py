"""A client's dialogue, taken apart: the task that it poses, and the calls made for its last request so far."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cahl_pl.datasets.messages import Said, fold, match_answers
from cahl_pl.errors import DataError
from cahl_pl.parsing import parse_plan, read_json
from cahl_pl.python_tools.results import json_text
from cahl_pl.schema.references import read_text
from cahl_pl.serving.asked import Asked
from cahl_pl.serving.errors import invalid
from cahl_pl.types import Feedback, Message, Task, ToolCall

_OUR_ID = re.compile(r"call_([0-9a-f]{16})[0-9a-f]{8}")


class Made(NamedTuple):
    """Call that the client has carried out, with the answer."""

    call: ToolCall
    feedback: Feedback


@dataclass(frozen=True)
class Conversation:
    """Conversation in the middle of an episode.

    Attributes:
        task: the request, with the dialogue before it.
        whole: the same with everything done for it as part of the dialogue, to plan for if the calls cannot be those
            of one of our episodes.
        made: the calls made for the request, in order.
        plans: plans that came back as reasoning, in order.
        mark: mark of the episode in the ids of its calls; empty if they were not kept.
        is_ours: whether the calls may be those of one of our episodes.
    """

    task: Task
    whole: Task
    made: tuple[Made, ...]
    plans: tuple[str, ...]
    mark: str
    is_ours: bool


def read_conversation(asked: Asked) -> Conversation:
    """Split a dialogue at its last request.

    Raises:
        ApiError: calls and answers in it do not belong together.
    """
    said = asked.said
    last = max(i for i, one in enumerate(said) if one.role == "user")
    try:
        whole = fold(said)
        head = fold(said[: last + 1])
        made, is_ours = _made(said[last + 1 :])
    except DataError as error:
        raise invalid(str(error), "messages") from None
    plans = tuple(text for text in asked.reasoning[last + 1 :] if parse_plan(text).error is None)
    ids = [call.id for one in said[last + 1 :] for call in one.calls]
    found = _OUR_ID.fullmatch(ids[0] or "") if ids else None
    return Conversation(_task(head, asked), _task(whole, asked), tuple(made), plans, found[1] if found else "", is_ours)


def _task(messages: tuple[Message, ...], asked: Asked) -> Task:
    return Task("request", messages, asked.tools)


def _made(tail: Sequence[Said]) -> tuple[list[Made], bool]:
    """Return the calls of the turns after the request with their answers, and whether there is nothing else."""
    made: list[Made] = []
    at = 0
    while at < len(tail):
        turn = tail[at]
        if turn.role != "assistant" or not turn.calls:
            return [], False
        end = at + 1
        while end < len(tail) and tail[end].role == "tool":
            end += 1
        answers = match_answers(turn, tail[at + 1 : end])
        made += (Made(call.call, feedback(answer.text)) for call, answer in zip(turn.calls, answers, strict=True))
        at = end
    return made, True


def feedback(text: str) -> Feedback:
    """Return a tool's answer as our environments write it: JSON unchanged, other text as a JSON string.

    `{"error": ...}`, with which they and many agents report that a tool has failed, counts as a failure.
    """
    try:
        value = read_json(text)
    except ValueError:
        return Feedback(json_text(text))
    failed = isinstance(value, dict) and value.keys() == {"error"}
    return Feedback(text.strip().encode("utf-8", "replace").decode("utf-8"), "tool" if failed else None)


def shown(text: str) -> str:
    """Return a tool's answer for people: a JSON string as its text, everything else unchanged."""
    value = read_text(text)
    return value if isinstance(value, str) else text
