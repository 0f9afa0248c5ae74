"""Resident memory of this process on Linux, for the programs that measure it."""

from __future__ import annotations

from pathlib import Path

RELEASE = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""Environment for a measured process: glibc returns blocks above this size in bytes at once."""


def forget_peak() -> None:
    """Reset VmHWM."""
    Path("/proc/self/clear_refs").write_text("5")


def resident(name: str) -> int:
    """Return a value of /proc/self/status in bytes: VmRSS now, VmHWM the peak since `forget_peak` or the program's start."""
    # not ru_maxrss: a process starts with its parent's value
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:")]
    return 1024 * int(line.split()[1])
