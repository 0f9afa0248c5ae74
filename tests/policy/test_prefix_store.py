"""What a store of prefixes finds, keeps and lets go of, worked out by hand and by a store that forgets nothing."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cahl_pl.policy.prefix_store import PrefixStore, _walk


def keys_of(ids):
    """Keys and values that tell every token of a prefix and its place: two layers, [heads, tokens, d]."""
    place = torch.arange(len(ids)) * 1000 + torch.as_tensor(np.asarray(ids))
    keys = place.float()[None, :, None].repeat(2, 1, 3)
    return [(keys, -keys), (keys + 0.5, keys)]


def keep(store, owner, ids):
    layers = keys_of(ids)
    store.keep(owner, np.array(ids), lambda a, b: [(k[:, a:b].clone(), v[:, a:b].clone()) for k, v in layers])


def found(store, owner, ids):
    """How many tokens are found; their keys and values are checked."""
    pieces = store.find(owner, np.array(ids))
    length = sum(n for n, _ in pieces)
    for i, pair in enumerate(keys_of(ids[:length])):
        for which, expected in enumerate(pair):
            parts = [layers[i][which][:, :n] for n, layers in pieces]
            assert torch.equal(torch.cat(parts, 1) if parts else expected, expected)
    return length


def held(store):
    """Tokens whose keys are really in memory, by the storages of all segments."""
    segments = [segment for root in store._roots.values() for segment, _ in _walk(root)]
    storages = {k.untyped_storage().data_ptr(): k.untyped_storage().nbytes() for s in segments for k, _ in s.layers[:1]}
    return sum(storages.values()) // (2 * 3 * 4)


def test_what_prefixes_share_lies_once_and_a_longer_one_holds_the_shorter():
    store = PrefixStore(100)
    keep(store, "base", [1, 2, 3, 4])
    keep(store, "base", [1, 2, 3, 4, 5, 6])
    assert store.tokens == held(store) == 6
    keep(store, "base", [1, 2, 9, 8, 7])
    assert store.tokens == held(store) == 9
    keep(store, "base", [1, 2])
    assert store.tokens == 9
    assert found(store, "base", [1, 2, 3, 4, 5, 0]) == 5
    assert found(store, "base", [1, 2, 9, 8, 7, 6]) == 5
    assert found(store, "base", [2]) == found(store, "planner 1", [1, 2]) == 0
    store.forget()
    assert (store.tokens, found(store, "base", [1])) == (0, 0)


def test_what_was_used_longest_ago_gives_way_ends_first():
    store = PrefixStore(9)
    store.begin({"planner 0"})
    keep(store, "planner 0", [1, 2, 3, 4, 5])
    store.begin({"planner 0"})
    keep(store, "planner 0", [6, 7, 8])
    store.begin({"planner 0"})
    assert found(store, "planner 0", [1, 2]) == 2  # used again, in part: the whole segment
    keep(store, "planner 0", [9, 9])
    assert [found(store, "planner 0", ids) for ids in ([1, 2, 3, 4, 5], [6, 7], [9, 9])] == [5, 0, 2]
    store.begin({"planner 0"})
    keep(store, "planner 0", [1, 2, 0, 0, 0, 0, 0, 0])  # what it shares a beginning with counts as used too
    assert [found(store, "planner 0", ids) for ids in ([1, 2, 3], [9, 9], [1, 2, 0, 0, 0, 0, 0, 0])] == [3, 0, 6]
    assert store.tokens == held(store) == 9
    store.begin({"planner 0"})
    keep(store, "planner 0", [5, 5])
    assert found(store, "planner 0", [5, 5]) == 2
    assert store.tokens <= 9  # an end gave way, and what both ends share is still there
    assert found(store, "planner 0", [1, 2]) == 2


def test_of_several_ends_the_oldest_gives_way_first():
    store = PrefixStore(9)
    for start in (1, 4, 7):
        store.begin({"base"})
        keep(store, "base", [start, start + 1, start + 2])
    store.begin({"base"})
    assert found(store, "base", [1, 2, 3]) == 3  # used again: now [4, 5, 6] is the oldest
    store.begin({"base"})
    keep(store, "base", [20, 21])
    assert [found(store, "base", [i, i + 1, i + 2]) for i in (1, 4, 7)] == [3, 0, 3]


def test_what_the_present_call_uses_stays_and_as_much_as_there_is_room_for_is_kept():
    store = PrefixStore(8)
    for _ in range(3):  # more than there is room for, in the same order: the first ones are found again
        store.begin({"base"})
        for ids in ([1] * 5, [2] * 5, [3] * 5):
            keep(store, "base", ids)
        assert [found(store, "base", [i] * 5) for i in (1, 2, 3)] == [5, 3, 0]
    assert store.tokens == held(store) == 8
    nothing = PrefixStore(0)
    keep(nothing, "base", [1, 2])
    assert nothing.tokens == found(nothing, "base", [1]) == 0


def test_what_can_serve_nobody_is_dropped():
    store = PrefixStore(8)
    store.begin({"planner 0", "executor 0"})
    keep(store, "planner 0", [1, 2, 3])
    keep(store, "executor 0", [1, 2])
    store.begin({"planner 0", "executor 0"})
    keep(store, "executor 0", [4, 5, 6, 7, 8])  # the planner's gives way to it, and so does its own old one
    assert store.tokens == 8 or found(store, "planner 0", [1]) == 0
    keep(store, "planner 0", [1, 2, 3])
    store.begin({"planner 1", "executor 0"})
    assert found(store, "planner 0", [1, 2, 3]) == 0
    assert (
        store.tokens == held(store) == found(store, "executor 0", [4, 5, 6, 7, 8]) + found(store, "executor 0", [1, 2])
    )


@settings(deadline=None)
@given(
    st.integers(0, 12),
    st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 2), min_size=1, max_size=6)), max_size=25),
)
def test_it_never_holds_more_than_it_may_nor_finds_what_is_not_so(limit, calls):
    store, kept = PrefixStore(limit), []
    for starts, ids in calls:
        if starts:
            store.begin({"base"})
        keep(store, "base", ids)
        kept.append(ids)
        assert store.tokens == held(store) <= limit
        for one in kept:
            assert found(store, "base", one) <= len(one)
    assert found(store, "base", [0, 1, 2]) <= max((len(_shared(one, [0, 1, 2])) for one in kept), default=0)


def _shared(a, b):
    return [x for i, x in enumerate(a) if a[: i + 1] == b[: i + 1]]
