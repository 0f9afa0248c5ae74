"""Alignment of two lists of calls, in an order that their dependencies allow."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import Bounds, LinearConstraint, linear_sum_assignment, milp
from scipy.sparse import coo_array

from cahl_pl.rewards.similarity import call_similarity
from cahl_pl.schema import canonical, coerce_call
from cahl_pl.schema.references import read_reference, references_in
from cahl_pl.types import GoldCall, Plan, Task, ToolCall

_REFERENCE: Final = re.compile(r"\$([0-9]{1,4})\b(?!\.[0-9])")  # not the amount "$1.50"
_PAIR: Final = 5e-3  # both far below one argument's weight in the call similarity: they only break ties
_NEARNESS: Final = 1e-3


def precedence(task: Task) -> list[tuple[int, int]]:
    """Return which gold call must precede which: pairs (i, j), from 0.

    A call comes after those whose results it uses, and no other order is required. If the task's calls are ordered but
    none has a reference, their dependencies are unknown: each comes after all those listed before it.
    """
    pairs = [(i, j) for j, gold in enumerate(task.gold) for i in sorted(sources_of(gold, j))]
    if task.ordered and not pairs:
        return [(i, j) for j in range(len(task.gold)) for i in range(j)]
    return pairs


def align(similarities: ArrayLike, before: Sequence[tuple[int, int]] = ()) -> list[tuple[int, int]]:
    """Pair the rows and columns of a similarity matrix, each at most once, so that the sum is maximal.

    Args:
        similarities: shape [K, N].
        before: pairs (i, j) of columns: if both have a row, that of i comes first. Pairs of all columns, i < j, mean
            that the columns keep their order.

    Returns:
        Pairs (row, column), rows ascending; min(K, N) of them if the order allows it.
    """
    matrix = np.asarray(similarities, dtype=float)
    if matrix.size == 0:
        return []
    rows, columns = linear_sum_assignment(matrix, maximize=True)
    place = dict(zip(columns.tolist(), rows.tolist(), strict=True))
    if all(place[i] < place[j] for i, j in before if i in place and j in place):
        return list(zip(rows.tolist(), columns.tolist(), strict=True))
    count = matrix.shape[1]
    if len(before) == count * (count - 1) // 2:
        return _in_sequence(matrix)
    return _in_partial_order(matrix, before)


def align_plan(plan: Plan, task: Task) -> dict[int, int]:
    """Match a plan's sub-tasks that name a tool with the gold calls as written in a plan.

    The best match by call similarity that `precedence` allows; ties favour near places, and a gold call that resembles no
    sub-task goes to a remaining one, in order. A planned `"$k"` equals the gold call's `"$i"` to the degree that sub-task k
    resembles gold call i: the numbers themselves depend on the order of a plan's steps. A path into the result must be the
    gold call's, `"$k.city"` for `"$i.city"`; if gold names the whole result, any part of it is accepted.

    Returns:
        Sub-task -> gold call, both from 0.
    """
    places = [k for k, subtask in enumerate(plan.subtasks) if subtask.tool is not None]
    gold = [coerce_call(one.planned, task.tools) for one in task.gold]
    found: dict[int, list[float]] = {}
    for k in places:
        subtask = plan.subtasks[k]
        call = coerce_call(ToolCall(subtask.tool or "", subtask.parameters), task.tools)
        found[k] = [_likeness(call, gold[j], task.gold[j].references, k, found) for j in range(len(gold))]
    matrix = np.array([found[k] for k in places], dtype=float).reshape(len(places), len(gold))
    rows, columns = np.indices(matrix.shape)
    # With the square, keeping the order is the cheapest way to break ties, including pairs of similarity 0.
    distance = (rows - columns) / max(*matrix.shape, 1)
    pairs = align(matrix + _PAIR - _NEARNESS * distance**2, precedence(task))
    return {places[row]: column for row, column in pairs}


def read_references(value: Any, place: int, match: dict[int, int]) -> Any:
    """Return a planned value, each "$k" replaced by the `reference` to the gold call matched with its sub-task.

    Args:
        value: a parameter's value in the sub-task at `place`, from 0, with references at any depth.
        place: only earlier sub-tasks have a result by then; any other number is plain text.
        match: match from `align_plan`; the result of a sub-task not in it is that of no gold call.
    """
    if isinstance(value, Mapping):
        return {key: read_references(item, place, match) for key, item in value.items()}
    if isinstance(value, list):
        return [read_references(item, place, match) for item in value]
    if not isinstance(value, str):
        return value
    whole = read_reference(value)
    if whole is not None and whole.call <= place:
        return reference(match.get(whole.call - 1, -1), whole.path)

    def read(found: re.Match[str]) -> str:
        source = int(found[1]) - 1
        return reference(match.get(source, -1)) if 0 <= source < place else found[0]

    return _REFERENCE.sub(read, value.replace("\0", " "))


def reference(source: int, path: tuple[str | int, ...] = ()) -> str:
    """Return the marker of a value in the result of a gold call, from 0: no plan or gold argument contains such text."""
    return f"\0${source + 1}" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)


def sources_of(gold: GoldCall, place: int) -> set[int]:
    """Return the gold calls before `place` whose results the call uses, from 0."""
    return {one.call - 1 for one in references_in(gold.references) if one.call - 1 < place}


def _likeness(
    call: ToolCall, gold: ToolCall, references: Mapping[str, Any], place: int, found: dict[int, list[float]]
) -> float:
    """Return the similarity of a sub-task's call and a planned gold call; `found` holds those of earlier sub-tasks."""

    def equal(name: str) -> float:
        value = call.arguments[name]
        if name in references:
            return _agreement(value, gold.arguments[name], place, found)
        planned = any(one.call <= place for one in references_in(value))  # otherwise it is text
        return float(not planned and canonical(value) == canonical(gold.arguments[name]))

    return call_similarity(call, gold, equal)


