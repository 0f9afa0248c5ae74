"""Planner's reward R_h, for the values it finds and what the executor achieves, or is likely to achieve, with its plan."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from cahl_pl.rewards.alignment import align, align_plan, precedence, read_references
from cahl_pl.rewards.base import BasePlannerReward, check_weights, weighted_total
from cahl_pl.rewards.similarity import similarity_matrix
from cahl_pl.schema import canonical
from cahl_pl.types import Plan, Task, ToolCall, Trajectory

# Scripts without spaces between words: each character is a token, so that a city's name is found before the word for "city".
_UNSPACED: Final = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
# References ("$1"), signed numbers, words, single other characters. Each alternative matches greedily and
# never backtracks, so that the scan is linear.
_TOKEN: Final = re.compile(rf"\0?\$\d+|(?<!\w)-?\d+(?:\.\d+)*|[{_UNSPACED}]|(?:(?![{_UNSPACED}])\w)+|[^\w\s]")
_NUMBER: Final = re.compile(r"-?(?:0|[1-9]\d{0,300})(?:\.\d{1,300})?", re.ASCII)


class PlannerReward(BasePlannerReward):
    """R_h = w_param R_h,param + w_exe R_h,exe + w_prob R_h,prob, renormalised where a component is undefined.

    A plan is rewarded for its requests and their results, never for asking twice: see the functions below.

    Args:
        w_param: weight of the argument values found in the plan.
        w_exe: weight of the execution's agreement with the gold calls.
        w_prob: weight of the executor's probability of making the gold calls, given what the plan tells it: a dense term
            without the luck of sampling (ours).
        in_words: look for the values in a sub-task's instruction if it maps no parameters; for planners that read only the
            tools' names (`data.prompts.tool_format: names`).

    Raises:
        ValueError: a weight is negative or not finite, or all are zero.
    """

    def __init__(self, w_param: float = 0.3, w_exe: float = 0.7, in_words: bool = False, w_prob: float = 0.0) -> None:
        weights = check_weights(param=w_param, exe=w_exe, prob=w_prob)
        self.reads_probabilities = w_prob > 0
        self.weights = weights if self.reads_probabilities else {"param": w_param, "exe": w_exe}
        self.in_words = in_words

    def components(self, plan: Plan, trajectories: Sequence[Trajectory]) -> dict[str, float | None]:
        """Return `param`: R_h,param of the plan; `exe` and, if weighted, `prob`: R_h,exe and R_h,prob averaged over executions.

        Raises:
            ValueError: there is no trajectory.
        """
        if not trajectories:
            raise ValueError("a plan needs at least one trajectory: give one without steps if none was run")
        found: dict[str, float | None] = {
            "param": parameter_reward(plan, trajectories[0].task, self.in_words),
            "exe": sum(map(execution_reward, trajectories)) / len(trajectories),
        }
        if self.reads_probabilities:
            found["prob"] = sum(map(probability_reward, trajectories)) / len(trajectories)
        return found

    def total(self, components: Mapping[str, float | None]) -> float:
        """Return sum(w r), renormalised to the defined components."""
        return weighted_total(self.weights, components)


def parameter_reward(plan: Plan, task: Task, in_words: bool = False) -> float | None:
    """Return R_h,param: how well the plan's parameter mappings contain the gold argument values.

    Each gold value is matched with at most one value that is planned for the same tool. An equal one earns 1 (`3` and `"3"`
    are equal); one whose tokens contain the gold value's tokens as a contiguous run earns their share of it. The sum is
    divided by max(number of gold values, number of planned values), so that neither listing many values nor a value with
    much text pays. The parameter of the tool that a value is planned for does not matter here: R_h,exe covers that. A
    gold argument that is an earlier call's result is expected as the reference "$k" to the sub-task matched with that
    call (`align_plan`), with the gold call's path into it, or any path if gold names the whole result. Values of sub-tasks
    without a tool do not count.
    Takes time linear in the plan's length, times the number of gold values.

    If no call is needed, the right mapping is empty: 1 over the number of sub-tasks if no sub-task names a tool, and
    0 if one does or the plan is unreadable. Otherwise a planner that requests a call for every request would lose nothing
    under this term alone.

    With `in_words`, a sub-task that maps no parameters plans each gold value of its tool that its instruction contains as a
    run of whole tokens, and one that matches nothing if it contains none: naming every value in each sub-task for the same
    tool costs as much as surplus values. Values fixed by the tool's schema are then not expected, since names do not tell
    them, and neither are truth values, which can be expressed in many ways.

    Args:
        plan: the plan.
        task: the task.
        in_words: read instructions too.

    Returns:
        A number in [0, 1]; None if there are gold calls, but neither they nor the plan have any value.
    """
    if not task.gold:
        silent = plan.error is None and all(subtask.tool is None for subtask in plan.subtasks)
        return silent / max(len(plan.subtasks), 1)
    wanted = []
    own = {j: j for j in range(len(task.gold))}
    for j, call in enumerate(task.gold):
        results = {name: read_references(value, j, own) for name, value in call.references.items()}
        values = {**call.arguments, **results}
        if in_words:
            values = {n: v for n, v in values.items() if not isinstance(v, bool) and not _is_fixed(task, call.name, n)}
        wanted += [(call.name, _Value(value), name in call.references) for name, value in values.items()]
    places = [(k, subtask) for k, subtask in enumerate(plan.subtasks) if subtask.tool is not None]
    match = align_plan(plan, task) if any(call.references for call in task.gold) else {}
    planned = [
        (subtask.tool, _Value(value), _Value(read_references(value, k, match)))
        for k, subtask in places
        for value in subtask.parameters.values()
    ]
    if in_words:
        for k, subtask in places:
            if not subtask.parameters:
                words, read = _Value(subtask.instruction), _Value(read_references(subtask.instruction, k, match))
                held = [
                    gold
                    for name, gold, refers in wanted
                    if name == subtask.tool and gold.length and gold.tokens in (read if refers else words).tokens
                ]
                planned += [(subtask.tool, gold, gold) for gold in held or [_NO_VALUE]]
    if not wanted and not planned:
        return None
    credits = [
        [_credit(read if refers else value, gold) if tool == name else 0.0 for name, gold, refers in wanted]
        for tool, value, read in planned
    ]
    credit = sum(credits[i][j] for i, j in align(credits)) if wanted else 0.0
    return credit / max(len(wanted), len(planned))


def execution_reward(trajectory: Trajectory) -> float:
    """Return R_h,exe: agreement of the execution with the gold trajectory.

    Executed and gold calls are matched in an order that references allow (`align`, `precedence`), and the pairs' call
    similarities summed, over max(number of gold calls, number of executed calls, number of sub-tasks without the first
    one in text). An output in which neither a call nor an answer could be read is an executed call that resembles none,
    and so is a call under a sub-task that names no tool: the plan did not ask for it. One sub-task in text is free, since a
    plan may end by telling the user; each further one counts as one that names a tool. So surplus or repeated sub-tasks
    cost the same whether the executor carries them out, answers them or never reaches them.

    If no call is needed: 0 if a sub-task names a tool, if there was a call, or if no step gave a well-formed answer; else
    1 over the number of sub-tasks. An unreadable plan earns 0.

    Returns:
        A number in [0, 1].
    """
    task, subtasks = trajectory.task, trajectory.plan.subtasks
    if trajectory.plan.error is not None:
        return 0.0
    named = sum(subtask.tool is not None for subtask in subtasks)
    attempts = [step for step in trajectory.steps if step.action.answer is None]
    if not task.gold:
        answered = any(step.action.answer is not None and step.action.well_formed for step in trajectory.steps)
        return answered / max(len(subtasks), 1) if not attempts and not named else 0.0
    executed: list[ToolCall | None] = [step.action.call if step.subtask.tool is not None else None for step in attempts]
    similarities = similarity_matrix(executed, [gold.call for gold in task.gold], task.tools)
    total = sum(similarities[i, j] for i, j in align(similarities, precedence(task)))
    asked = named + max(0, len(subtasks) - named - 1)
    return float(total / max(len(task.gold), len(executed), asked))


def probability_reward(trajectory: Trajectory) -> float:
    """Return R_h,prob: share of the gold calls that the executor is expected to make, given what the plan tells it.

    Each gold call counts by its probability at the step where it is due (`Trajectory.call_probabilities`), whose
    sub-task names a tool. The sum is divided like that of R_h,exe, by max(number of gold calls, number of sub-tasks without
    the first one in text), so that a call requested twice counts once and costs as a surplus sub-task. If no call is
    needed, the execution counts instead: R_h,exe.

    Returns:
        A number in [0, 1].
    """
    task, subtasks = trajectory.task, trajectory.plan.subtasks
    if not task.gold:
        return execution_reward(trajectory)
    named = sum(subtask.tool is not None for subtask in subtasks)
    asked = named + max(0, len(subtasks) - named - 1)
    return sum((trajectory.call_probabilities or {}).values()) / max(len(task.gold), asked)


def holds(text: str, value: Any) -> bool:
    """Return whether a text contains a value as a run of whole tokens, ignoring case. Nothing contains a blank value."""
    found = _Value(value)
    return found.length > 0 and found.tokens in _Value(text).tokens


class _Value:
    """Argument value in the forms used for comparison, computed once."""

    def __init__(self, value: Any) -> None:
        self.is_text = isinstance(value, str)
        self.key = canonical(value, strip=True)
        self.number_key = canonical(_as_number(value)) if self.is_text else self.key
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        self.reference = text if text.startswith("\0$") else None
        found = _TOKEN.findall(text.lower())
        self.tokens = f" {' '.join(found)} "  # no token contains a space: a run of tokens is a substring of this
        self.length = len(found)


def _is_fixed(task: Task, tool: str, parameter: str) -> bool:
    """Return whether the tool's schema allows only one value."""
    spec = task.tool(tool)
    schema = spec.parameters.get("properties", {}).get(parameter, {}) if spec else {}
    return isinstance(schema, Mapping) and ("const" in schema or len(schema.get("enum", ())) == 1)


def _credit(planned: _Value, gold: _Value) -> float:
    if planned.key == gold.key:
        return 1.0
    if planned.is_text != gold.is_text and planned.number_key == gold.number_key:
        return 1.0
    if gold.reference is not None and planned.reference is not None:
        rest = planned.reference.removeprefix(gold.reference)
        return float(rest != planned.reference and rest[:1] in (".", "["))
    if gold.length and gold.tokens in planned.tokens:
        return gold.length / planned.length
    return 0.0


def _as_number(value: str) -> str | int | float:
    """Return the number that a text is in JSON's notation; "007" is not one: its zeros are significant."""
    text = value.strip()
    if not _NUMBER.fullmatch(text):
        return value
    return float(text) if "." in text else int(text)


_NO_VALUE: Final = _Value("\0")  # no JSON text contains it
