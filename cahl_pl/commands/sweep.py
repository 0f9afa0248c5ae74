r"""Train every combination of some configuration values with the same number of sampled tokens; write table and plot.

    python -m cahl_pl sweep --out runs/sweep --seeds 0 1 \
      --keys data.rollout.planner_group_size=2,4 data.rollout.executor_group_size=2,4,8 -- --data.tasks_per_round 8

Arguments after `--` go to every run. A finished run is not repeated, and an interrupted one resumes from its last
checkpoint, so the same command works for every start. `table.md` and `success.png` are written to --out. The plot's lines
show the success of episodes sampled in training, its markers that of greedy episodes on the test set after training.
Needs matplotlib.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cahl_pl.commands import fit_runs, verb_parser
from cahl_pl.commands.fit_runs import RunError, spread
from cahl_pl.errors import ConfigError
from cahl_pl.plurals import counted

Combination = tuple[str, ...]
"""One value for each key, in the order of the keys."""


def parse_keys(words: Sequence[str]) -> dict[str, list[str]]:
    """Return the key -> values, of `KEY=VALUE,VALUE...`.

    Raises:
        ConfigError: a word has another form, or a key or one of its values appears twice.
    """
    keys: dict[str, list[str]] = {}
    for word in words:
        key, _, values = word.partition("=")
        if not key or not all(values.split(",")) or key in keys:
            raise ConfigError(f"--keys {word}: give each key once, as KEY=VALUE,VALUE...")
        keys[key] = values.split(",")
        if len(set(keys[key])) < len(keys[key]):
            raise ConfigError(f"--keys {word}: give each value once")
    return keys


def short_names(keys: Sequence[str]) -> list[str]:
    """Return as many last parts of each key as distinguish it from the others."""
    parts = [key.split(".") for key in keys]
    for number in range(1, max(map(len, parts)) + 1):
        names = [".".join(part[-number:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return list(keys)


def run_name(names: Sequence[str], values: Combination, seed: int) -> str:
    """Return the name of a run's folder."""
    pairs = "_".join(f"{name}={value}" for name, value in zip(names, values, strict=True))
    return re.sub(r"[^\w.=+-]", "-", f"{pairs}-{seed}")


def success_curve(run: Path, rounds: int) -> tuple[list[float], list[float]]:
    """Return the success of sampled episodes against the tokens sampled so far.

    Args:
        run: folder with the event files of one run.
        rounds: window of the moving average; the first points average over as many as there are.

    Returns:
        Tokens sampled up to and including each round, and the averaged success, in [0, 1].
    """
    events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    tags = ("rollout/tokens_total", "task/success")  # both logged once per round, with its first step
    if not set(tags) <= set(events.Tags()["scalars"]):
        return [], []
    tokens, success = ({event.step: event.value for event in events.Scalars(tag)} for tag in tags)
    steps = sorted(tokens.keys() & success.keys())
    averaged = []
    for end in range(1, len(steps) + 1):
        window = [success[step] for step in steps[max(0, end - rounds) : end]]
        averaged.append(sum(window) / len(window))
    return [tokens[step] for step in steps], averaged


def finished(out: Path, run: str, test_set: str) -> tuple[dict[str, Any], float | None] | None:
    """Return a finished run's `summary.json` and its seconds, if known; None if it is not finished.

    Raises:
        RunError: one of its files is damaged.
        KeyError: it has no such test set.
    """
    path = fit_runs.folder(out, run) / "summary.json"
    summary = fit_runs.read(path)
    if summary is None:
        return None
    if "details" in summary and test_set not in summary:
        raise KeyError(test_set)
    try:
        training = summary["details"]["training"]
        values = (summary[test_set]["after"], training["tokens"], training["steps"])
    except (KeyError, TypeError):
        raise fit_runs.damaged(path) from None
    if not all(isinstance(value, int | float) for value in values):
        raise fit_runs.damaged(path)
    return summary, fit_runs.seconds(out, run)


