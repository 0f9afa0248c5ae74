"""How alike two calls are, and which of two lists of calls belong together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment

from cahl_pl.schema import canonical, coerce_call
from cahl_pl.types import ToolCall, ToolSpec


def call_similarity(call: ToolCall, gold: ToolCall) -> float:
    """Call similarity s(a, a*).

    0 if the tools differ, else the mean of 1, the IoU of the parameter names, and the share of the gold
    values that stand at the same parameter with an equal canonical form. No parameters on both sides: IoU
    1; no gold parameters: share 1.

    Args:
        call: the call a, already coerced to its schema.
        gold: the gold call a*, coerced likewise.

    Returns:
        A number in [0, 1]; 1 iff the calls are the same.
    """
    return sum(parts(call, gold)) / 3.0


def parts(call: ToolCall, gold: ToolCall) -> tuple[float, float, float]:
    """The three parts whose mean the call similarity is: tool, IoU of the parameter names, share of equal gold values."""
    if call.name != gold.name:
        return 0.0, 0.0, 0.0
    names, gold_names = set(call.arguments), set(gold.arguments)
    common, union = names & gold_names, names | gold_names
    iou = len(common) / len(union) if union else 1.0
    equal = sum(canonical(call.arguments[name]) == canonical(gold.arguments[name]) for name in common)
    return 1.0, iou, equal / len(gold_names) if gold_names else 1.0


def similarity_matrix(
    calls: Sequence[ToolCall | None], gold: Sequence[ToolCall], tools: Sequence[ToolSpec]
) -> np.ndarray:
    """Similarities of all calls with all gold calls, both coerced by `tools`.

    Args:
        calls: K calls; None is an attempt that could not be read and is like nothing.
        gold: N gold calls.
        tools: the tools offered.

    Returns:
        Shape [K, N], in [0, 1].
    """
    coerced = [None if call is None else coerce_call(call, tools) for call in calls]
    coerced_gold = [coerce_call(call, tools) for call in gold]
    rows = [[0.0 if a is None else call_similarity(a, b) for b in coerced_gold] for a in coerced]
    return np.array(rows, dtype=float).reshape(len(calls), len(gold))


def align(similarities: ArrayLike, ordered: bool) -> list[tuple[int, int]]:
    """Pairs up the rows and columns of a similarity matrix, each at most once.

    Args:
        similarities: shape [K, N].
        ordered: the i-th row goes with the i-th column; otherwise the one-to-one match of the largest sum.

    Returns:
        min(K, N) pairs (row, column), rows ascending.
    """
    matrix = np.asarray(similarities, dtype=float)
    if matrix.size == 0:
        return []
    if ordered:
        return [(i, i) for i in range(min(matrix.shape))]
    rows, columns = linear_sum_assignment(matrix, maximize=True)
    return list(zip(rows.tolist(), columns.tolist(), strict=True))
