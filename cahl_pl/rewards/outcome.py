"""Rewards without reference calls: the calls are carried out to find out what they achieve.

`Task.outcome` says how a task's fulfilment can be checked: by the results that the user wants to be told, and the state that
the environment should be in. The calls of an execution are run again in a fresh session, so that executions that were only
sampled can be judged too, and each output of a step by the episode's outcome with it, all else equal.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from cahl_pl.environments.base import Environment, answered, started, state_of
from cahl_pl.errors import ConfigError
from cahl_pl.python_tools.results import json_text
from cahl_pl.rewards.base import BaseExecutorReward, BasePlannerReward, check_weights, weighted_total
from cahl_pl.rewards.executor import format_reward, syntax_reward
from cahl_pl.rewards.planner import holds
from cahl_pl.rewards.targets import Expects, Target
from cahl_pl.schema import canonical
from cahl_pl.types import Feedback, Outcome, Plan, Step, Task, ToolCall, Trajectory

_Path: TypeAlias = tuple[str | None, ...]
_NOTHING: Final = object()  # equals no value: for missing entries of a state


class OutcomePlannerReward(BasePlannerReward):
    """R_h = R_out: mean outcome of this plan's executions (`outcome_reward`). It needs no gold calls."""

    reads_outcome = True

    def components(self, plan: Plan, trajectories: Sequence[Trajectory]) -> dict[str, float | None]:
        """Return `outcome`."""
        # without steps an unreadable plan earns 0; a task that cannot be judged is still refused
        steps = [t.steps if plan.error is None else () for t in trajectories]
        outcomes = [outcome_reward(t.task, s, self.environment) for t, s in zip(trajectories, steps, strict=True)]
        return {"outcome": sum(outcomes) / len(outcomes)}

    def total(self, components: Mapping[str, float | None]) -> float:
        """Return the outcome."""
        return components["outcome"] or 0.0


class OutcomeExecutorReward(BaseExecutorReward):
    """R_l = w_form R_l,form + w_syn R_l,syn + w_out R_out, without gold calls.

    R_out is the episode's outcome with this output at its step and all other steps as carried out, except for
    values that come from this step: a later call that used its result uses this output's result instead, or nothing if
    there is none. So the outputs of a step differ only by what they themselves change, a right one is
    told from a wrong one even if a wrong one was carried out, and an answer instead of a look-up leads nowhere. A value
    comes from a step's result if the plan says so ("$k"), or if the plan gives none and it equals that result. The plan's
    sub-task says whether a call or an answer in text is expected.

    Args:
        w_form: weight of the tags.
        w_syn: weight of the call's agreement with its tool's schema.
        w_out: weight of the outcome.

    Raises:
        ValueError: a weight is negative or not finite, or all are zero.
    """

    reads_outcome = True

    def __init__(self, w_form: float = 0.1, w_syn: float = 0.2, w_out: float = 0.7) -> None:
        self.weights = check_weights(form=w_form, syn=w_syn, outcome=w_out)

    def components(self, step: Step, target: Target, episode: Trajectory, index: int) -> dict[str, float | None]:
        """Return `form`, `syn` and `outcome`."""
        task = episode.task
        expects: Expects = "answer" if step.subtask.tool is None else "call"
        steps = [*episode.steps[:index], step, *episode.steps[index + 1 :]]
        return {
            "form": format_reward(step.action, expects),
            "syn": syntax_reward(step.action, task, expects),
            "outcome": outcome_reward(task, steps, self.environment, index, taken_up(episode, index)),
        }

    def total(self, components: Mapping[str, float | None]) -> float:
        """Return sum(w r)."""
        return weighted_total(self.weights, components)


def taken_up(episode: Trajectory, index: int) -> dict[int, list[str]]:
    """Return which arguments of later calls come from the result of a step: step -> parameters.

    Args:
        episode: the episode as carried out.
        index: the step, from 0.
    """
    feedback = episode.steps[index].feedback
    known = feedback is not None and feedback.error in (None, "tool")
    result = canonical(_value(feedback.text)) if feedback is not None and known else None
    found: dict[int, list[str]] = {}
    for place, step in enumerate(episode.steps[index + 1 :], start=index + 1):
        call = step.action.call
        if call is None:
            continue
        planned = step.subtask.parameters if step.subtask.tool == call.name else {}
        for name, value in call.arguments.items():
            says = planned[name] == f"${index + 1}" if name in planned else canonical(value) == result
            if says:
                found.setdefault(place, []).append(name)
    return found


