"""The table of scores from `validate` and `test`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table


def print_scores(names: Sequence[str], values: Mapping[str, float]) -> None:
    """Print a row for each value, and a column for each test set or benchmark.

    Args:
        names: names of the sets; those without values are left out.
        values: `<name>/<tag>` -> value, and `step`, the optimiser steps of the checkpoint; others are ignored.
    """
    scores = {
        name: {tag.removeprefix(f"{name}/"): value for tag, value in values.items() if tag.startswith(f"{name}/")}
        for name in names
    }
    scores = {name: found for name, found in scores.items() if found}
    if not scores:
        return
    step = int(values.get("step", 0))
    print(f"checkpoint of step {step}" if step else "without a checkpoint: the adapters are as they begin")
    table = Table()
    table.add_column("value", no_wrap=True)
    for name in scores:
        table.add_column(name, justify="right")
    for tag in dict.fromkeys(tag for found in scores.values() for tag in found):
        table.add_row(tag, *(f"{found[tag]:.3f}" if tag in found else "" for found in scores.values()))
    Console(width=max(110, 40 + 20 * len(scores))).print(table)
