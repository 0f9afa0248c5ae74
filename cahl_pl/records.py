"""Episodes as plain JSON values, for files that people and other programs read."""

from __future__ import annotations

from typing import Any

from cahl_pl.metrics import is_success
from cahl_pl.types import ToolCall, Trajectory


def record(trajectory: Trajectory) -> dict[str, Any]:
    """One episode: request, plan, steps with calls and feedback, gold, success."""
    task = trajectory.task
    return {
        "id": task.id,
        "request": task.request,
        "plan": trajectory.plan_text,
        "plan_error": trajectory.plan.error,
        "steps": [
            {
                "task": step.subtask.instruction,
                "output": step.text,
                "call": None if step.action.call is None else _call(step.action.call),
                "answer": step.action.answer,
                "feedback": None if step.feedback is None else step.feedback.text,
                "error": None if step.feedback is None else step.feedback.error,
            }
            for step in trajectory.steps
        ],
        "gold": [_call(gold.call) for gold in task.gold],
        "success": is_success(trajectory),
    }


def _call(call: ToolCall) -> dict[str, Any]:
    return {"name": call.name, "parameters": dict(call.arguments)}
