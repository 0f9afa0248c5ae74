"""ToolWorld: a self-contained world of small executable tools, and an endless generator of tasks for them."""

from __future__ import annotations

from cahl_pl.toolworld.dataset import ToolWorld, ToolWorld2, ToolWorldRecover
from cahl_pl.toolworld.generate import PROPORTIONS, SPLITS, generate_tasks
from cahl_pl.toolworld.offers import toolkit
from cahl_pl.toolworld.registry import ToolError

__all__ = [
    "PROPORTIONS",
    "SPLITS",
    "ToolError",
    "ToolWorld",
    "ToolWorld2",
    "ToolWorldRecover",
    "generate_tasks",
    "toolkit",
]
