"""Resident memory of this process on Linux, as the tools that measure it read it."""

from __future__ import annotations

from pathlib import Path

RELEASE = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""Environment for a measured process: glibc gives blocks of more than so many bytes back at once."""


def forget_peak() -> None:
    """Let VmHWM begin again."""
    Path("/proc/self/clear_refs").write_text("5")


def resident(name: str) -> int:
    """Return the bytes that /proc/self/status gives: VmRSS now, VmHWM the most since `forget_peak` or the program's start."""
    # not ru_maxrss: a process begins with that of the one that has started it
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:")]
    return 1024 * int(line.split()[1])
