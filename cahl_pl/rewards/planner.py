"""R_h = w_param R_h,param + w_exe R_h,exe: it is paid for the values it finds and what its plan achieves."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from cahl_pl.rewards.base import BasePlannerReward, check_weights, weighted_total
from cahl_pl.rewards.similarity import align, similarity_matrix
from cahl_pl.schema import canonical
from cahl_pl.types import GoldCall, Plan, ToolCall, Trajectory

# References ("$1"), signed numbers, words, single other characters. Each alternative matches greedily and
# never has to give back, so that the scan is linear.
_TOKEN: Final = re.compile(r"\$\d+|(?<!\w)-?\d+(?:\.\d+)*|\w+|[^\w\s]")
_NUMBER: Final = re.compile(r"-?(?:0|[1-9]\d{0,300})(?:\.\d{1,300})?", re.ASCII)


class PlannerReward(BasePlannerReward):
    """R_h = w_param R_h,param + w_exe R_h,exe, renormalised where R_h,param is undefined.

    Args:
        w_param: weight of the argument values found in the plan.
        w_exe: weight of the execution's agreement with the gold calls.

    Raises:
        ValueError: a weight is negative or not finite, or all are zero.
    """

    def __init__(self, w_param: float = 0.3, w_exe: float = 0.7) -> None:
        self.weights = check_weights(param=w_param, exe=w_exe)

    def components(self, plan: Plan, trajectories: Sequence[Trajectory]) -> dict[str, float | None]:
        """`param`: R_h,param of the plan. `exe`: R_h,exe, averaged over the plan's executions.

        Raises:
            ValueError: there is no trajectory.
        """
        if not trajectories:
            raise ValueError("a plan needs at least one trajectory: give one without steps if none was run")
        return {
            "param": parameter_reward(plan, trajectories[0].task.gold),
            "exe": sum(map(execution_reward, trajectories)) / len(trajectories),
        }

    def total(self, components: Mapping[str, float | None]) -> float:
        """sum(w r), renormalised to the defined components."""
        return weighted_total(self.weights, components)


def parameter_reward(plan: Plan, gold: Sequence[GoldCall]) -> float | None:
    """R_h,param: how well the plan's parameter mappings hold the gold argument values.

    Each gold value is matched with at most one planned value. An equal one earns 1 (`3` and `"3"` are
    equal); one whose tokens hold the gold value's tokens as a contiguous run earns their share of it. The
    sum is divided by max(number of gold values, number of planned values), so that neither a plan that
    lists many values nor a value that holds much text pays. Which tool or parameter a value is planned for
    does not matter here: R_h,exe sees to that. Values of sub-tasks without a tool do not count.
    Takes time linear in the plan's length, times the number of gold values.

    Args:
        plan: the plan.
        gold: the gold calls; an argument that is an earlier call's result is expected as its reference "$i".

    Returns:
        A number in [0, 1]; None where the gold calls have no argument at all.
    """
    wanted = [_Value(value) for call in gold for value in call.planned.arguments.values()]
    if not wanted:
        return None
    subtasks = [subtask for subtask in plan.subtasks if subtask.tool is not None]
    planned = [_Value(value) for subtask in subtasks for value in subtask.parameters.values()]
    credits = [[_credit(value, target) for target in wanted] for value in planned]
    credit = sum(credits[i][j] for i, j in align(credits, ordered=False))
    return credit / max(len(wanted), len(planned))


def execution_reward(trajectory: Trajectory) -> float:
    """R_h,exe: agreement of what was executed with the gold trajectory.

    Executed and gold calls are aligned (`task.ordered`: i-th with i-th, otherwise the best one-to-one
    match), and the pairs' call similarities summed, over max(number of gold calls, number of executed
    calls). An output in which neither a call nor an answer could be read is an executed call that is like
    nothing. Where no call is needed: 1 if there was none, and at least one step gave a well-formed answer,
    else 0. An unreadable plan earns 0.

    Returns:
        A number in [0, 1].
    """
    task = trajectory.task
    if trajectory.plan.error is not None:
        return 0.0
    actions = [step.action for step in trajectory.steps]
    executed: list[ToolCall | None] = [action.call for action in actions if action.answer is None]
    if not task.gold:
        answered = any(action.answer is not None and action.well_formed for action in actions)
        return float(answered and not executed)
    similarities = similarity_matrix(executed, [gold.call for gold in task.gold], task.tools)
    total = sum(similarities[i, j] for i, j in align(similarities, task.ordered))
    return float(total / max(len(task.gold), len(executed)))


class _Value:
    """An argument value in the forms in which it is compared, computed once."""

    def __init__(self, value: Any) -> None:
        self.is_text = isinstance(value, str)
        self.key = canonical(value)
        self.number_key = canonical(_as_number(value)) if isinstance(value, str) else self.key
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        found = _TOKEN.findall(text.lower())
        self.tokens = f" {' '.join(found)} "  # no token holds a space: a run of tokens is a substring of this
        self.length = len(found)


def _credit(planned: _Value, gold: _Value) -> float:
    if planned.key == gold.key:
        return 1.0
    if planned.is_text != gold.is_text and planned.number_key == gold.number_key:
        return 1.0
    if gold.length and gold.tokens in planned.tokens:
        return gold.length / planned.length
    return 0.0


def _as_number(value: str) -> str | int | float:
    """The number that a text is in JSON's notation; "007" is none: its zeros mean something."""
    text = value.strip()
    if not _NUMBER.fullmatch(text):
        return value
    return float(text) if "." in text else int(text)
