"""glaive-function-calling-v2: a system text that lists the functions, and a dialogue flattened into one text."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from cahl_pl.datasets.formats.base import Dialogue, dialogue_format
from cahl_pl.datasets.formats.tagged import read_value
from cahl_pl.datasets.messages import Call, Said, read_function
from cahl_pl.datasets.rows import get_field
from cahl_pl.datasets.tool_forms import read_tools
from cahl_pl.errors import DataError

_TURN: Final = re.compile(r"(?:^|\s)(USER|ASSISTANT|FUNCTION RESPONSE):\s*")
_END: Final = "<|endoftext|>"
_CALL: Final = "<functioncall>"
_QUOTED: Final = re.compile(r"(['\"]arguments['\"]\s*:\s*)'(.*)'(\s*\}\s*)$", re.DOTALL)


def is_one(row: dict[str, Any]) -> bool:
    """Whether it has the fields `system` and `chat`."""
    return isinstance(row.get("system"), str) and isinstance(row.get("chat"), str)


def read(row: dict[str, Any]) -> Dialogue:
    """Return the dialogue of a row.

    Raises:
        DataError: naming the field at fault.
    """
    pieces = _TURN.split(get_field(row, "chat", str))
    said: list[Said] = []
    for number, (speaker, text) in enumerate(zip(pieces[1::2], pieces[2::2], strict=True), start=1):
        text = text.replace(_END, "").strip()
        if speaker == "USER":
            said.append(Said("user", text, number=number))
        elif speaker == "FUNCTION RESPONSE":
            said.append(Said("tool", text, number=number))
        else:
            try:
                said.append(_assistant(text, number))
            except DataError as error:
                raise DataError(f"the field 'chat', turn {number}: {error}") from None
    return Dialogue(said, read_tools(_objects(get_field(row, "system", str)), "system", lenient=True), "chat")


def _assistant(text: str, number: int) -> Said:
    before, tag, body = text.partition(_CALL)
    if not tag:
        return Said("assistant", text, number=number)
    # The arguments stand in single quotes as JSON text: '{"x": "it's"}', which is neither JSON nor Python.
    quoted = _QUOTED.search(body)
    if quoted:
        body = body[: quoted.start()] + quoted[1] + json.dumps(quoted[2].replace("\\'", "'")) + quoted[3]
    return Said("assistant", before.strip(), (Call(read_function(read_value(body.strip()))),), number=number)


def _objects(system: str) -> list[Any]:
    """Return the JSON objects and lists in a text, one after the other."""
    found: list[Any] = []
    at, decoder = 0, json.JSONDecoder()
    while (start := min((i for i in (system.find("{", at), system.find("[", at)) if i >= 0), default=-1)) >= 0:
        try:
            value, at = decoder.raw_decode(system, start)
        except (ValueError, RecursionError):
            raise DataError(f"the field 'system': no function can be read at {system[start : start + 40]!r}") from None
        found += value if isinstance(value, list) else [value]
    return found


FORMAT = dialogue_format(is_one, read)