def _agreement(value: Any, gold: Any, place: int, found: dict[int, list[float]]) -> float:
    """Return how far a planned value agrees with gold: as far as the sub-tasks referred to agree with the gold calls."""
    wanted, planned = read_reference(gold), read_reference(value)
    if planned is not None and planned.call > place:
        planned = None  # text
    if wanted is not None:
        if planned is None or not wanted.leads_to(planned._replace(call=wanted.call)):
            return 0.0
        likeness = found.get(planned.call - 1)
        return 0.0 if likeness is None or wanted.call > len(likeness) else likeness[wanted.call - 1]
    if planned is not None:
        return 0.0
    if isinstance(value, Mapping) and isinstance(gold, Mapping) and value.keys() == gold.keys():
        return min((_agreement(value[key], gold[key], place, found) for key in gold), default=1.0)
    if isinstance(value, list) and isinstance(gold, list) and len(value) == len(gold):
        return min((_agreement(*pair, place, found) for pair in zip(value, gold, strict=True)), default=1.0)
    return float(canonical(value) == canonical(gold))


def _in_sequence(matrix: np.ndarray) -> list[tuple[int, int]]:
    """Return the best pairs whose rows and columns both ascend."""
    rows, columns = matrix.shape
    best = np.zeros((rows + 1, columns + 1))
    for i in range(rows):
        for j in range(columns):
            best[i + 1, j + 1] = max(best[i, j + 1], best[i + 1, j], best[i, j] + matrix[i, j])
    pairs, i, j = [], rows, columns
    while i and j:
        if best[i, j] == best[i - 1, j]:
            i -= 1
        elif best[i, j] == best[i, j - 1]:
            j -= 1
        else:
            i, j = i - 1, j - 1
            pairs.append((i, j))
    return pairs[::-1]


def _in_partial_order(matrix: np.ndarray, before: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the best pairs in an order that `before` allows, by integer programming."""
    number = np.arange(matrix.size).reshape(matrix.shape)
    # At most one pair of each of these sets is chosen: of a row, of a column, and, since i may not come after j, of i at
    # row r or later and j at row r or earlier.
    exclusive = [*number, *number.T]
    exclusive += [np.concatenate([number[r:, i], number[: r + 1, j]]) for i, j in before for r in range(len(matrix))]
    lines = np.repeat(np.arange(len(exclusive)), [len(some) for some in exclusive])
    chosen = np.concatenate(exclusive)
    limits = coo_array((np.ones(len(chosen)), (lines, chosen)), shape=(len(exclusive), matrix.size)).tocsr()
    result = milp(
        -matrix.ravel(),
        integrality=np.ones(matrix.size, int),
        bounds=Bounds(0, 1),
        constraints=LinearConstraint(limits, ub=1),
        options={"mip_rel_gap": 0, "node_limit": 1000},
    )
    if result.x is None:  # too hard: gold calls only refer to earlier ones, so keeping their order is always allowed
        return _in_sequence(matrix)
    rows, columns = np.nonzero(result.x.reshape(matrix.shape) > 0.5)
    return list(zip(rows.tolist(), columns.tolist(), strict=True))
