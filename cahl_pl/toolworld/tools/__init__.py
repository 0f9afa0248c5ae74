"""The tools of the world, one module a domain; importing this package registers them all."""

from __future__ import annotations

from cahl_pl.toolworld.registry import REGISTRY, Tool
from cahl_pl.toolworld.tools import (  # noqa: F401  (imported to be registered)
    bank,
    calendar,
    contacts,
    home,
    messages,
    numbers,
    shop,
    text,
    travel,
    units,
    weather,
)

TOOLS: dict[str, Tool] = REGISTRY
