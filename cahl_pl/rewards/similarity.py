"""Similarity of two calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from cahl_pl.schema import canonical, coerce_call
from cahl_pl.types import ToolCall, ToolSpec


def call_similarity(call: ToolCall, gold: ToolCall, equal: Callable[[str], float] | None = None) -> float:
    """Return the call similarity s(a, a*).

    0 if the tools differ, else the mean of 1, the IoU of the parameter names, and the number of values of the same
    parameter with equal canonical form, over the larger number of values of the two. No parameters on both sides:
    1 for both.

    Args:
        call: the call a, already coerced to its schema.
        gold: the gold call a*, coerced likewise.
        equal: degree in [0, 1] to which both calls' values of a common parameter agree; None compares canonical forms.

    Returns:
        A number in [0, 1]; 1 iff the calls are the same.
    """
    return sum(parts(call, gold, equal)) / 3.0


def parts(call: ToolCall, gold: ToolCall, equal: Callable[[str], float] | None = None) -> tuple[float, float, float]:
    """Return the three parts averaged in the call similarity: tool, IoU of the parameter names, share of equal values."""
    if call.name != gold.name:
        return 0.0, 0.0, 0.0
    names, gold_names = set(call.arguments), set(gold.arguments)
    common, union = names & gold_names, names | gold_names
    if not union:
        return 1.0, 1.0, 1.0
    if equal is None:
        found = float(sum(canonical(call.arguments[name]) == canonical(gold.arguments[name]) for name in common))
    else:
        found = sum(map(equal, sorted(common)))
    return 1.0, len(common) / len(union), found / max(len(names), len(gold_names))


def similarity_matrix(
    calls: Sequence[ToolCall | None], gold: Sequence[ToolCall], tools: Sequence[ToolSpec]
) -> np.ndarray:
    """Return the similarities of all calls with all gold calls, both coerced by `tools`.

    Args:
        calls: K calls; None is an attempt that resembles nothing.
        gold: N gold calls.
        tools: the tools offered.

    Returns:
        Shape [K, N], in [0, 1].
    """
    coerced = [None if call is None else coerce_call(call, tools) for call in calls]
    coerced_gold = [coerce_call(call, tools) for call in gold]
    rows = [[0.0 if a is None else call_similarity(a, b) for b in coerced_gold] for a in coerced]
    return np.array(rows, dtype=float).reshape(len(calls), len(gold))
