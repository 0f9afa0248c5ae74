"""Dialogues as chat programs write them, and the matching of tools' answers to calls."""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from cahl_pl.datasets.call_fields import check_fields, lost_call
from cahl_pl.datasets.call_marks import unread_call
from cahl_pl.datasets.call_objects import Call, read_call, read_function
from cahl_pl.datasets.failed_answers import as_failure, failure_of, is_flagged
from cahl_pl.datasets.rows import get_field
from cahl_pl.datasets.task_parts import history_text
from cahl_pl.errors import DataError
from cahl_pl.schema.references import read_text
from cahl_pl.schema.wording import kind_word
from cahl_pl.types import Message, ToolSpec

Speaker: TypeAlias = Literal["system", "user", "assistant", "tool"]

_ROLES: Final[dict[str, Speaker]] = {
    "system": "system",
    "developer": "system",  # OpenAI's name for it since 2024
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",  # until 2023
}
_TEXT_PARTS: Final = ("text", "input_text", "output_text")
_PARTS: Final = (*_TEXT_PARTS, "image_url", "image", "input_image", "input_audio", "audio", "file", "input_file")


_ROLES_OF_SHAREGPT: Final = (
    "function_call", "tool_call", "observation", "tool_response", "function_response", "tool_result", "tool_output",
    "function_result",
)  # fmt: skip


def is_role_of_sharegpt(role: Any) -> bool:
    """Return whether a role is not one of OpenAI's, which identifies ShareGPT's turns."""
    return str(role).strip().lower().replace("-", "_") in _ROLES_OF_SHAREGPT


SAYS_NOTHING: Final = (
    "the assistant neither says nor calls anything (thoughts do not count): write its answer in 'content', its calls, or [] "
    "where it is to call nothing"
)
"""Fault of an empty assistant turn."""


ANSWERED: Final = ("results", "result", "response", "output", "content")
"""Keys next to `name` that may contain a tool's answer."""


class Said(NamedTuple):
    """Turn of a dialogue.

    Attributes:
        role: the speaker's role.
        text: the text.
        calls: the assistant's calls.
        answers: of a tool's answer, the id of the call; None if it has none.
        name: of a tool's answer, the tool's name, if given.
        number: the place in its list, from 1, for messages.
        learnt: whether an assistant's turn may be learnt; otherwise it is dialogue only.
        fault: why the calls in its text cannot be read; None if they can, or if there are none.
        is_json: of a tool's answer, whether its text is the JSON of a value that is not text in the row.
        no_call: whether an assistant states in a notation of calls, such as `[]`, that it makes none.
    """

    role: Speaker
    text: str
    calls: tuple[Call, ...] = ()
    answers: str | None = None
    name: str | None = None
    number: int = 0
    learnt: bool = True
    fault: str | None = None
    is_json: bool = False
    no_call: bool = False

    @property
    def result(self) -> Any:
        """The tool's answer.

        Text stays text, unless it is a JSON object or list, null or quoted text: "1.50" and "4711" are not read as numbers,
        which could lose a digit or not be meant; if a parameter is a number, the text is read as one.
        """
        value = read_text(self.text)
        return self.text if isinstance(value, int | float) and not self.is_json else value


