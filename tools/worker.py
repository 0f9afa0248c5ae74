"""Programs that run themselves again: the measured part runs in a separate process and prints its figures as JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def command(file: str, arguments: Sequence[str]) -> list[str]:
    """Return the command that runs a program of tools/ with other arguments.

    Args:
        file: the program's `__file__`.
        arguments: those after its name.
    """
    module = ".".join(Path(file).resolve().relative_to(ROOT).with_suffix("").parts)
    return [sys.executable, "-m", module, *arguments]


def environment(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment with `changes`, in which programs of tools/ are found from any folder."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, **(changes or {})}


def run_again(
    file: str, arguments: Sequence[str], what: str, changes: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """Run a program of tools/ in a separate process.

    Args:
        file: the program's `__file__`.
        arguments: those after its name.
        what: name of the run, for the message of a failure.
        changes: changes to the environment.

    Returns:
        The JSON objects that it prints, one per line; other lines are skipped.

    Raises:
        SystemExit: it failed; the message has the end of its error output.
    """
    done = subprocess.run(command(file, arguments), capture_output=True, text=True, env=environment(changes))
    if done.returncode != 0:
        sys.exit(f"error: {what} failed:\n{done.stderr[-3000:]}")
    return [found for line in done.stdout.splitlines() if (found := _object(line)) is not None]


def _object(line: str) -> dict[str, Any] | None:
    """Return the JSON object of a line; None for any other line, such as a dictionary that a trainer prints."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
