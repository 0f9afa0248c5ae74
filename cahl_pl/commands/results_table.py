"""Print a Markdown table of benchmark reports: systems down, scores across, mean +- standard deviation over seeds.

    python -m cahl_pl results-table runs/results/joint-0 runs/results/joint-1 runs/results/executor_only-0

A RUN is a folder with the reports that `test` writes (`data.results`), `<name>.json`. Folders that differ only in a number at
the end, after `-` or `_`, are seeds of one system. Values are percentages; the spread is the sample standard deviation, with
the number of seeds in brackets; `*` marks a report on part of the tasks.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cahl_pl.commands import verb_parser
from cahl_pl.errors import UserError


class TableError(UserError):
    """Runs that do not fit in one table: one sentence with the file and what to do."""


def load(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the finished reports in a run's folder, name -> report.

    Raises:
        TableError: the folder has none, or a damaged one.
    """
    reports = {}
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(content, dict) and {"benchmark", "scheme", "scores", "denominators"} <= content.keys():
            if not _is_report(content):
                raise TableError(
                    f"{path} is damaged: run test with --data.results {folder} again, which writes it anew"
                )
            reports[path.stem] = content
    if not reports:
        raise TableError(f"{folder}: there is no finished report; run test with --data.results {folder} to its end")
    return reports


def _is_report(content: dict[str, Any]) -> bool:
    scores, denominators = content["scores"], content["denominators"]
    return (
        isinstance(content["benchmark"], str)
        and isinstance(content["scheme"], str)
        and isinstance(scores, dict)
        and all(type(score) is int or (type(score) is float and math.isfinite(score)) for score in scores.values())
        and isinstance(denominators, dict)
        and all(type(count) is int for count in denominators.values())
    )


def table(folders: Sequence[Path], columns: Sequence[str] = ()) -> str:
    """Return the table.

    Args:
        folders: one per run.
        columns: scores as `<name>/<score>`; none: `overall` of every report that has one.

    Returns:
        Markdown, with a line below for each scheme, and one for `*` if it is used.

    Raises:
        TableError: a folder without reports or given twice, reports of one name by different schemes or over different
            tasks, no score, or one that no report has.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise TableError("a folder is given twice, and would count as two seeds: give each once")
    systems: dict[str, list[dict[str, dict[str, Any]]]] = {}
    rules: dict[str, tuple[str, Any, Path]] = {}
    for folder in folders:
        reports = load(folder)
        systems.setdefault(re.sub(r"[-_]\d+$", "", folder.resolve().name), []).append(reports)
        for name, report in reports.items():
            scheme = f"{report['benchmark']}, {report['scheme']}"
            first = rules.setdefault(name, (scheme, report["denominators"], folder))
            if first[:2] != (scheme, report["denominators"]):
                what = "schemes" if first[0] != scheme else "numbers of tasks"
                raise TableError(
                    f"{name} has different {what} in {first[2]} and {folder}: give them tables of their own"
                )
    known = [
        f"{n}/overall"
        for n in rules
        if any("overall" in r[n]["scores"] for rs in systems.values() for r in rs if n in r)
    ]
    columns = list(columns) or known
    if not columns:
        raise TableError("no report has an overall score: name scores with --scores, such as bfcl/multi_turn")
    given = {
        f"{name}/{score}" for runs in systems.values() for run in runs for name in run for score in run[name]["scores"]
    }
    if unknown := [column for column in columns if column not in given]:
        raise TableError(f"no report has the score {unknown[0]}: there are {', '.join(sorted(given))}")
    partial = False
    lines = ["| system | " + " | ".join(columns) + " |", "| --- |" + " ---: |" * len(columns)]
    for system, runs in systems.items():
        cells = []
        for column in columns:
            name, _, score = column.partition("/")
            found = [run[name] for run in runs if name in run and score in run[name]["scores"]]
            star = "" if all(report.get("complete") for report in found) else "*"
            partial = partial or bool(star)
            cells.append(_cell([100 * report["scores"][score] for report in found]) + star)
        lines.append(f"| {system} | " + " | ".join(cells) + " |")
    lines += ["", *(f"- `{name}`: {scheme}; tasks: {_tasks(counts)}" for name, (scheme, counts, _) in rules.items())]
    return "\n".join([*lines, *(["- `*`: over a share of the tasks only"] if partial else [])])


def _cell(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.1f}" if values else "-"
    return f"{statistics.mean(values):.1f} +- {statistics.stdev(values):.1f} ({len(values)})"


def _tasks(counts: dict[str, int]) -> str:
    return ", ".join(f"{group} {count}" for group, count in counts.items())


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table of the runs on the command line."""
    parser = verb_parser("results-table", __doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of one run's reports")
    parser.add_argument(
        "--scores", nargs="+", default=[], metavar="NAME/SCORE", help="columns, such as bfcl/multi_turn"
    )
    options = parser.parse_args(arguments)
    print(table(options.runs, options.scores))