def read_said(row: Any, number: int) -> Said:
    """Return a message as in OpenAI's chat API, including the legacy `function_call` and the role `function`.

    Args:
        row: the message.
        number: its place, from 1.

    Raises:
        DataError: in one sentence, naming the field.
    """
    role = get_field(row, "role", str)
    if role not in _ROLES:
        near = difflib.get_close_matches(role.lower(), [*_ROLES, "human", "gpt"], 1)
        hint = ""
        if near and not is_role_of_sharegpt(role):
            hint = f"; did you mean { ({'human': 'user', 'gpt': 'assistant'}.get(near[0], near[0]))!r}?"
        raise DataError(f"the role {role!r} must be one of system, user, assistant, tool{hint}")
    speaker = _ROLES[role]
    check_fields(row, speaker == "assistant")
    calls = read_calls(row)
    if calls and speaker != "assistant":
        raise DataError(f"only an assistant has tool_calls, not the role {role!r}")
    missing = row.get("content") is None and (calls or "function_call" in row or "tool_calls" in row)
    is_json = False
    if speaker == "tool" and "content" in row:
        text, is_json = read_answer(row["content"], is_flagged(row) or row.get("status") == "error")
    else:
        text = "" if missing else read_content(row.get("content"), "content" in row)
    answers, name = row.get("tool_call_id"), row.get("name")
    if answers is not None and not isinstance(answers, str):
        raise DataError(f"the field 'tool_call_id' must be text, but is {kind_word(answers)}")
    if answers is not None and speaker != "tool":
        raise DataError(f"only a tool's answer has a tool_call_id, not the role {role!r}")
    name = name if speaker == "tool" and isinstance(name, str) else None
    # a blank id counts as none
    return Said(speaker, text, calls, answers or None, name, number, is_learnt(row), is_json=is_json)


def is_learnt(row: dict[str, Any]) -> bool:
    """Return whether a turn may be learnt: OpenAI's rows exclude it by `"weight": 0`, others by a false `train` or `loss`.

    Raises:
        DataError: a weight is not a number of at least 0.
    """
    weight = row.get("weight", row.get("loss_weight"))
    if weight is not None and (isinstance(weight, bool) or not isinstance(weight, int | float) or weight < 0):
        raise DataError(f"the field 'weight' must be 0 (a turn that is not learnt) or 1, not {weight!r}")
    return weight != 0 and row.get("train") is not False and row.get("loss") is not False


def read_calls(row: dict[str, Any]) -> tuple[Call, ...]:
    """Return the calls of a message's fields: `tool_calls`, or `function_call` until 2023, which may also be a list.

    Raises:
        DataError: naming the field.
    """
    found = []
    listed = "function_call" if isinstance(row.get("function_call"), list) and row.get("tool_calls") is None else "tool_calls"
    if row.get(listed) is not None:
        for number, one in enumerate(get_field(row, listed, list), start=1):
            try:
                found.append(read_call(one))
            except DataError as error:
                raise DataError(f"the field {listed!r}, call {number}: {error}") from None
            if found[-1].id is not None and (first := found.index(found[-1])) < number - 1:
                raise DataError(
                    f"the field {listed!r}, call {number}: it is call {first + 1} again, with its id {found[-1].id!r}: leave "
                    "one of them out"
                )
    if row.get("function_call") is not None and listed != "function_call":
        if found:
            raise DataError("the fields 'tool_calls' and 'function_call' are both there: leave one of them out")
        try:
            found.append(Call(read_function(get_field(row, "function_call", dict))))
        except DataError as error:
            raise DataError(f"the field 'function_call': {error}") from None
    return tuple(found)


