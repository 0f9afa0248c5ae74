"""Systems that benchmark_levels.py compares, and the formatting of their figures."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

TWO, DRAFTED, ONE = "planner + executor", "planner + executor, drafts", "single-level"
SYSTEMS = {"training": (TWO, ONE), "inference": (TWO, DRAFTED, ONE)}
TARGETS = {"training": 1.05, "inference": 1.25}


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Return the median [least, most]."""
    return f"{statistics.median(values):.{digits}f} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


def ratio(values: dict[str, list[Any]], system: str) -> str:
    """Return the ratio of a system's median to the single-level one's; empty for that one."""
    return "" if system == ONE else f"{statistics.median(values[system]) / statistics.median(values[ONE]):.2f}"


def verdict(part: str, ratios: dict[str, float]) -> str:
    """Return whether the ratios are within the target of `training` or `inference`."""
    target = TARGETS[part]
    told = (f"{name}: {ratio:.3f}, {'met' if ratio <= target else 'not met'}" for name, ratio in ratios.items())
    return f"Target, at most {target} x single-level: {'; '.join(told) or 'not measured'}."
