"""Short prompts that the small shipped model was trained with."""

from __future__ import annotations

from cahl_pl.prompts import PromptConfig

PROMPTS = PromptConfig(
    tool_format="compact",
    system="Tools:",
    planner="Plan",
    executor="Step {index}: {subtask}",
    single="Act",
    feedback="Result: {feedback}",
)
