"""Limit on the spinning of torch's threads while they wait for each other; to be set before torch is imported."""

from __future__ import annotations

import os

SPINS = "1000"
"""Rounds that a waiting thread of GNU OpenMP, torch's on Linux, spins before it sleeps.

Without a bound it spins for milliseconds, and if other programs keep the cores busy it spins on the core that the thread it
waits for needs: training stalls. Without any spinning (OMP_WAIT_POLICY=passive) every short operation pays for waking
a thread. docs/reliability.md has the times.
"""

SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
"""Environment variables that decide it; a user who has set one has decided."""


def spin_briefly() -> None:
    """Bound the spinning in this process and in those that it starts, unless the user has decided."""
    if not any(name in os.environ for name in SETTINGS):
        os.environ["GOMP_SPINCOUNT"] = SPINS
