r"""Draw the figure and print the table of docs/results.md from the values stored in docs/data/results.

    python -m tools.make.results_figures                                      # docs/images/results_*.png, and the tables
    python -m tools.make.results_figures --collect toolworld2=runs/systems2   # first store what `cahl-pl compare` has left
    python -m tools.make.results_figures --add toolworld2=runs/systems3       # the same, beside what is stored already

Each world has one file, `docs/data/results/WORLD.json`: for each system and seed, the success of the sampled episodes over
sampled tokens, and the test tasks that the trained policy solves greedily. Intervals are 95 % bootstrap intervals: seeds and
tasks are resampled with replacement, the same tasks for all seeds.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cahl_pl.commands.pipes import reader_may_leave
from cahl_pl.errors import ConfigError, UserError

DATA: Final = Path("docs/data/results")
IMAGES: Final = Path("docs/images")
FIRST: Final = "joint"
"""The system that the others are compared with."""

START: Final = "start"
"""System that is only tested: the others' starting point, a line in the figure."""

DRAWN: Final = ("joint", "freeze_high", "freeze_low", "single_level")
"""Systems whose curves are drawn; all are in the table."""

DRAWS: Final = 10_000
"""Draws of a bootstrap."""

COLUMNS: Final = {
    "calls per success": ("tools/calls_per_success", 1, 2),
    "invalid %": ("tools/invalid_rate", 100, 1),
    "redundant %": ("tools/redundant_rate", 100, 1),
}
"""Column -> tag, factor and digits of a measurement on `test`."""

Solved = NDArray[np.float64]
"""Success of each seed on each task, [seeds, tasks]."""


