"""Success of the episodes of a rollout or a benchmark, and the economy of their tool calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import torch
from torch import Tensor
from torchmetrics import Metric

from cahl_pl.schema import call_key
from cahl_pl.types import FeedbackError, Step, Trajectory

INVALID_CAUSES: tuple[FeedbackError, ...] = tuple(cause for cause in get_args(FeedbackError) if cause != "tool")
"""The causes that make a call invalid: all but `tool`, an error that the tool itself reports."""

_COUNTS = (
    "trajectories",
    "successes",
    "calls",
    "calls_in_successes",
    "redundant",
    "surplus",
    "subtasks",
    "plan_errors",
    "cut",
    "plan_thinking",
    "thinking",
    "tool",
    *INVALID_CAUSES,
)


def is_success(trajectory: Trajectory) -> bool:
    """Return whether a trajectory did what was asked, measured against the gold calls, or its outcome if there are none.

    With gold calls: the multiset of the executed calls equals the multiset of the gold calls, both coerced by
    the task's tools; their order does not count. Without gold calls: the plan could be read, nothing was
    called, and at least one step gave a well-formed answer. With an outcome of the trajectory: it is 1.
    """
    task = trajectory.task
    if trajectory.outcome is not None:
        return trajectory.outcome == 1.0
    if not task.gold:
        actions = [step.action for step in trajectory.steps]
        answered = any(action.answer is not None and action.well_formed for action in actions)
        return trajectory.plan.error is None and not trajectory.calls and answered
    wanted = [gold.call for gold in task.gold]
    made, right = (Counter(call_key(call, task.tools) for call in calls) for calls in (trajectory.calls, wanted))
    return made == right


class ToolUse(Metric):
    """Success and economy of tool calls over trajectories: the quantities of the paper's efficiency results.

    A *call* is a step's output that is not an answer in text; an output in which nothing can be read is a
    call with the cause `parse`. Every trajectory counts as one task. `compute` returns a dict of scalars; where
    a denominator is 0, the value is 0.

    | key | value |
    | --- | --- |
    | `task/success` | share of trajectories for which `is_success` is true |
    | `task/cut` | share of trajectories that ended early, at a prompt that was too long, mostly because of a tool's answer |
    | `tools/calls_per_task` | calls / trajectories |
    | `tools/calls_per_success` | calls in successful trajectories / successful trajectories |
    | `tools/invalid_rate` | share of calls that failed for any cause but `tool` |
    | `tools/invalid_rate/<cause>` | share of calls that failed for this cause |
    | `tools/error_rate` | share of calls that the tool itself answered with an error (cause `tool`) |
    | `tools/redundant_rate` | share of calls that repeat one made earlier in the trajectory (once coerced) |
    | `tools/excess` | sum over trajectories of max(0, calls - gold calls) / calls |
    | `plan/subtasks` | mean number of sub-tasks of the plans that could be read |
    | `plan/parse_error_rate` | share of trajectories whose plan could not be read |
    | `plan/thinking_tokens` | mean number of tokens of thought that the planner wrote for a trajectory |
    | `tools/thinking_tokens` | the same for the executor, over all its outputs |

    Args:
        kwargs: arguments of torchmetrics' `Metric`. `compute` adds up the counts of all processes on the metric's device
            (NCCL cannot reduce host tensors). `sync_on_compute=False` counts this process alone.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    counts: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # int64: sums stay exact, and are summed over processes in one go
        self.add_state("counts", torch.zeros(len(_COUNTS), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, trajectories: Sequence[Trajectory | Mapping[str, int]]) -> None:
        """Add these trajectories, or the counts that `count_uses` returned for them."""
        total: Counter[str] = Counter()
        for item in trajectories:
            total.update(count_uses(item) if isinstance(item, Trajectory) else item)
        self.counts += torch.tensor([total[name] for name in _COUNTS], device=self.counts.device)

    def compute(self) -> dict[str, Tensor]:
        """Return the values of the table above; each a float scalar."""
        n = dict(zip(_COUNTS, self.counts, strict=True))
        invalid = torch.stack([n[cause] for cause in INVALID_CAUSES]).sum()
        return {
            "task/success": _ratio(n["successes"], n["trajectories"]),
            "task/cut": _ratio(n["cut"], n["trajectories"]),
            "tools/calls_per_task": _ratio(n["calls"], n["trajectories"]),
            "tools/calls_per_success": _ratio(n["calls_in_successes"], n["successes"]),
            "tools/invalid_rate": _ratio(invalid, n["calls"]),
            **{f"tools/invalid_rate/{cause}": _ratio(n[cause], n["calls"]) for cause in INVALID_CAUSES},
            "tools/error_rate": _ratio(n["tool"], n["calls"]),
            "tools/redundant_rate": _ratio(n["redundant"], n["calls"]),
            "tools/excess": _ratio(n["surplus"], n["calls"]),
            "plan/subtasks": _ratio(n["subtasks"], n["trajectories"] - n["plan_errors"]),
            "plan/parse_error_rate": _ratio(n["plan_errors"], n["trajectories"]),
            "plan/thinking_tokens": _ratio(n["plan_thinking"], n["trajectories"]),
            "tools/thinking_tokens": _ratio(n["thinking"], n["trajectories"]),
        }


def count_uses(trajectory: Trajectory, success: bool | None = None, gold_calls: int | None = None) -> dict[str, int]:
    """Return what one trajectory adds to the counts of `ToolUse`, name -> number.

    Args:
        trajectory: the episode.
        success: whether it counts as a success; None: by `is_success`.
        gold_calls: calls that it needed; None: those of its task.
    """
    success = is_success(trajectory) if success is None else success
    gold_calls = len(trajectory.task.gold) if gold_calls is None else gold_calls
    attempts = [step for step in trajectory.steps if step.action.answer is None]
    causes = Counter[str](cause for step in attempts if (cause := _cause(step)) is not None)
    keys = [call_key(call, trajectory.task.tools) for call in trajectory.calls]
    return {
        "trajectories": 1,
        "successes": int(success),
        "calls": len(attempts),
        "calls_in_successes": len(attempts) if success else 0,
        "redundant": len(keys) - len(set(keys)),
        "surplus": max(0, len(attempts) - gold_calls),
        "subtasks": len(trajectory.plan.subtasks),
        "plan_errors": int(trajectory.plan.error is not None),
        "cut": int(trajectory.cut),
        "plan_thinking": trajectory.plan_thinking_tokens,
        "thinking": sum(step.thinking_tokens for step in trajectory.steps),
        **causes,
    }


def _cause(step: Step) -> FeedbackError | None:
    if step.action.call is None:
        return "parse"
    return None if step.feedback is None else step.feedback.error


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return part / whole.clamp(min=1)