def outcome_reward(
    task: Task,
    steps: Sequence[Step],
    environment: Environment | None,
    index: int | None = None,
    taken: Mapping[int, Sequence[str]] | None = None,
) -> float:
    """Return R_out in [0, 1]: the share of checks that pass afterwards, times the share of calls that contributed.

    The checks are the wanted results, each to be met by a different call, and the entries of the state that should change;
    each entry that changes but should not is a failed check. A call contributes if it met a check, was the last to change an
    entry that should change, or if its result is an argument of a later call that contributes. So neither calling everything
    nor calling twice pays. A wanted error is met only by a call whose numbers and texts occur in the dialogue or in an
    earlier result: many values are refused with the same words. If there is nothing to check, no tool was needed: 1 for an
    answer in text and no call, else 0.

    Args:
        task: the task, with an outcome.
        steps: the executor's steps.
        environment: runs the calls.
        index: a step whose result replaces the arguments `taken`, whatever was written there.
        taken: step -> parameters; see `taken_up`.

    Raises:
        ConfigError: the task has no outcome, or the environment does not know its own state.
    """
    wanted, held, calls = _judge(task, steps, environment, index, taken or {})
    attempts = sum(step.action.answer is None for step in steps)
    if not wanted:
        return float(held == 1.0 and not attempts)
    return held * (sum(call.served for call in calls) / max(1, attempts))


def is_fulfilled(task: Task, steps: Sequence[Step], environment: Environment | None) -> bool:
    """Return whether all checks pass, and each call contributed or failed without changing anything.

    So a call that failed without an effect is forgiven, but not one that did something else; outputs without a call do not
    count. If there is nothing to check, an answer in text is required. For the arguments and errors see `outcome_reward`.
    """
    _, held, calls = _judge(task, steps, environment)
    return held == 1.0 and all(call.served or call.failed_without_effect for call in calls)


def _judge(
    task: Task,
    steps: Sequence[Step],
    environment: Environment | None,
    index: int | None = None,
    taken: Mapping[int, Sequence[str]] | None = None,
) -> tuple[bool, float, list[_ReplayedCall]]:
    """Return whether there is anything to check, the share of checks that pass, and the calls, made again."""
    if task.outcome is None or environment is None:
        raise ConfigError(
            f"task {task.id!r} does not say what its fulfilment can be checked by: outcome rewards need `outcome` in the data"
        )
    limit = getattr(environment, "max_characters", None)
    if limit is not None and any(len(json_text(result)) > limit for result in task.outcome.results):
        raise ConfigError(
            f"task {task.id!r} wants a result longer than the {limit} characters that an answer may have: raise "
            "data.environment.max_characters"
        )
    session = started(environment, task)
    before = _entries(state_of(session, task))
    wanted_state = _wanted_state(task.outcome, before, task)
    open_results = [canonical(result) for result in task.outcome.results]
    calls: list[_ReplayedCall] = []
    last: dict[_Path, _ReplayedCall] = {}  # last call to change an entry that should change
    state = before
    result = None  # result of the step at `index`
    said = "\n".join(message.content for message in task.messages)
    for place, call in enumerate(step.action.call for step in steps):
        if call is None:
            continue
        if taken and place in taken:
            call = ToolCall(call.name, {**call.arguments, **dict.fromkeys(taken[place], result)})
        feedback = answered(session, call, task)
        after = _entries(state_of(session, task))
        made = _ReplayedCall(call, feedback)
        if feedback.error == "tool" and not _stands_in(said, call, task):
            made.key = ""
        if place == index:
            result = _value(feedback.text)
        said += "\n" + feedback.text
        if feedback.error is not None:
            made.failed_without_effect = not _changes(state, after)
        last |= {path: made for path in wanted_state if _differ(state, after, path)}
        calls.append(made)
        state = after
    for made in last.values():
        made.served = True
    # of calls with the same result, those that changed nothing are preferred, and among them the last: earlier ones led
    # to it or had no effect
    told = set()
    for made in sorted(reversed(calls), key=lambda made: made.served):
        if made.key in open_results and (made.call, made.key) not in told:  # the same again tells nothing new
            open_results.remove(made.key)
            told.add((made.call, made.key))
            made.served = True
    _count_sources(calls)
    spoilt = _changes(before, state) - wanted_state.keys()
    held = sum(not _differ(state, wanted_state, path) for path in wanted_state)
    wanted = len(task.outcome.results) + len(wanted_state)
    met = len(task.outcome.results) - len(open_results) + held
    if not wanted:
        has_answer = any(step.action.answer is not None and step.action.well_formed for step in steps)
        return False, float(has_answer and not spoilt), calls
    return True, met / (wanted + len(spoilt)), calls


