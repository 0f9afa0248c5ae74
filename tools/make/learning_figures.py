"""Draw the three figures of docs/learning.md from the values stored in docs/data/learning.

    python -m tools.make.learning_figures                      # draw docs/images/learning_*.png
    python -m tools.make.learning_figures --collect FOLDER     # first store what the runs FOLDER/SYSTEM-SEED/... hold

`rounds.json` holds, for each system and seed, the success of each round's sampled episodes and the greedy one at the end;
`credit.json` is written by `tools.quality.measure_credit`; `paid.json` has the rewards of constructed
policies, as in the tests of the rewards.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Final

import numpy as np

from cahl_pl.commands.pipes import reader_may_leave

DATA: Final = Path("docs/data/learning")
IMAGES: Final = Path("docs/images")

SYSTEMS: Final = {
    "two levels": (("before_joint", "before"), ("joint", "now"), ("without_exe", "now, without R_h,exe")),
    "one level": (("before_single", "before"), ("single", "now"), ("single_dapo", "now, loss dapo")),
}
"""Panel -> (system in rounds.json, its name in the legend)."""

START: Final = {"two levels": 34.7, "one level": 24.7}
"""Greedy success of the shipped model on `test`, in percent."""


def collect(folder: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Read runs: system -> seed -> `rounds` (success of sampled episodes) and `test`, `test_unseen_tools` (greedy, after).

    Args:
        folder: parent of a folder SYSTEM-SEED for each run, with the logger's folders in it.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: dict[str, dict[str, dict[str, Any]]] = {}
    for summary in sorted(folder.glob("*/*/version_*/summary.json")):
        system, seed = summary.relative_to(folder).parts[0].rsplit("-", 1)
        events = EventAccumulator(str(summary.parent), size_guidance={"scalars": 0}).Reload()
        rounds = [round(event.value, 4) for event in events.Scalars("task/success")]
        after = {name: scores["after"] for name, scores in json.loads(summary.read_text()).items() if name != "details"}
        found.setdefault(system, {})[seed] = {"rounds": rounds, **after}
    return found


def smoothed(values: np.ndarray) -> np.ndarray:
    """Return the running mean over three rounds of [seeds, rounds]; of two at the ends."""
    padded = np.pad(values, ((0, 0), (1, 1)), constant_values=np.nan)
    return np.asarray(np.nanmean(np.stack([padded[:, :-2], padded[:, 1:-1], padded[:, 2:]]), axis=0))


def interval(values: np.ndarray) -> float:
    """Return half the 95 % interval of the mean of [seeds], by Student's t."""
    from scipy import stats

    return float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)


def draw_rounds(axes: Any, panel: str, rounds: dict[str, Any]) -> None:
    """Draw success over rounds, thin lines for seeds, and the greedy success at the end with its interval."""
    for place, (system, name) in enumerate(SYSTEMS[panel]):
        if system not in rounds:
            continue
        seeds = rounds[system].values()
        values = 100 * np.array([seed["rounds"] for seed in seeds])
        at = np.arange(1, values.shape[1] + 1)
        (line,) = axes.plot(at, smoothed(values).mean(0), label=name)
        end = 100 * np.array([seed["test"] for seed in seeds])
        x = values.shape[1] + 1 + 0.35 * place
        axes.errorbar(x, end.mean(), interval(end), fmt="o", ms=4, color=line.get_color(), capsize=3)
        axes.plot([x] * len(end), end, ".", ms=3, color=line.get_color(), alpha=0.5)
    axes.axhline(START[panel], color="grey", lw=0.8, ls=":")
    axes.set(title=panel, xlabel="round; at the right: greedy, on 150 test tasks", ylim=(0, 65))
    axes.legend(loc="lower right", fontsize=8)


def draw_credit(axes: Any, credit: dict[str, Any], way: str, name: str, scale: str) -> None:
    """Draw the advantages of one round of plans against the plans' worth, both minus their group's mean."""
    worth = np.array(credit["worth"])
    true = worth - worth.mean(1, keepdims=True)
    made = np.array(credit[way]["first_advantages"][scale])
    cosine = credit[way]["cosine"][scale]
    axes.axhline(0, color="grey", lw=0.5)
    axes.axvline(0, color="grey", lw=0.5)
    axes.plot(true.ravel(), made.ravel(), ".", ms=3, alpha=0.6)
    axes.set_title(f"{name}\ncosine {cosine:.2f}", fontsize=9)
    axes.set(xlabel="worth of the plan, less its group's")


def draw_paid(axes: Any, paid: list[dict[str, Any]]) -> None:
    """Draw the rewards of constructed policies as bars, before and now; an honest one gets 1."""
    places = np.arange(len(paid))[::-1]
    axes.barh(places + 0.2, [row["before"] for row in paid], 0.38, label="before", color="tab:orange")
    axes.barh(places - 0.2, [row["now"] for row in paid], 0.38, label="now", color="tab:blue")
    axes.axvline(1, color="grey", lw=0.8, ls=":")
    axes.set_yticks(places, [row["policy"] for row in paid], fontsize=8)
    axes.set(xlabel="reward; 1 is an honest policy's", xlim=(0, 1.08), ylim=(-0.6, len(paid) - 0.4))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncol=2, fontsize=8)


def draw() -> list[Path]:
    """Draw all three figures and return their files."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    IMAGES.mkdir(exist_ok=True)
    written = []

    def save(figure: Any, name: str) -> None:
        figure.tight_layout()
        figure.savefig(IMAGES / name, dpi=110)
        plt.close(figure)
        written.append(IMAGES / name)

    figure, panels = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True)
    rounds = json.loads((DATA / "rounds.json").read_text())
    for axes, panel in zip(panels, SYSTEMS, strict=True):
        draw_rounds(axes, panel, rounds)
    panels[0].set_ylabel("success, %")
    save(figure, "learning_rounds.png")

    figure, panels = plt.subplots(1, 3, figsize=(9, 3.2))
    credit = json.loads((DATA / "credit.json").read_text())
    for axes, (way, name, scale) in zip(panels, FIGURE_CREDIT, strict=True):
        draw_credit(axes, credit, way, name, scale)
    panels[0].set_ylabel("advantage")
    save(figure, "learning_credit.png")

    paid = json.loads((DATA / "paid.json").read_text())
    figure, axes = plt.subplots(figsize=(9, 0.36 * len(paid) + 0.9))
    draw_paid(axes, paid)
    save(figure, "learning_paid.png")
    return written


FIGURE_CREDIT: Final = (
    ("sampled_mean", "before: sampled mean, scale group", "group"),
    ("unbiased", "now: unbiased, scale group, pooled", "group, pooled"),
    ("unbiased", "unbiased, scale none, pooled", "none, pooled"),
)
"""Panels of the second figure: (credit, title, `scale_rewards`)."""


@reader_may_leave()
def main() -> None:
    """Parse, collect, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collect", type=Path, help="folder of runs to store before drawing")
    args = parser.parse_args()
    if args.collect:
        DATA.mkdir(parents=True, exist_ok=True)
        (DATA / "rounds.json").write_text(json.dumps(collect(args.collect), indent=1) + "\n")
    for path in draw():
        print(f"written: {path}")


if __name__ == "__main__":
    main()
