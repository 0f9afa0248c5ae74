"""What a run writes for people and other programs: where, and episodes as plain JSON values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from cahl_pl.datasets.requests import KIND
from cahl_pl.metrics import is_success
from cahl_pl.types import ToolCall, Trajectory


def record(trajectory: Trajectory) -> dict[str, Any]:
    """One episode: request, plan, steps with calls and feedback, gold, success.

    Nobody knows what a user's own request needs (`cahl_pl.datasets.Requests`): it has no gold, and its success is None.
    """
    task = trajectory.task
    known = task.tags.get("kind") != KIND
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
        **({"gold": [_call(gold.call) for gold in task.gold]} if known else {}),
        "success": is_success(trajectory) if known else None,
    }


def _call(call: ToolCall) -> dict[str, Any]:
    return {"name": call.name, "parameters": dict(call.arguments)}


def run_folder(trainer: Trainer) -> Path:
    """The run's folder, made if it is not there.

    `trainer.log_dir` gives the same, but asks all processes for it: called on one of them alone, it waits for ever.
    """
    loggers = [logger.log_dir for logger in trainer.loggers if logger.log_dir]
    folder = Path(loggers[0] if loggers else trainer.default_root_dir)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
