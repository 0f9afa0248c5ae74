"""Check of gold texts whose schema declares a format, such as a date, as Python tools would read them."""

from __future__ import annotations

import datetime
import decimal
import ipaddress
import uuid
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from cahl_pl.schema.coercion import dereference

FORMATS: Final[Mapping[str, tuple[Any, str]]] = {
    "date": (datetime.date, "2026-05-03"),
    "date-time": (datetime.datetime, "2026-05-03T14:30:00"),
    "time": (datetime.time, "14:30:00"),
    "duration": (datetime.timedelta, "PT1H30M"),
    "uuid": (uuid.UUID, "12345678-1234-5678-1234-567812345678"),
    "decimal": (decimal.Decimal, "12.50"),
    "ipv4": (ipaddress.IPv4Address, "192.0.2.1"),
    "ipv6": (ipaddress.IPv6Address, "2001:db8::1"),
}
"""Format -> the type that reads it, and an example. Other formats are not checked."""

_MAX_DEPTH: Final = 32


def wrong_format(value: Any, schema: Any, root: Mapping[str, Any], place: str) -> str | None:
    """Return what is wrong with a value's texts, such as `day: 'tomorrow' is no date, such as 2026-05-03`; None if nothing is.

    They are read as by the types of Python tools, which accept more than JSON Schema's formats: `2026-05-03 14:30` is a time.

    Args:
        value: the value.
        schema: its schema.
        root: the schema in which its references are looked up.
        place: the parameter's name.
    """
    stack = [(value, schema, place, 0)]
    while stack:
        item, one, where, depth = stack.pop()
        one = dereference(one, root)
        if not isinstance(one, Mapping) or depth > _MAX_DEPTH:
            continue
        if isinstance(item, str):
            if (fault := _fault(item, one, root)) is not None:
                return f"{where}: {item!r} {fault}"
        elif isinstance(item, list):
            stack += [(part, one.get("items"), f"{where}[{i}]", depth + 1) for i, part in enumerate(item)]
        elif isinstance(item, Mapping) and isinstance(declared := one.get("properties"), Mapping):
            stack += [(part, declared.get(key), f"{where}.{key}", depth + 1) for key, part in item.items()]
    return None


def _fault(text: str, schema: Mapping[str, Any], root: Mapping[str, Any]) -> str | None:
    options = schema.get("anyOf") or schema.get("oneOf")
    every = [dereference(option, root) for option in options] if isinstance(options, list) else [schema]
    of_text = [option for option in every if isinstance(option, Mapping) and option.get("type", "string") != "null"]
    names = [option.get("format") for option in of_text if _takes_text(option)]
    if not names or any(name not in FORMATS or _is(text, str(name)) for name in names):
        return None
    return f"is no {names[0]}, such as {FORMATS[str(names[0])][1]}"


def _takes_text(schema: Mapping[str, Any]) -> bool:
    kinds = schema.get("type", "string")
    return kinds == "string" or (isinstance(kinds, list) and "string" in kinds)


def _is(text: str, name: str) -> bool:
    try:
        _adapter(name).validate_python(text)
    except ValidationError:
        return False
    return True


@cache
def _adapter(name: str) -> TypeAdapter[Any]:
    return TypeAdapter(FORMATS[name][0])