def read_content(content: Any, given: bool = True) -> str:
    """Return the text of a message's content: text, or a list of text parts.

    Raises:
        DataError: there is none, or a part is something else, such as an image.
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        fault = f"must be text, but is {kind_word(content)}" if given else "is missing"
        raise DataError(f"the field 'content' {fault}")
    texts = []
    for number, part in enumerate(content, start=1):
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, dict) and part.get("type", "text") in _TEXT_PARTS and isinstance(part.get("text"), str):
            texts.append(part["text"])
        else:
            if isinstance(part, dict) and part.get("type", "text") in _TEXT_PARTS:
                raise DataError(f"the field 'content', part {number}: the field 'text' must be there, and hold text")
            kind = repr(part.get("type")) if isinstance(part, dict) else kind_word(part)
            raise DataError(f"the field 'content', part {number} is {kind}: only parts of text can be read")
    return "\n".join(texts)


def read_answer(content: Any, failed: bool = False) -> tuple[str, bool]:
    """Return the text of a tool's answer: text and parts of text as they are, any other value, null too, as JSON.

    An answer that reports a failed call becomes `{"error": why}`.

    Args:
        content: the answer.
        failed: whether its message reports a failed call.

    Returns:
        The text, and whether it is the JSON of such a value.

    Raises:
        DataError: a part is an image or a file.
    """
    content = failure_of(content) if failed else as_failure(content)
    listed = content if isinstance(content, list) else []
    parts = bool(listed) and all(isinstance(part, dict) and part.get("type") in _PARTS for part in listed)
    is_json = not (isinstance(content, str) or parts)
    return json.dumps(content, ensure_ascii=False) if is_json else read_content(content), is_json


def read_dialogue(value: Any, field: str = "messages") -> list[Said]:
    """Return the turns of a list of messages.

    Raises:
        DataError: naming the field and the message.
    """
    said: list[Said] = []
    for number, row in enumerate(get_field({field: value}, field, list), start=1):
        try:
            one = read_said(row, number)
            if one.role == "system" and any(before.role != "system" for before in said):
                raise DataError("a system message can only come first: put its text into the first message")
            said.append(one)
        except DataError as error:
            raise DataError(f"the field {field!r}, message {number}: {error}") from None
    return said


def refuse_lost_calls(said: Sequence[Said], rows: Sequence[Any], tools: Sequence[ToolSpec], field: str = "messages") -> None:
    """Refuse a dialogue in which an assistant turn has calls only in a field that is not read.

    Args:
        said: the turns.
        rows: the raw turns of the row, by number.
        tools: the tools offered.
        field: name of their field, for messages.

    Raises:
        DataError: naming the field and the turn.
    """
    called = {one.number for one in said if one.calls}
    for one in said:
        if one.role == "assistant" and one.number not in called and 0 < one.number <= len(rows):
            lost = lost_call(rows[one.number - 1], tools)
            if lost is not None:
                raise DataError(f"{_place(one, field)}: {lost}")


def fold(said: Sequence[Said], field: str = "messages") -> tuple[Message, ...]:
    """Return the dialogue as text: calls are written as text, and the answers to a turn's calls follow in the calls' order.

    Consecutive system messages become one: templates support only one.

    An answer belongs to the call of its `tool_call_id`; without ids, to the call of its name if every answer has one (for
    several calls of one tool, in order); otherwise to the call at its place.

    Raises:
        DataError: a call has no answer, or an answer no call; naming the message.
    """
    messages: list[Message] = []
    at = 0
    while at < len(said):
        one = said[at]
        at += 1
        if one.role == "tool":
            _check_lone(one, messages, field)
            messages.append(Message("tool", one.text))
            continue
        if one.role == "system" and messages and messages[-1].role == "system":  # such as a developer's, after it
            texts = [text for text in (messages[-1].content, one.text) if text]
            messages[-1] = Message("system", "\n\n".join(texts))
            continue
        if not one.calls:
            messages.append(Message(one.role, one.text))
            continue
        parts = [one.text] * bool(one.text) + [history_text(item.call for item in one.calls)]
        messages.append(Message("assistant", "\n".join(parts)))
        end = at
        while end < len(said) and said[end].role == "tool":
            end += 1
        for answer in match_answers(one, said[at:end], field):
            messages.append(Message("tool", answer.text))
        at = end
    return tuple(messages)


def _check_lone(one: Said, before: Sequence[Message], field: str) -> None:
    if one.answers is not None:
        raise DataError(
            f"{_place(one, field)}: the tool_call_id {one.answers!r} answers no call: none stands before it"
        )
    called = next((message for message in reversed(before) if message.role != "tool"), None)
    if called is None or called.role != "assistant" or not _is_call(called.content):
        raise DataError(f"{_place(one, field)}: a tool's answer has to follow a call of the assistant")


def _is_call(text: str) -> bool:
    """Return whether an assistant's text contains a call in any notation: `fold` and other programs write calls as text."""
    return "<tool_call>" in text or '"name"' in text or unread_call(text, ()) is not None