def _stands_in(said: str, call: ToolCall, task: Task) -> bool:
    """Return whether each number and text of a call has been mentioned, except for those that its schema lists."""
    tool = task.tool(call.name)
    properties = {} if tool is None else tool.parameters.get("properties", {})
    return all(
        value == "" or isinstance(value, bool) or not isinstance(value, str | int | float) or holds(said, value)
        for name, value in call.arguments.items()
        if not (isinstance(properties.get(name), Mapping) and "enum" in properties[name])
    )


class _ReplayedCall:
    """Replayed call, its result, and whether it contributed or failed without an effect."""

    def __init__(self, call: ToolCall, feedback: Feedback) -> None:
        self.served = False
        self.failed_without_effect = False
        self.call = canonical([call.name, dict(call.arguments)])
        self.arguments = [canonical(value) for value in call.arguments.values()]
        self.key = "" if feedback.error not in (None, "tool") else canonical(_value(feedback.text))


def _count_sources(calls: Sequence[_ReplayedCall]) -> None:
    """Mark the nearest earlier source of each argument of a contributing call as contributing, unless another source is."""
    for place in range(len(calls) - 1, -1, -1):
        if not calls[place].served:
            continue
        for argument in calls[place].arguments:
            sources = [call for call in calls[:place] if call.key == argument and call.call != calls[place].call]
            if sources and not any(source.served for source in sources):
                sources[-1].served = True


def _wanted_state(outcome: Outcome, before: Mapping[_Path, Any], task: Task) -> dict[_Path, Any]:
    """Return the entries that should change: path -> value, or `_NOTHING` for one that should disappear."""
    if outcome.state is None:
        return {}
    if not before and task.state:
        raise ConfigError(
            f"task {task.id!r} is to be checked by its state, which this environment does not show: use ExecutableEnvironment"
        )
    after = _entries(outcome.state)
    return {path: after.get(path, _NOTHING) for path in _changes(before, after)}


def _changes(before: Mapping[_Path, Any], after: Mapping[_Path, Any]) -> set[_Path]:
    """Return the entries that differ; a table that appears or disappears only if nothing else in it changes."""
    changed = [path for path in before.keys() | after.keys() if _differ(before, after, path)]
    within = Counter(path[:end] for path in changed for end in range(len(path)))
    return {path for path in changed if path[-1] is not None or within[path[:-1]] == 1}


def _differ(before: Mapping[_Path, Any], after: Mapping[_Path, Any], path: _Path) -> bool:
    one, other = before.get(path, _NOTHING), after.get(path, _NOTHING)
    if one is _NOTHING or other is _NOTHING:
        return one is not other
    return canonical(one) != canonical(other)


def _entries(state: Any, prefix: _Path = ()) -> dict[_Path, Any]:
    """Return a state's leaves, path -> value, and its tables, path and None -> True.

    A table's existence is separate from its content: an empty one is not "changed" by its first entry.
    """
    if not isinstance(state, Mapping):
        return {prefix: state} if prefix else {}
    entries: dict[_Path, Any] = {(*prefix, None): True} if prefix else {}
    for key, value in state.items():
        entries |= _entries(value, (*prefix, str(key)))
    return entries


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