def table(
    names: Sequence[str],
    results: Mapping[Combination, Sequence[tuple[Mapping[str, Any], float | None]]],
    test_set: str,
) -> str:
    """Return Markdown, one row per combination.

    Args:
        names: names of the keys.
        results: combination -> a run's `summary.json` and its seconds, if known, for each finished seed.
        test_set: test set whose success is shown.
    """
    columns = [*names, f"{test_set} success", "training tokens (thousand)", "optimiser steps", "seconds", "seeds"]
    lines = ["| " + " | ".join(columns) + " |", "|" + " ---: |" * len(columns)]
    for values, runs in results.items():
        training = [summary["details"]["training"] for summary, _ in runs]
        cells = [
            *values,
            spread([100 * summary[test_set]["after"] for summary, _ in runs]),
            spread([t["tokens"] / 1000 for t in training]),
            spread([t["steps"] for t in training], 0),
            spread([seconds for _, seconds in runs if seconds is not None], 0),
            str(len(runs)),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    note = "Success in percent, of greedy episodes after training; mean +- sample standard deviation over seeds."
    return "\n".join([*lines, "", note])


def plot(
    path: Path,
    names: Sequence[str],
    curves: Mapping[Combination, Sequence[tuple[Sequence[float], Sequence[float]]]],
    ends: Mapping[Combination, Sequence[tuple[float, float]]],
    test_set: str,
    rounds: int,
) -> None:
    """Draw success against sampled tokens.

    Args:
        path: the PNG to write, 900 x 500 pixels.
        names: names of the keys.
        curves: combination -> tokens and success, for each seed.
        ends: combination -> tokens of the training and greedy success after it, for each seed.
        test_set: test set of the greedy episodes.
        rounds: window of the curves' moving average.
    """
    figure = Figure(figsize=(9, 5), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    colours = mpl.colormaps["tab10"].colors if len(curves) <= 10 else mpl.colormaps["turbo"].resampled(len(curves))  # type: ignore[attr-defined]
    handles = []
    for number, values in enumerate(curves):
        colour = colours(number) if callable(colours) else colours[number]
        for tokens, success in curves[values]:
            axes.plot([t / 1000 for t in tokens], [100 * s for s in success], color=colour, linewidth=1, alpha=0.7)
        for end, success_after in ends.get(values, []):
            axes.plot(
                end / 1000, 100 * success_after, "o", color=colour, markersize=8, markeredgecolor="white", zorder=3
            )
        handles.append(Line2D([], [], color=colour, linewidth=3, label=", ".join(values)))
    handles += [
        Line2D([], [], color="black", linewidth=1, label=f"sampled in training,\nmean of {counted(rounds, 'round')}"),
        Line2D([], [], color="black", marker="o", linestyle="", label=f"greedy on {test_set},\nafter training"),
    ]
    axes.set_xlabel("tokens sampled in training (thousand)")
    axes.set_ylabel("task success (%)")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(handles=handles, loc="outside right upper", title=",\n".join(names), frameon=False)
    figure.savefig(path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing; print the table, write table and plot."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    cut = words.index("--") if "--" in words else len(words)
    words, extra = words[:cut], words[cut + 1 :]
    parser = verb_parser("sweep", __doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--keys", nargs="+", required=True, metavar="KEY=VALUE,VALUE...", help="what to vary")
    parser.add_argument("-c", "--config", default="configs/quickstart.yaml", help="what all runs have in common")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], metavar="SEED")
    parser.add_argument("--tokens", type=int, default=150_000, help="tokens that the training of a run samples")
    parser.add_argument("--success", default="test", metavar="TEST_SET", help="the test set of table and markers")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the curves' moving average")
    parser.add_argument("--jobs", type=fit_runs.at_least_one, default=2, help="runs at a time")
    parser.add_argument("--threads", type=int, default=1, help="threads of a run")
    options = parser.parse_args(words)
    keys = parse_keys(options.keys)
    names, out = short_names(list(keys)), options.out
    combinations: list[Combination] = list(itertools.product(*keys.values()))
    if len(set(options.seeds)) < len(options.seeds):
        raise ConfigError("--seeds: give each seed once")
    if len({run_name(names, values, 0) for values in combinations}) < len(combinations):
        raise ConfigError(
            "--keys: some values differ only in characters that a folder's name does not hold: sweep them apart"
        )

    jobs = []
    for seed, values in itertools.product(options.seeds, combinations):
        given = [f"--{key}={value}" for key, value in zip(keys, values, strict=True)]
        run = run_name(names, values, seed)
        jobs.append(
            partial(fit_runs.fit, out, run, [options.config], seed, options.tokens, [*given, *extra], options.threads)
        )
    failures = fit_runs.run_all(jobs, options.jobs)

    results: dict[Combination, list[tuple[dict[str, Any], float | None]]] = {}
    curves: dict[Combination, list[tuple[list[float], list[float]]]] = {}
    ends: dict[Combination, list[tuple[float, float]]] = {}
    for values in combinations:
        results[values], curves[values], ends[values] = [], [], []
        for run in (run_name(names, values, seed) for seed in options.seeds):
            try:
                found = finished(out, run, options.success)
            except RunError as error:
                failures.append(str(error))
                continue
            except KeyError:
                raise ConfigError(
                    f"the runs have no test set {options.success!r}: name one of theirs with --success"
                ) from None
            if found is not None:
                results[values].append(found)
                curves[values].append(success_curve(fit_runs.folder(out, run), options.rounds))
                ends[values].append((found[0]["details"]["training"]["tokens"], found[0][options.success]["after"]))
    text = table(names, results, options.success)
    print(text)
    if out.is_dir():
        (out / "table.md").write_text(text + "\n", encoding="utf-8")
        plot(out / "success.png", names, curves, ends, options.success, options.rounds)
        print(f"written: {out / 'table.md'}, {out / 'success.png'}")
    if failures:
        sys.exit("\n".join(f"error: {failure}" for failure in dict.fromkeys(failures)))