def match_answers(caller: Said, answers: Sequence[Said], field: str = "messages") -> list[Said]:
    """Return the answers to the calls of a turn, in the calls' order.

    Raises:
        DataError: a call has no answer, or an answer no call.
    """
    ids = [one.id for one in caller.calls]
    if any(answer.answers is not None for answer in answers):
        return _match_ids(caller, answers, ids, field)
    names = [one.call.name for one in caller.calls]
    answers = _several(answers, len(names))
    said = [one.name or _named_within(one, names) for one in answers]
    if None not in said and Counter(said) == Counter(names):  # those of one tool's calls in order
        rest = dict[str | None, list[Said]]()
        for name, answer in zip(said, answers, strict=True):
            rest.setdefault(name, []).append(answer)
        return [rest[name].pop(0) for name in names]
    if len(answers) > len(ids):
        raise DataError(f"{_place(answers[len(ids)], field)}: this tool's answer has no call: {_told(caller)}")
    for call, answer, name in zip(caller.calls, answers, said, strict=False):
        if name is not None and name != call.call.name:
            raise DataError(
                f"{_place(answer, field)}: the answer is by {name!r}, but the call at its place is of "
                f"{call.call.name!r}; give calls an id, and answers its tool_call_id"
            )
    if len(answers) < len(ids):
        raise DataError(
            f"{_place(caller, field)}: call {len(answers) + 1} ({_name(caller, len(answers))}) has no answer"
        )
    return list(answers)


def _several(answers: Sequence[Said], calls: int) -> Sequence[Said]:
    """Return the answers, split if one message has those of several calls as a list, one item each.

    An item may name its call and have the answer in `results`, `result`, `response`, `output` or `content`.
    """
    listed = answers[0].result if len(answers) == 1 < calls else None
    if not isinstance(listed, list) or len(listed) != calls:
        return answers
    parts = []
    for item in listed:
        name = item.get("name") if isinstance(item, dict) else None
        key = next((one for one in ANSWERED if isinstance(item, dict) and one in item), None)
        named = isinstance(name, str) and key is not None and item.keys() <= {"name", "arguments", "parameters", key}
        text, is_json = read_answer(item[key] if named else item)
        parts.append(answers[0]._replace(text=text, is_json=is_json, name=name if named else None))
    return parts


def _named_within(answer: Said, names: Sequence[str]) -> str | None:
    """Return the tool named within an answer, `{"name": ..., "results": ...}`, if it is one of `names`."""
    value = read_text(answer.text)
    given = [value.get(key) for key in ("name", "tool", "tool_name", "function")] if isinstance(value, dict) else []
    return next((one for one in given if isinstance(one, str) and one in names), None)


def _match_ids(caller: Said, answers: Sequence[Said], ids: list[str | None], field: str) -> list[Said]:
    named = [identity for identity in ids if identity is not None]
    if len(set(named)) < len(named):
        twice = next(identity for identity in named if named.count(identity) > 1)
        raise DataError(f"{_place(caller, field)}: two calls have the id {twice!r}")
    found: dict[str, Said] = {}
    for answer in answers:
        if answer.answers is None:
            raise DataError(
                f"{_place(answer, field)}: this answer has no tool_call_id, but others to the same calls have"
            )
        if answer.answers not in named:
            near = difflib.get_close_matches(answer.answers, named, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"those of its calls are: {', '.join(named) or 'none'}"
            raise DataError(f"{_place(answer, field)}: the tool_call_id {answer.answers!r} answers no call; {hint}")
        if answer.answers in found:
            raise DataError(f"{_place(answer, field)}: the call {answer.answers!r} is answered twice")
        found[answer.answers] = answer
    for place, identity in enumerate(ids):
        if identity is None or identity not in found:
            known = f", id {identity!r}" if identity is not None else " without an id"
            raise DataError(f"{_place(caller, field)}: call {place + 1} ({_name(caller, place)}{known}) has no answer")
    return [found[identity] for identity in ids if identity is not None]


def _place(one: Said, field: str) -> str:
    return f"the field {field!r}, message {one.number}"


def _name(caller: Said, place: int) -> str:
    return caller.calls[place].call.name


def _told(caller: Said) -> str:
    count = len(caller.calls)
    return f"message {caller.number} has {count} call{'s' * (count != 1)}"
