"""Rewards of an executor that works without a planner: one output is scored against the gold calls that come next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from cahl_pl.rewards.alignment import align
from cahl_pl.rewards.base import BaseTurnReward, check_weights, weighted_total
from cahl_pl.rewards.executor import syntax_reward
from cahl_pl.rewards.similarity import parts, similarity_matrix
from cahl_pl.schema import call_key, coerce_call
from cahl_pl.types import Action, GoldCall, Task, ToolCall, Turn

COMPONENTS: Final = ("form", "syn", "names", "parameters", "values", "exact")


class TurnReward(BaseTurnReward):
    """Weighted mean of components, in [0, 1], whose weights may change during training.

    The components are those of the executor's reward, for a set of calls: `form` and `syn` are R_l,form and R_l,syn (the
    mean over the calls); `names`, `parameters` and `values` are the three parts of R_l,sem, summed over the best one-to-one
    match of calls and gold calls and divided by the number of calls, so that surplus calls cost; `exact` is 1 if the calls
    are gold calls, each once, in any order, else 0. Gold calls that are due together may be made together or one at a time
    (`compared_with`): the remaining ones come next.

    Args:
        weights: round -> component -> weight; omitted components weigh 0. Between two given rounds the
            weights, each scaled to a sum of 1, change linearly; after the last one they stay constant. None: form 0.1, syn
            0.2 and 0.7 for the three parts of R_l,sem together, as in `ExecutorReward`.

    Raises:
        ValueError: an unknown component, no weights for round 0, or weights that are negative, not finite or all 0.
    """

    def __init__(self, weights: dict[int, dict[str, float]] | None = None) -> None:
        third = 0.7 / 3
        given = weights or {0: {"form": 0.1, "syn": 0.2, "names": third, "parameters": third, "values": third}}
        if 0 not in given or min(given) < 0:
            raise ValueError(f"TurnReward.weights must begin with round 0, got the rounds {sorted(given)}")
        self.stages: list[tuple[int, dict[str, float]]] = []
        for round_index, some in sorted(given.items()):
            if unknown := set(some) - set(COMPONENTS):
                raise ValueError(
                    f"TurnReward has no component {sorted(unknown)[0]!r}: use some of {', '.join(COMPONENTS)}"
                )
            total = sum(check_weights(**some).values())
            self.stages.append((round_index, {name: some.get(name, 0.0) / total for name in COMPONENTS}))
        self.weights = self.stages[0][1]

    def start_round(self, index: int) -> None:
        """Set the round's weights."""
        before = max((stage for stage in self.stages if stage[0] <= index), key=lambda stage: stage[0])
        after = next((stage for stage in self.stages if stage[0] > index), before)
        share = (index - before[0]) / (after[0] - before[0]) if after is not before else 0.0
        self.weights = {name: (1 - share) * before[1][name] + share * after[1][name] for name in COMPONENTS}

    def components(self, turn: Turn, gold: Sequence[GoldCall], task: Task) -> dict[str, float | None]:
        """Return the components of the class, each in [0, 1]."""
        calls_wanted = bool(gold)
        right_kind = calls_wanted == (turn.answer is None)
        form = float(turn.well_formed and right_kind)
        if not calls_wanted:
            answered = float(turn.answer is not None)
            right = float(answered and turn.well_formed)
            return {"form": form, "syn": answered, "names": right, "parameters": right, "values": right, "exact": right}
        if not turn.calls:
            return {"form": form, **dict.fromkeys(COMPONENTS[1:], 0.0)}
        wanted = compared_with(turn.calls, gold, task)
        names, parameters, values = agreement(turn.calls, wanted, task)
        return {
            "form": form,
            "syn": sum(syntax_reward(Action(call=call), task, "call") for call in turn.calls) / len(turn.calls),
            "names": names,
            "parameters": parameters,
            "values": values,
            "exact": float(is_same(turn.calls, wanted, task)),
        }

    def total(self, components: Mapping[str, float | None]) -> float:
        """Return sum(w r) with the round's weights."""
        return weighted_total(self.weights, components)


class ToolN1Reward(BaseTurnReward):
    """Tool-N1's binary reward (arXiv 2505.00024): 1 for the right calls in the right form, else 0.

    In Tool-N1 an output is a whole answer; here an episode has turns, and calls that are due together may be made together or
    one at a time (`compared_with`).

    Args:
        thinking: whether text in `<think>` tags must come first, as in Tool-N1; False for models that do not think.
    """

    def __init__(self, thinking: bool = True) -> None:
        self.thinking = thinking

    def components(self, turn: Turn, gold: Sequence[GoldCall], task: Task) -> dict[str, float | None]:
        """Return `form`: tags and thought; `exact`: the calls are gold calls that are due, in any order (none: an answer)."""
        form = float(turn.well_formed and (turn.thought or not self.thinking))
        if not gold:
            return {"form": form, "exact": float(turn.answer is not None)}
        wanted = compared_with(turn.calls, gold, task)
        return {"form": form, "exact": float(is_same(turn.calls, wanted, task))}

    def total(self, components: Mapping[str, float | None]) -> float:
        """Return 1 if both are 1, else 0."""
        return float(all(value == 1.0 for value in components.values()))


def compared_with(calls: Sequence[ToolCall], gold: Sequence[GoldCall], task: Task) -> list[ToolCall]:
    """Return the gold calls that an output's calls are compared with: the best fitting ones, as many as it makes.

    Gold calls that are due together wait for nothing, so that an agent may as well make them one at a time. An output
    without a call is compared with all of them.

    Args:
        calls: the output's calls.
        gold: the gold calls that are due (`rollout.gold.next_calls`).
        task: task whose tools determine coercion.
    """
    wanted = [one.call for one in gold]
    if not 0 < len(calls) < len(wanted):
        return wanted
    chosen = sorted(j for _, j in align(similarity_matrix(calls, wanted, task.tools)))
    return [wanted[j] for j in chosen]


def agreement(calls: Sequence[ToolCall], gold: Sequence[ToolCall], task: Task) -> tuple[float, float, float]:
    """Return how far some calls agree with gold calls: the three parts of the call similarity, over their best match.

    Args:
        calls: K >= 1 calls.
        gold: N >= 1 gold calls.
        task: task whose tools determine coercion.

    Returns:
        Each in [0, 1]: the shares, of max(K, N), of calls with the right tool, of their parameter names (IoU), and of gold
        values that are equal.
    """
    pairs = align(similarity_matrix(calls, gold, task.tools))
    found = [parts(coerce_call(calls[i], task.tools), coerce_call(gold[j], task.tools)) for i, j in pairs]
    size = max(len(calls), len(gold))
    names, parameters, values = (sum(part[k] for part in found) / size for k in range(3))
    return names, parameters, values


def is_same(calls: Sequence[ToolCall], gold: Sequence[ToolCall], task: Task) -> bool:
    """Return whether the calls are the same multiset, once coerced."""
    made, wanted = (Counter(call_key(call, task.tools) for call in some) for some in (calls, gold))
    return made == wanted
