"""Dynamic sampling (DAPO, arXiv 2503.14476): further tasks are sampled to replace groups without a signal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from cahl_pl.distributed import sum_over_processes
from cahl_pl.rollout.episode import Round
from cahl_pl.types import Group, Role

Comparison = list[Group]
"""Groups that are compared with one another: one, except in trajectory branching."""


def refilled(
    first: Round,
    roles: Iterable[Role],
    refills: int,
    signal: Callable[[Role, list[Group]], set[int]],
    sample: Callable[[int, float], Round | None],
) -> Round:
    """Return the round with as many comparisons per role as before, those without a signal replaced as far as possible.

    Further tasks are sampled until no role lacks comparisons with a signal, at most `refills` times; a role that has
    enough takes no more. With several processes the shortage is that of all of them, so that all sample equally often.

    Args:
        first: the round.
        roles: roles trained on it.
        refills: see above.
        signal: function from a role and its groups to the comparisons (`Group.comparison_id`) with a signal.
        sample: function from the number of the refill and the missing share of a round to a round of further tasks; None
            when no task is left.

    Returns:
        The trajectories are those of `first`, so that episodes are not measured on selected tasks; the rewards are those
        of all tasks. `rollout/refills` counts, and `<role>/refilled` is the share of comparisons that were replaced.
    """
    roles = list(dict.fromkeys(roles))
    wanted = {role: len(_comparisons(first.groups[role])) for role in roles}
    good: dict[Role, list[Comparison]] = {role: [] for role in roles}
    empty: dict[Role, list[Comparison]] = {role: [] for role in roles}

    def add(result: Round) -> None:
        for role in roles:
            found = signal(role, result.groups[role])
            for comparison_id, comparison in _comparisons(result.groups[role]).items():
                (good if comparison_id in found else empty)[role].append(comparison)

    add(first)
    at_first = {role: len(good[role]) for role in roles}
    metrics, rewards, count = dict(first.metrics), dict(first.rewards), 0
    while count < refills and (share := _lacking(good, wanted)) > 0:
        more = sample(count, share)
        if more is None:
            break
        count += 1
        add(more)
        rewards |= more.rewards
        for tag in ("time/rollout_s", "rollout/tokens"):
            metrics[tag] = metrics.get(tag, 0.0) + more.metrics.get(tag, 0.0)
    if metrics.get("time/rollout_s"):
        metrics["time/tokens_per_s"] = metrics["rollout/tokens"] / metrics["time/rollout_s"]
    metrics["rollout/refills"] = float(count)
    groups = dict(first.groups)
    for role in roles:
        kept = (good[role] + empty[role])[: wanted[role]]
        groups[role] = [replace(group, comparison_id=i) for i, comparison in enumerate(kept) for group in comparison]
        replaced = min(len(good[role]), wanted[role]) - at_first[role]
        metrics[f"{role}/refilled"] = replaced / max(wanted[role], 1)
    return Round(groups, first.trajectories, metrics, rewards)


def _comparisons(groups: Sequence[Group]) -> dict[int, Comparison]:
    joined: defaultdict[int, Comparison] = defaultdict(list)
    for group in groups:
        joined[group.comparison_id].append(group)
    return joined


def _lacking(good: dict[Role, list[Comparison]], wanted: dict[Role, int]) -> float:
    """Return the largest share, over roles, of comparisons without a signal, counted over all processes."""
    own = [float(n) for role, total in wanted.items() for n in (min(len(good[role]), total), total)]
    sums = iter(sum_over_processes(own))
    return max((1 - have / total for have, total in zip(sums, sums, strict=True) if total), default=0.0)
