"""Executor's reward for its sub-task: R_l = w_form R_l,form + w_syn R_l,syn + w_sem R_l,sem."""

from __future__ import annotations

from collections.abc import Mapping

from cahl_pl.rewards.base import BaseExecutorReward, check_weights, weighted_total
from cahl_pl.rewards.similarity import call_similarity
from cahl_pl.rewards.targets import Expects, Target
from cahl_pl.schema import coerce_call, find_problems
from cahl_pl.types import Action, Step, Task, Trajectory


class ExecutorReward(BaseExecutorReward):
    """R_l = w_form R_l,form + w_syn R_l,syn + w_sem R_l,sem.

    Args:
        w_form: weight of the tags.
        w_syn: weight of the call's agreement with its tool's schema.
        w_sem: weight of the call's agreement with the gold call.

    Raises:
        ValueError: a weight is negative or not finite, or all are zero.
    """

    def __init__(self, w_form: float = 0.1, w_syn: float = 0.2, w_sem: float = 0.7) -> None:
        self.weights = check_weights(form=w_form, syn=w_syn, sem=w_sem)

    def components(self, step: Step, target: Target, episode: Trajectory, index: int) -> dict[str, float | None]:
        """Return `form`, `syn` and `sem`: R_l,form, R_l,syn and R_l,sem of the step's output."""
        task = episode.task
        return {
            "form": format_reward(step.action, target.expects),
            "syn": syntax_reward(step.action, task, target.expects),
            "sem": semantic_reward(step.action, target, task),
        }

    def total(self, components: Mapping[str, float | None]) -> float:
        """Return sum(w r)."""
        return weighted_total(self.weights, components)


def format_reward(action: Action, expects: Expects) -> float:
    """Return R_l,form in {0, 1}: the tags of the expected kind occur once, in order, with nothing outside them."""
    if not action.well_formed:
        return 0.0
    # Well-formed tags without an answer are a call's, even if its payload could not be read.
    kind = "call" if action.answer is None else "answer"
    return float(expects == kind)


def syntax_reward(action: Action, task: Task, expects: Expects) -> float:
    """Return R_l,syn in [0, 1]: agreement of the call with its tool's schema.

    The mean of four checks: the payload parses; the tool is offered; the required parameters are present and
    none is undeclared; the values have their declared types. A check that cannot be made counts 0. An
    answer where one is expected: 1; the wrong kind of output: 0.
    """
    if action.answer is not None:
        return float(expects == "answer")
    if action.call is None or expects == "answer":
        return 0.0
    causes = {problem.cause for problem in find_problems(action.call, task.tools)}
    if "unknown_tool" in causes:
        return 0.25
    return 0.5 + 0.25 * (not causes & {"missing", "undeclared"}) + 0.25 * ("type" not in causes)


def semantic_reward(action: Action, target: Target, task: Task) -> float:
    """Return R_l,sem in [0, 1]: agreement of the call with the gold call of this sub-task.

    The mean of tool-name IoU, parameter-name IoU and share of equal values. With one call on each side the
    tool-name IoU is 1 or 0; if it is 0 so are the other two, since a parameter has meaning only within
    its tool: otherwise a wrong tool with the right arguments would equal the right tool with wrong ones.
    This is the call similarity s(a, a*), so that executor and planner are rewarded for the same thing.

    Returns:
        A number in [0, 1]. If an answer is expected, 1 for a well-formed one and 0 otherwise.
    """
    if target.gold is None:
        return float(action.answer is not None and action.well_formed)
    if action.call is None:
        return 0.0
    return call_similarity(coerce_call(action.call, task.tools), coerce_call(target.gold.call, task.tools))
