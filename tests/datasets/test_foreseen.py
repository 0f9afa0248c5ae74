"""The field `foreseen` of a row: how many of its gold calls a first plan can hold."""

from __future__ import annotations

import pytest

from cahl_pl.datasets.jsonl import row_to_task, task_to_row
from cahl_pl.errors import DataError

PARAMETERS = {"type": "object", "properties": {"name": {"type": "string"}}}
CALLS = [
    {"name": "phone", "arguments": {"name": "Bo"}, "result": {"error": "see Al"}},
    {"name": "phone", "arguments": {"name": "Al"}, "result": "555"},
]


def row(**fields):
    tools = [{"type": "function", "function": {"name": "phone", "description": "", "parameters": PARAMETERS}}]
    return {"id": "r", "messages": [{"role": "user", "content": "Bo's phone"}], "tools": tools, "gold": CALLS} | fields


@pytest.mark.parametrize("foreseen", [1, 2, None])
def test_it_is_read_and_written(foreseen):
    task = row_to_task(row(foreseen=foreseen))
    assert task.foreseen == foreseen
    assert len(task.gold) == 2
    assert len(task.foreseeable.gold) == (foreseen or 2)
    assert row_to_task(task_to_row(task)) == task
    assert ("foreseen" in task_to_row(task)) == (foreseen is not None)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"foreseen": 0}, "'foreseen' is 0, and there are 2 gold calls: it says how many of them, at least 1, can be planned"),
        ({"foreseen": 3}, "'foreseen' is 3, and there are 2 gold calls"),
        ({"foreseen": -1}, "'foreseen' is -1"),
        ({"foreseen": True}, "'foreseen' is true"),
        ({"foreseen": 1, "gold": []}, "'foreseen' is 1, and there are 0 gold calls"),
        ({"foreseen": 2, "gold": CALLS[:1]}, "'foreseen' is 2, and there is 1 gold call:"),
        ({"foreseen": "1"}, "'foreseen' must be an integer, but is text"),
        ({"foreseen": 1.0}, "'foreseen' must be an integer, but is a number"),
        ({"foreseen": 1, "alternatives": [CALLS[1:]]}, "'foreseen' and 'alternatives' are both given"),
        ({"foreseen": 1, "gold": CALLS[::-1]}, "'foreseen' is 1, but none of these calls fails"),
        ({"forseen": 1}, "did you mean 'foreseen'"),
    ],
)  # fmt: skip
def test_what_it_cannot_mean_is_refused(fields, message):
    with pytest.raises(DataError) as refused:
        row_to_task(row(**fields))
    assert message in str(refused.value)


def test_a_result_that_is_not_stored_may_be_a_failure():
    unknown = [{"name": "phone", "arguments": {"name": "Bo"}}, CALLS[1]]
    assert row_to_task(row(gold=unknown, foreseen=1)).foreseen == 1
