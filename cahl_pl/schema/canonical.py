"""Canonical text of JSON values, by which to compare and hash them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def canonical(value: Any, strip: bool = False) -> str:
    """Return a canonical text of a JSON value: two values are the same iff their texts are equal.

    `1` and `1.0` are the same, `1` and `True` are not; the order of an object's keys does not matter; case and outer
    whitespace of strings do, since a tool sees them too (`strip` leaves out the whitespace); NaN is NaN. Values that JSON
    cannot express equal only themselves. Takes any value, of any depth and size, in linear time (except for sorting keys).
    """
    # A stack instead of recursion: the model determines the depth. Text instead of tuples for the same
    # reason: comparing and hashing nested tuples recurses.
    out: list[str] = []
    stack: list[tuple[bool, Any]] = [(False, value)]
    while stack:
        literal, item = stack.pop()
        if literal:
            out.append(item)
        elif isinstance(item, Mapping):
            out.append("{")
            stack.append((True, "}"))
            keys = {json.dumps(key) if isinstance(key, str) else _scalar(key, strip): key for key in item}
            for text in sorted(keys, reverse=True):
                stack += [(True, ","), (False, item[keys[text]]), (True, text + ":")]
        elif isinstance(item, list | tuple):
            out.append("[")
            stack.append((True, "]"))
            for child in reversed(item):
                stack += [(True, ","), (False, child)]
        else:
            out.append(_scalar(item, strip))
    return "".join(out)


def _scalar(value: Any, strip: bool) -> str:
    if isinstance(value, str):
        return json.dumps(value.strip() if strip else value)
    if value is None or isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and not value.is_integer():  # NaN and infinities too
        return repr(value)
    if isinstance(value, int | float):
        return hex(int(value))  # decimal digits cost quadratic time, and are refused from 4301 on
    return f"<{type(value).__name__} {id(value)}>"
