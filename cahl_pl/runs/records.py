"""Episodes as plain JSON values, which a run writes for people and other programs."""

from __future__ import annotations

from typing import Any

from cahl_pl.datasets.requests import KIND
from cahl_pl.metrics import is_success
from cahl_pl.types import ToolCall, Trajectory


def record(trajectory: Trajectory) -> dict[str, Any]:
    """Return one episode: request, plan, steps with calls and feedback, gold, success.

    What a user's own request needs is not known (`cahl_pl.datasets.Requests`): it has no gold, and its success is None.
    """
    task = trajectory.task
    known = task.tags.get("kind") != KIND
    return {
        "id": task.id,
        "request": task.request,
        "plan": trajectory.plan_text,
        "plan_error": trajectory.plan.error,
        "plan_thinking_tokens": trajectory.plan_thinking_tokens,
        "steps": [
            {
                "task": step.subtask.instruction,
                "output": step.text,
                "thinking_tokens": step.thinking_tokens,
                "call": None if step.action.call is None else _call(step.action.call),
                "answer": step.action.answer,
                "feedback": None if step.feedback is None else step.feedback.text,
                "error": None if step.feedback is None else step.feedback.error,
            }
            for step in trajectory.steps
        ],
        **({"gold": [_call(gold.call) for gold in task.gold]} if known else {}),
        "success": is_success(trajectory) if known else None,
    }


def _call(call: ToolCall) -> dict[str, Any]:
    return {"name": call.name, "parameters": dict(call.arguments)}
