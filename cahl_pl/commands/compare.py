r"""Train several systems over several seeds, with the same number of sampled tokens each, and print one table.

    python -m cahl_pl compare --out runs/systems --seeds 0 1 2 --tokens 150000 \
      joint configs/ablations/freeze_high.yaml mine=a.yaml,b.yaml greedy@joint=c.yaml -- --data.tasks_per_round 8

A SYSTEM is a configuration over that of --config:

- `joint` (any word that names no file of configs/*/): --config unchanged;
- `configs/ablations/freeze_high.yaml`, or `ablations/freeze_high`, which ships: with this file on top; the system is
  named after the file, freeze_high;
- `NAME=FILE[,FILE...]`: with these files on top;
- `NAME@OTHER=FILE[,FILE...]`: not trained, only tested, with the last checkpoint of the system OTHER at the
  same seed, for systems that differ from OTHER only in testing; `NAME@OTHER=` without a file takes --config unchanged.

Arguments after `--` go to every run, of `fit` and of `test`. A finished run is not repeated, and an interrupted one resumes
from its last checkpoint, so the same command works for every start. `table.md` and `results.json` are written to --out.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cahl_pl.commands import fit_runs, verb_parser
from cahl_pl.commands.fit_runs import RunError, spread
from cahl_pl.config_files import SHIPPED, shipped_names
from cahl_pl.errors import ConfigError

DEFAULT = "joint"
"""The system of --config itself: configs/ablations/joint.yaml only says so."""
COLUMNS = (
    "test before",
    "test",
    "each seed",
    "test_unseen_tools before",
    "test_unseen_tools",
    "each seed",
    "calls per success",
    "invalid rate",
    "redundant rate",
    "training tokens (thousand)",
    "tokens per test task",
    "optimiser steps",
)


@dataclass(frozen=True)
class System:
    """Row of the table.

    Attributes:
        name: name of the row and, with the seed, of its runs.
        overlays: configuration files over the common one.
        trained: the system whose checkpoints are tested; None if this one is trained itself.
    """

    name: str
    overlays: tuple[str, ...] = ()
    trained: str | None = None

    @classmethod
    def parse(cls, text: str) -> System:
        """Return the system that a word of the command line denotes.

        Raises:
            ConfigError: it denotes none, or a bare word names a configuration file, which would not be used.
        """
        name, equals, files = text.partition("=")
        overlays = tuple(file for file in files.split(",") if file)
        if not equals and (name.endswith((".yaml", ".yml")) or ("/" in name and name in shipped_names())):
            name, overlays = Path(name).stem, (name,)
        name, _, trained = name.partition("@")
        if not re.fullmatch(r"[\w.+-]+", name) or ("@" in text.partition("=")[0] and not trained):
            raise ConfigError(f"{text!r} is no system: give a word, FILE.yaml, NAME=FILE[,FILE...] or NAME@OTHER=FILE")
        files_of_name = sorted(SHIPPED.glob(f"*/{name}.yaml"))
        if not equals and not overlays and name != DEFAULT and files_of_name:
            file = files_of_name[0].relative_to(SHIPPED.parent)
            raise ConfigError(f"{text!r} alone would be --config as it is: give {text}={file}")
        return cls(name, overlays, trained or None)

    def run(self, seed: int) -> str:
        """Return the name of the run with this seed."""
        return f"{self.name}-{seed}"


def result(out: Path, system: System, seed: int) -> dict[str, Any] | None:
    """Return a finished run's result, `{"before": {test set: values}, "after": ..., "training": ...}`; None if there is none.

    Raises:
        RunError: its file is damaged.
    """
    place = fit_runs.folder(out, system.run(seed))
    if system.trained is None:
        path = place / "summary.json"
        content = fit_runs.read(path)
        source = None
    else:
        path = place / "test.json"
        content, source = fit_runs.read(path), result(out, System(system.trained), seed)
    if content is None or (system.trained is not None and source is None):
        return None
    try:
        if source is None:
            return _of_summary(content)
        return {
            "before": {},
            "after": _of_test(content),
            "training": source["training"],
        }  # the cost of its checkpoint
    except (KeyError, TypeError, ValueError, AttributeError):
        raise fit_runs.damaged(path) from None


def _of_summary(summary: dict[str, Any]) -> dict[str, Any]:
    details = summary["details"]
    sets = [name for name in summary if name != "details"]
    before = {name: _numbers(details[name]["before"]) for name in sets if details[name]["before"] is not None}
    after = {name: _numbers(details[name]["after"]) for name in sets}
    training = details.get("training")
    if training is not None:
        tokens = training["tokens"]
        training = {"steps": int(training["steps"]), "tokens": None if tokens is None else int(tokens)}
    return {"before": before, "after": after, "training": training}


def _of_test(tested: dict[str, Any]) -> dict[str, dict[str, float]]:
    after: dict[str, dict[str, float]] = {}
    for tag, value in _numbers({tag: value for tag, value in tested.items() if tag != "solved"}).items():
        name, _, rest = tag.partition("/")
        after.setdefault(name, {})[rest] = value
    return after


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    return {tag: float(value) for tag, value in values.items()}


def table(results: dict[str, dict[int, dict[str, Any]]]) -> str:
    """Return Markdown, one row per system.

    Args:
        results: system -> seed -> value of `result`.
    """
    lines = ["| system | " + " | ".join(COLUMNS) + " |", "| --- |" + " ---: |" * len(COLUMNS)]
    for name, runs in results.items():
        values = list(runs.values())
        cells = [
            spread(_column(values, "before", "test", "task/success", 100)),
            spread(_column(values, "after", "test", "task/success", 100)),
            _each(_column(values, "after", "test", "task/success", 100)),
            spread(_column(values, "before", "test_unseen_tools", "task/success", 100)),
            spread(_column(values, "after", "test_unseen_tools", "task/success", 100)),
            _each(_column(values, "after", "test_unseen_tools", "task/success", 100)),
            spread(_column(values, "after", "test", "tools/calls_per_success"), 2),
            spread(_column(values, "after", "test", "tools/invalid_rate", 100)),
            spread(_column(values, "after", "test", "tools/redundant_rate", 100)),
            spread([v["training"]["tokens"] / 1000 for v in values if v["training"] and v["training"]["tokens"]]),
            spread(_column(values, "after", "test", "tokens_per_task")),
            spread([v["training"]["steps"] for v in values if v["training"]], 0),
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    counts = ", ".join(f"{name} {len(runs)}" for name, runs in results.items())
    return "\n".join(
        [
            *lines,
            "",
            f"Seeds: {counts}. Mean +- sample standard deviation over seeds. Success and rates in percent, of greedy episodes; "
            "calls, rates and tokens of a task on `test`.",
        ]
    )


def _column(runs: Sequence[dict[str, Any]], when: str, test_set: str, tag: str, factor: float = 1) -> list[float]:
    found = [run[when].get(test_set, {}).get(tag) for run in runs]
    return [factor * value for value in found if value is not None]


def _each(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.1f}" for value in values) or "-"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing; print and write the table."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    cut = words.index("--") if "--" in words else len(words)
    words, extra = words[:cut], words[cut + 1 :]
    parser = verb_parser("compare", __doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("-c", "--config", default="configs/quickstart.yaml", help="what all systems have in common")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="SEED", help="not last before SYSTEM"
    )
    parser.add_argument("--tokens", type=int, default=150_000, help="tokens that the training of a system samples")
    parser.add_argument("--jobs", type=fit_runs.at_least_one, default=2, help="runs at a time")
    parser.add_argument("--threads", type=int, default=1, help="threads of a run")
    parser.add_argument("--table", action="store_true", help="run nothing: the table of what is finished")
    parser.add_argument("systems", nargs="+", metavar="SYSTEM", help="see above")
    options = parser.parse_args(words)
    systems = [System.parse(text) for text in options.systems]
    names = [system.name for system in systems]
    if len(set(names)) < len(names):
        raise ConfigError("two systems have the same name: give each its own, NAME=FILE")
    if len(set(options.seeds)) < len(options.seeds):
        raise ConfigError("--seeds: give each seed once")

    failures = [] if options.table else _run_all(systems, options, extra)
    results: dict[str, dict[int, dict[str, Any]]] = {}
    for system in systems:
        results[system.name] = {}
        for seed in options.seeds:
            try:
                values = result(options.out, system, seed)
            except RunError as error:
                failures.append(str(error))
                continue
            if values is not None:
                results[system.name][seed] = values
    text = table(results)
    print(text)
    if options.out.is_dir():
        (options.out / "table.md").write_text(text + "\n", encoding="utf-8")
        content = {
            "config": options.config,
            "arguments": extra,
            "systems": {
                system.name: {"overlays": system.overlays, "trained": system.trained, "seeds": results[system.name]}
                for system in systems
            },
        }
        (options.out / "results.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if failures:
        sys.exit("\n".join(f"error: {failure}" for failure in dict.fromkeys(failures)))  # a test may repeat its source's


def _run_all(systems: Sequence[System], options: argparse.Namespace, extra: Sequence[str]) -> list[str]:
    """Train, then test the systems that are only tested; return the failures."""
    fits: list[Callable[[], None]] = []
    tests: list[Callable[[], None]] = []
    for seed in options.seeds:  # all systems of a seed before the next seed: the table fills evenly
        for system in systems:
            run = system.run(seed)
            settings = (options.out, run, [options.config, *system.overlays], seed, options.tokens)
            if system.trained is None:
                fits.append(partial(fit_runs.fit, *settings, extra, options.threads))
            else:
                trained = System(system.trained).run(seed)
                tests.append(partial(fit_runs.evaluate, *settings, trained, extra, options.threads))
    return fit_runs.run_all(fits, options.jobs) + fit_runs.run_all(tests, options.jobs)
