"""What tests of the stream read off its batches, and a reward that pays nothing."""

from __future__ import annotations

from cahl_pl.rewards.base import BaseTurnReward


class Silent(BaseTurnReward):
    """Pays nothing, and keeps which rounds it was told of."""

    def __init__(self):
        self.rounds = []

    def start_round(self, index):
        self.rounds.append(index)

    def components(self, turn, gold, task):
        return {"nothing": 0.25}

    def total(self, components):
        return components["nothing"]


def requests_of(batches):
    """The requests of each round, without the repetitions of its plans; they come with its first batch."""
    return [list(dict.fromkeys(t.task.id for t in b.trajectories)) for b in batches if b.trajectories is not None]


def contents(batches):
    """Everything of the batches that training depends on, as plain values that can be compared."""
    return [
        (
            batch.role,
            batch.update,
            [group.prompt_ids.tolist() for group in batch.groups],
            [ids.tolist() for group in batch.groups for ids in group.completion_ids],
        )
        for batch in batches
    ]
