"""ToolRL's reward (arXiv 2504.13958), with the scales and granularities that its code offers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

from cahl_pl.rewards.base import BaseTurnReward
from cahl_pl.rewards.turn import compared_with
from cahl_pl.types import GoldCall, Task, ToolCall, Turn


class ToolRLReward(BaseTurnReward):
    """R = R_format + R_correct.

    R_format is at its maximum for an output of the right form, else at its minimum. R_correct rises linearly from its minimum
    at S = 0 to its maximum at S = S_max, with S = J(names) + sum over gold calls of the score of the best unused call of that
    tool, J(parameter names) + number of equal values, J the multiset Jaccard index, and S_max = 1 + sum(1 + number of
    parameters); at its minimum if nothing can be read. If no call is due, R_correct is 0 whatever was written, as in ToolRL.

    Two things differ, since an episode has turns here. Gold calls that are due together may be made together or one at a time:
    an output is compared with as many of them as it makes (`turn.compared_with`). And the score of the gold calls is multiplied
    by N over the number of calls if an output makes more than the N that are due: in ToolRL's code only J(names) falls, so
    that 64 calls at once, one of them right, earn more than one that lacks a value (`surplus_costs`).

    Values are compared as written, without coercion. The output is read by this project's grammar, where each call
    may have its own tags.

    Args:
        scale: `max3`: R_format in {0, 1}, R_correct in [-3, 3]. `max1`: R_correct in [-1, 1]. `two_stage`: R_correct in
            [-1, 1] in the first 30 rounds; then in [-3, 3], and R_format in {0, 0.5}. `smooth`: within 150 rounds R_format
            goes from {-2, 2} to {-1, 1} and R_correct from [-2, 2] to [-3, 3].
        granularity: `fine`, as above. `refined`: J is 1 for equal lists, else 0. `intermediate`: a gold call counts 1 if
            exactly this call was made, else 0. `coarse`: R_correct is maximal for exactly the gold calls, else minimal.
        thinking: whether text in `<think>` tags must come first, as in ToolRL; False for models that do not think.
        surplus_costs: whether surplus calls cost, as above; False for ToolRL's own formula.
    """

    def __init__(
        self,
        scale: Literal["max3", "max1", "two_stage", "smooth"] = "max3",
        granularity: Literal["fine", "refined", "intermediate", "coarse"] = "fine",
        thinking: bool = True,
        surplus_costs: bool = True,
    ) -> None:
        self.scale = scale
        self.surplus_costs = surplus_costs
        self.granularity = granularity
        self.thinking = thinking
        self.start_round(0)

    def start_round(self, index: int) -> None:
        """Set the round's ranges."""
        self.format_range, self.correct_range = (0.0, 1.0), (-3.0, 3.0)
        if self.scale == "max1" or (self.scale == "two_stage" and index < 30):
            self.correct_range = (-1.0, 1.0)
        elif self.scale == "two_stage":
            self.format_range = (0.0, 0.5)
        elif self.scale == "smooth":
            share = min(index / 150, 1.0)
            self.format_range = (-2.0 + share, 2.0 - share)
            self.correct_range = (-2.0 - share, 2.0 + share)

    @property
    def maximum(self) -> float:
        """The reward of the gold calls in this round."""
        return self.format_range[1] + self.correct_range[1]

    def components(self, turn: Turn, gold: Sequence[GoldCall], task: Task) -> dict[str, float | None]:
        """Return `form`, R_format, and `correct`, R_correct, both in the round's ranges."""
        right_form = (
            turn.well_formed
            and turn.error is None
            and (turn.answer is None) == bool(gold)
            and (turn.thought or not self.thinking)
        )
        return {
            "form": self.format_range[right_form],
            "correct": self._correct(turn, compared_with(turn.calls, gold, task)),
        }

    def total(self, components: Mapping[str, float | None]) -> float:
        """Return their sum."""
        return sum(value for value in components.values() if value is not None)

    def _correct(self, turn: Turn, gold: Sequence[ToolCall]) -> float:
        low, high = self.correct_range
        if not gold:
            return 0.0
        if not turn.calls:
            return low
        if list(turn.calls) == list(gold):
            return high
        if self.granularity == "coarse":
            return low
        score = 0.0
        best_possible = 1.0
        unused = list(turn.calls)
        for wanted in gold:
            best_possible += 1.0 if self.granularity == "intermediate" else 1.0 + len(wanted.arguments)
            values = [self._call_score(call, wanted) for call in unused]
            if values and max(values) > 0:  # ties: the first, as in ToolRL
                score += max(values)
                del unused[values.index(max(values))]
        if self.surplus_costs:
            score *= min(1.0, len(gold) / len(turn.calls))
        score += self._jaccard([call.name for call in gold], [call.name for call in turn.calls])
        return low + (high - low) * score / best_possible

    def _call_score(self, call: ToolCall, gold: ToolCall) -> float:
        if call.name != gold.name:
            return 0.0
        if self.granularity == "intermediate":
            return float(call == gold)
        equal = sum(1.0 for k, v in gold.arguments.items() if k in call.arguments and call.arguments[k] == v)
        return self._jaccard(list(gold.arguments), list(call.arguments)) + equal

    def _jaccard(self, gold: Sequence[str], found: Sequence[str]) -> float:
        """Return the multiset Jaccard index; `refined`: 1 for equal lists, else 0."""
        if gold == found:
            return 1.0
        if self.granularity == "refined":
            return 0.0
        both = (Counter(gold) & Counter(found)).total()
        return both / (len(gold) + len(found) - both)
