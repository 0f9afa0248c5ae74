"""BFCL's summaries of its categories: two schemes, never mixed.

`v3` is the leaderboard's at the time of ToolRL and CAHL (bfcl-eval 2025.6.16), `v4` today's (since 2025-07-17). Both schemes
score categories alike; they differ in how they combine them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

from cahl_pl.benchmarks.bfcl.data import CATEGORIES, LIVE, MULTI_TURN

Scheme: TypeAlias = Literal["v3", "v4"]

SCHEMES: Final[Mapping[Scheme, str]] = {
    "v3": "V3: overall = mean of non-live, live and multi-turn",
    "v4": "V4 parts, without an overall: 40 % of that are agentic tasks, which are not run here",
}

_SIMPLE: Final = ("simple_python", "simple_java", "simple_javascript")
_NON_LIVE: Final = ("multiple", "parallel", "parallel_multiple")


def summarize(accuracy: Mapping[str, float], counts: Mapping[str, int], scheme: Scheme) -> dict[str, float]:
    """Return the scores that combine categories. One whose categories have not all been run is left out, not filled with zeros.

    Args:
        accuracy: category -> share of right answers, of the categories that were run.
        counts: category -> number of tasks run, by which the live categories are weighted.
        scheme: `v3` or `v4`.

    Returns:
        `non_live_ast`, `live_ast`, `irrelevance_detection`, `relevance_detection`, `multi_turn`; for `v3` also `non_live` and
        `live`, with (ir)relevance counted in, and `overall`.
    """
    parts: dict[str, float | None] = {}
    simple = _mean([accuracy.get(name) for name in _SIMPLE])
    ast = [simple, *(accuracy.get(name) for name in _NON_LIVE)]
    parts["non_live_ast"] = _mean(ast)
    parts["live_ast"] = _weighted(accuracy, counts, LIVE)
    parts["irrelevance_detection"] = _mean([accuracy.get("irrelevance"), accuracy.get("live_irrelevance")])
    parts["relevance_detection"] = accuracy.get("live_relevance")
    parts["multi_turn"] = _mean([accuracy.get(name) for name in MULTI_TURN])
    if scheme == "v3":
        parts["non_live"] = _mean([*ast, accuracy.get("irrelevance")])
        parts["live"] = _weighted(accuracy, counts, (*LIVE, "live_irrelevance", "live_relevance"))
        parts["overall"] = _mean([parts["non_live"], parts["live"], parts["multi_turn"]])
    return {name: value for name, value in parts.items() if value is not None}


def missing(counts: Mapping[str, int]) -> list[str]:
    """Return the categories of which no task was run."""
    return [name for name in CATEGORIES if not counts.get(name)]


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def _weighted(accuracy: Mapping[str, float], counts: Mapping[str, int], names: tuple[str, ...]) -> float | None:
    if any(name not in accuracy for name in names):
        return None
    return sum(accuracy[name] * counts[name] for name in names) / sum(counts[name] for name in names)
