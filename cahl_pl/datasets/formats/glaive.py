"""glaive-function-calling-v2: a system text that lists the functions, and a dialogue flattened into one text."""

from __future__ import annotations

import re
from typing import Any, Final

from cahl_pl.datasets.formats.base import Dialogue, dialogue_format
from cahl_pl.datasets.formats.tagged import objects_in, tagged_answers, tagged_turn
from cahl_pl.datasets.messages import Said
from cahl_pl.datasets.rows import get_field
from cahl_pl.datasets.tool_forms import read_tools
from cahl_pl.errors import DataError

_SPEAKER: Final = r"(USER|ASSISTANT|FUNCTION RESPONSE):\s*"
_TURN: Final = re.compile(rf"(?:^\s*|<\|endoftext\|>\s*){_SPEAKER}", re.MULTILINE)
_WITHIN: Final = re.compile(rf"\s{_SPEAKER}")
_CUT: Final = (
    "another text of the assistant follows at once: one of both is cut, as where the data have ASSISTANT: in the place of the "
    "letters AI"
)
_END: Final = "<|endoftext|>"


def is_one(row: dict[str, Any]) -> bool:
    """Return whether a row has the fields `system` and `chat`."""
    return isinstance(row.get("system"), str) and isinstance(row.get("chat"), str)


def read(row: dict[str, Any]) -> Dialogue:
    """Return the dialogue of a row.

    Raises:
        DataError: naming the field at fault.
    """
    said: list[Said] = []
    for number, (speaker, text) in enumerate(_turns(get_field(row, "chat", str)), start=1):
        text = text.replace(_END, "").strip()
        if speaker == "USER":
            said.append(Said("user", text, number=number))
        elif speaker == "FUNCTION RESPONSE":
            calls = next((one.calls for one in reversed(said) if one.role == "assistant"), ())
            said += tagged_answers(text, number, calls)
        else:
            try:
                turn = tagged_turn(text, number)
            except DataError as error:
                raise DataError(f"the field 'chat', turn {number}: {error}") from None
            if said and said[-1].role == "assistant" and not (said[-1].calls or turn.calls):
                said[-1] = said[-1]._replace(fault=_CUT)
            said.append(turn)
    return Dialogue(said, read_tools(_objects(get_field(row, "system", str)), "system", lenient=True), "chat")


def _turns(chat: str) -> list[tuple[str, str]]:
    """Return the speaker and text of each turn.

    A turn starts at the start of a line or after an end-of-text mark; if no such turn answers a user or a function, at the
    only `ASSISTANT:` within the line, for chats whose line breaks are lost. Other names of speakers are text.

    Raises:
        DataError: text precedes the first turn, or the start of a turn is ambiguous.
    """
    lead, *pieces = _TURN.split(chat)
    if lead.replace(_END, "").strip():
        raise DataError(
            f"the field 'chat' starts with {lead.strip()[:40]!r}; a turn starts with USER:, ASSISTANT: or FUNCTION RESPONSE:"
        )
    turns = list(zip(pieces[::2], pieces[1::2], strict=True))
    found: list[tuple[str, str]] = []
    for place, (speaker, text) in enumerate(turns):
        following = turns[place + 1][0] if place + 1 < len(turns) else None
        if speaker != "ASSISTANT" and following != "ASSISTANT":
            asked, *answered = re.split(r"\sASSISTANT:\s*", text)
            if len(answered) > 1:
                raise DataError(f"the field 'chat': it is not clear which ASSISTANT: in {text[:60]!r} starts a turn")
            found.append((speaker, asked))
            speaker, text = ("ASSISTANT", answered[0]) if answered else (speaker, "")
            if not answered:
                continue
        if speaker == "ASSISTANT" and following is None and (inside := _WITHIN.search(text)):
            raise DataError(
                f"the field 'chat': it is not clear whether {inside[1]}: within a line starts a turn; start it on a new line"
            )
        found.append((speaker, text))
    return found


def _objects(system: str) -> list[Any]:
    """Return the JSON objects and lists in a text, one after the other."""
    try:
        return objects_in(system)
    except DataError as error:
        raise DataError(f"the field 'system': {error}") from None


FORMAT = dialogue_format(is_one, read)
