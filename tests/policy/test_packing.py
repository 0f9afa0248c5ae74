"""Rows hold each sequence as a path, share what is worth it, and keep sequences from seeing one another."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cahl_pl.policy.packing import batches, pack

SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=8)


@given(SEQUENCES, st.sampled_from([1, 4, 64]), st.sampled_from([5, 40]), st.data())
def test_every_sequence_is_a_path_that_sees_itself_alone(sequences, hidden_size, max_tokens, data):
    frozen = [data.draw(st.integers(0, len(sequence) - 1)) for sequence in sequences]
    rows = pack(sequences, hidden_size, max_tokens, frozen)
    assert sorted(member for row in rows for member in row.members) == list(range(len(sequences)))
    for row in rows:
        assert len(row.ids) <= max(max_tokens, *(len(sequences[m]) for m in row.members))
        assert len(row.ids) == len(row.depths) == len(row.frozen) == sum(row.new)
        places, ends = np.arange(len(row.ids)), row.ends()
        visible = (places <= places[:, None]) & (places[:, None] < ends)
        for member, path in zip(row.members, row.paths, strict=True):
            assert [row.ids[i] for i in path] == sequences[member]
            assert [row.depths[i] for i in path] == list(range(len(path)))
            assert [row.frozen[i] for i in path] == [i < frozen[member] for i in range(len(path))]
            for i, place in enumerate(path):
                assert visible[place].nonzero()[0].tolist() == sorted(path[: i + 1])


@given(SEQUENCES, st.data())
def test_what_all_members_start_with_is_frozen_up_to_what_somebody_needs(sequences, data):
    unseen = [data.draw(st.integers(0, len(sequence) - 1)) for sequence in sequences]
    for row in pack(sequences, 64, 1000, context_tokens=unseen):
        row.freeze_trunk()
        members = [sequences[member] for member in row.members]
        common = 0
        while common < min(map(len, members)) and len({tuple(m[: common + 1]) for m in members}) == 1:
            common += 1
        trunk = min(common, *(unseen[member] for member in row.members))
        assert row.trunk() == trunk
        for path in row.paths:
            assert [row.frozen[i] for i in path] == [i < trunk for i in range(len(path))]


@given(SEQUENCES, st.data())
def test_what_has_been_read_before_is_frozen_but_never_what_another_member_needs(sequences, data):
    unseen = [data.draw(st.integers(0, len(sequence) - 1)) for sequence in sequences]
    known = [data.draw(st.integers(0, count)) for count in unseen]
    for row in pack(sequences, 64, 1000, context_tokens=unseen):
        row.freeze_trunk([known[member] for member in row.members])
        for member, path in zip(row.members, row.paths, strict=True):
            frozen = [row.frozen[i] for i in path]
            assert frozen == sorted(frozen, reverse=True)  # what is frozen comes first
            assert not any(frozen[unseen[member] :])


def test_a_prompt_that_another_one_goes_on_from_keeps_its_last_token():
    short, long = list(range(60)), list(range(90))
    (row,) = pack([short, long], 64, 1000, context_tokens=[59, 89])
    row.freeze_trunk([59, 89])
    assert row.frozen == [True] * 59 + [False] * 31


def test_what_is_shared_stands_once():
    prompt = list(range(100))
    (row,) = pack([[*prompt, 7], [*prompt, 7, 8], prompt, [*prompt, 9]], hidden_size=64, max_tokens=1000)
    assert row.ids == [*prompt, 7, 8, 9]
    assert row.new == [100, 1, 1, 1]


def test_sequences_that_share_little_do_not_share_a_row():
    rows = pack([[1, *range(10, 90)], [1, *range(100, 190)]], hidden_size=64, max_tokens=1000)
    assert [row.members for row in rows] == [[0], [1]]


def test_batches_keep_to_the_budget():
    rows = pack([[i] * n for i, n in enumerate([3, 9, 4, 30, 5])], hidden_size=8, max_tokens=20)
    parts = list(batches(rows, 20))
    assert [[len(row.ids) for row in part] for part in parts] == [[3, 4, 5], [9], [30]]
