"""Model prompts: a task's tools, dialogue and request, and each role's own words, as token ids."""

from cahl_pl.prompts.builder import (
    EXECUTOR_INSTRUCTION,
    PLANNER_INSTRUCTION,
    SINGLE_INSTRUCTION,
    PromptBuilder,
    PromptConfig,
    dialogue,
)
from cahl_pl.prompts.tool_text import MAX_ENUM, ToolFormat, tool_text

__all__ = [
    "EXECUTOR_INSTRUCTION",
    "MAX_ENUM",
    "PLANNER_INSTRUCTION",
    "SINGLE_INSTRUCTION",
    "PromptBuilder",
    "PromptConfig",
    "ToolFormat",
    "dialogue",
    "tool_text",
]