def collect(folder: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Read runs of `cahl-pl compare`, trained and only tested: system -> seed -> values.

    Args:
        folder: `--out` of `compare`, with a folder SYSTEM-SEED for each run.

    Raises:
        ConfigError: it contains no finished run.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: dict[str, dict[str, dict[str, Any]]] = {}
    for path in sorted(folder.glob("*/**/summary.json")):
        system, seed = path.relative_to(folder).parts[0].rsplit("-", 1)
        details = json.loads(path.read_text(encoding="utf-8"))["details"]
        training = details.pop("training")
        events = EventAccumulator(str(path.parent), size_guidance={"scalars": 0}).Reload()
        logged = {"rollout/tokens", "task/success"} <= set(events.Tags()["scalars"])  # not in a run that only imitates
        sampled = {event.step: event.value for event in events.Scalars("rollout/tokens")} if logged else {}
        rounds = [(sampled[event.step], event.value) for event in events.Scalars("task/success")] if logged else []
        tokens = np.cumsum([spent for spent, _ in rounds]).astype(int).tolist()
        found.setdefault(system, {})[seed] = {
            "tokens": tokens,
            "success": [round(value, 4) for _, value in rounds],
            "training": {**training, "tokens": training["tokens"] or (tokens or [None])[-1]},  # no budget, no count
            "solved": {name: values["solved"] for name, values in details.items()},
            "test": {tag: round(details["test"]["after"][tag], 6) for tag, _, _ in COLUMNS.values()},
        }
    for path in sorted(folder.glob("*/**/test.json")):  # systems that are only tested
        system, seed = path.relative_to(folder).parts[0].rsplit("-", 1)
        tested = json.loads(path.read_text(encoding="utf-8"))
        found.setdefault(system, {})[seed] = {
            "tokens": [],
            "success": [],
            "training": {"steps": None, "tokens": None},
            "solved": tested["solved"],
            "test": {tag: round(tested[f"test/{tag}"], 6) for tag, _, _ in COLUMNS.values()},
        }
    if not found:
        raise ConfigError(f"{folder} holds no finished run, SYSTEM-SEED/.../summary.json: give the --out of `compare`")
    return found


def solved(runs: dict[str, dict[str, Any]], test_set: str) -> Solved:
    """Return the success of a system's seeds, [seeds, tasks]."""
    return np.array([[float(c) for c in run["solved"][test_set]] for run in runs.values()])


def bootstrap(values: Solved, other: Solved | None = None) -> tuple[float, float]:
    """Return the 95 % interval of mean success, or of its difference from another system's.

    Args:
        values: success of a system.
        other: success of another one on the same tasks; its seeds are drawn separately.
    """
    rng = np.random.default_rng(0)
    means = np.empty(DRAWS)
    for i in range(DRAWS):
        tasks = rng.integers(values.shape[1], size=values.shape[1])
        means[i] = values[rng.integers(len(values), size=len(values))][:, tasks].mean()
        if other is not None:
            means[i] -= other[rng.integers(len(other), size=len(other))][:, tasks].mean()
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def table(systems: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Return the table as Markdown, one row per system, highest success first."""
    order = sorted(systems, key=lambda name: -solved(systems[name], "test").mean())
    sets = list(next(iter(systems[order[0]].values()))["solved"])
    head = ["system", "`test`, %", "each seed", f"above {FIRST}"]
    head += [f"`{name}`, %" for name in sets if name != "test"] + [*COLUMNS, "tokens sampled"]
    lines = ["| " + " | ".join(head) + " |", "| --- " + "| ---: " * (len(head) - 1) + "|"]
    for name in order:
        runs = systems[name]
        values = solved(runs, "test")
        cells = [name, _with_interval(values), ", ".join(f"{100 * v:.1f}" for v in values.mean(1))]
        if name == FIRST or FIRST not in systems:
            cells.append("")
        else:
            other = solved(systems[FIRST], "test")
            low, high = bootstrap(values, other)
            cells.append(f"{100 * (values.mean() - other.mean()):+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]")
        cells += [_with_interval(solved(runs, one)) for one in sets if one != "test"]
        for tag, factor, digits in COLUMNS.values():
            cells.append(f"{factor * np.mean([run['test'][tag] for run in runs.values()]):.{digits}f}")
        tokens = [run["training"]["tokens"] for run in runs.values() if run["training"]["tokens"]]
        cells.append(f"{np.mean(tokens) / 1000:.0f}k" if tokens else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _with_interval(values: Solved) -> str:
    low, high = bootstrap(values)
    return f"{100 * values.mean():.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def smoothed(values: NDArray[np.float64], width: int = 5) -> NDArray[np.float64]:
    """Return the running mean over rounds, [seeds, rounds]; of fewer at the ends."""
    half = width // 2
    padded = np.pad(values, ((0, 0), (half, half)), constant_values=np.nan)
    shifted = [padded[:, i : i + values.shape[1]] for i in range(width)]
    return np.asarray(np.nanmean(np.stack(shifted), axis=0))


def draw(world: str, systems: dict[str, dict[str, dict[str, Any]]]) -> Path:
    """Draw success over sampled tokens with bands over seeds and, at the right, greedy success at the end; return the file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(
        1, 2, figsize=(9, 3.6), sharey=True, gridspec_kw={"width_ratios": (2, 1)}, layout="constrained"
    )
    shown = [name for name in DRAWN if name in systems and all(run["success"] for run in systems[name].values())]
    for place, name in enumerate(shown):
        runs = list(systems[name].values())
        rounds = min(len(run["success"]) for run in runs)
        values = 100 * smoothed(np.array([run["success"][:rounds] for run in runs]))
        tokens = np.mean([run["tokens"][:rounds] for run in runs], axis=0) / 1e6
        (line,) = left.plot(tokens, values.mean(0), label=name.replace("_", " "))
        left.fill_between(tokens, values.min(0), values.max(0), color=line.get_color(), alpha=0.15, lw=0)
        end = solved(systems[name], "test")
        low, high = bootstrap(end)
        mean = end.mean()
        right.errorbar(
            place,
            100 * mean,
            [[100 * (mean - low)], [100 * (high - mean)]],
            fmt="o",
            ms=5,
            capsize=4,
            color=line.get_color(),
        )
        right.plot([place + 0.15] * len(end), 100 * end.mean(1), ".", ms=4, alpha=0.6, color=line.get_color())
    if START in systems:
        begun = 100 * solved(systems[START], "test").mean()
        right.axhline(begun, ls=":", lw=1, color="gray")
        right.text(len(shown) - 0.55, begun + 1, "start", ha="right", fontsize=8, color="gray")
    left.set(
        xlabel="sampled tokens, million", ylabel="success, %", title="sampled episodes, running mean over 5 rounds"
    )
    left.legend(fontsize=8)
    right.set_xticks(range(len(shown)), [name.replace("_", "\n") for name in shown], fontsize=8)
    right.set(title="greedy on `test`, after training", xlim=(-0.5, len(shown) - 0.5))
    left.set_ylim(bottom=0)
    IMAGES.mkdir(exist_ok=True)
    path = IMAGES / f"results_{world}.png"
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def check_sizes(systems: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Check that all runs were tested on as many tasks: success on other tasks is not comparable.

    Raises:
        ConfigError: naming two runs that were not.
    """
    sizes: dict[str, dict[int, str]] = {}
    for name, runs in systems.items():
        for seed, run in runs.items():
            for test_set, outcomes in run["solved"].items():
                sizes.setdefault(test_set, {}).setdefault(len(outcomes), f"{name}-{seed}")
    for test_set, found in sizes.items():
        if len(found) > 1:
            (one, first), (other, second) = list(found.items())[:2]
            raise ConfigError(
                f"{first} was tested on {one} tasks of {test_set!r} and {second} on {other}: test all systems on the same tasks"
            )


def store(world: str, folders: str, systems: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Write the runs of comma-separated folders, together with `systems`, to the file of a world.

    Raises:
        ConfigError: runs were tested on different numbers of tasks, or a folder contains none.
    """
    for folder in folders.split(","):
        for name, runs in collect(Path(folder)).items():
            systems.setdefault(name, {}).update(runs)
    check_sizes(systems)
    ordered = {name: dict(sorted(systems[name].items())) for name in sorted(systems)}
    DATA.mkdir(parents=True, exist_ok=True)
    content = json.dumps(ordered, separators=(",", ":")).replace('},"', '},\n"')
    (DATA / f"{world}.json").write_text(content + "\n", encoding="utf-8")


@reader_may_leave()
def main() -> None:
    """Parse, collect, draw, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--collect", nargs="+", default=[], metavar="WORLD=FOLDER[,FOLDER...]", help="store these before drawing"
    )
    parser.add_argument(
        "--add", nargs="+", default=[], metavar="WORLD=FOLDER[,FOLDER...]", help="keep stored runs of others"
    )
    args = parser.parse_args()
    for text in [*args.collect, *args.add]:
        world, _, folders = text.partition("=")
        path = DATA / f"{world}.json"
        kept = path.exists() and text in args.add
        store(world, folders, json.loads(path.read_text(encoding="utf-8")) if kept else {})
    for path in sorted(DATA.glob("*.json")):
        systems = json.loads(path.read_text(encoding="utf-8"))
        print(f"\n{path.stem}\n\n{table(systems)}\n\nwritten: {draw(path.stem, systems)}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
