"""Waiting batches, dealt out to another number of processes."""

from __future__ import annotations

import pytest
import torch

from cahl_pl.distributed import reshard
from cahl_pl.types import Group, RolloutBatch


def group(name: int, comparison_id: int) -> Group:
    zeros = torch.zeros(1)
    return Group(torch.tensor([name]), [torch.tensor([1])], zeros, {}, zeros, zeros.bool(), comparison_id)


def batch(role, *groups) -> RolloutBatch:
    return RolloutBatch(role, list(groups), version=3)


def names(batches) -> list[list[int]]:
    return [[int(g.prompt_ids) for g in b.groups] for b in batches]


@pytest.fixture
def written():
    """Two processes with a planner's and an executor's batch each; the executor's groups 5 and 6 are one comparison."""
    return [
        [batch("planner", group(1, 0), group(2, 1)), batch("executor", group(5, 0), group(6, 0), group(7, 1))],
        [batch("planner", group(3, 0)), batch("executor", group(8, 0))],
    ]


def test_as_many_processes_get_their_own_back(written):
    assert [names(reshard(written, rank, 2)) for rank in (0, 1)] == [[[1, 2], [5, 6, 7]], [[3], [8]]]


def test_one_process_gets_all_with_comparisons_of_their_own(written):
    planner, executor = reshard(written, 0, 1)
    assert (planner.role, executor.role, executor.version) == ("planner", "executor", 3)
    assert names([planner, executor]) == [[1, 2, 3], [5, 6, 7, 8]]
    assert [g.comparison_id for g in planner.groups] == [0, 1, 2]
    assert [g.comparison_id for g in executor.groups] == [0, 0, 1, 2]


def test_three_processes_share_and_a_comparison_stays_whole(written):
    shares = [names(reshard(written, rank, 3)) for rank in range(3)]
    assert shares == [[[1], [5, 6]], [[2], [7]], [[3], [8]]]


def test_nothing_waits():
    assert reshard([[], []], 0, 1) == []


def test_groups_of_an_older_checkpoint_are_read():
    zeros = torch.zeros(1)
    batch = RolloutBatch("planner", [Group(zeros, [zeros], zeros, {}, zeros, zeros.bool(), 7)], version=3)
    state = batch.state()
    state["groups"] = [
        {"peers" if name == "comparison_id" else name: v for name, v in g.items()} for g in state["groups"]
    ]
    assert RolloutBatch.from_state(state).groups[0].comparison_id == 7
