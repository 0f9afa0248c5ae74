r"""Play planners and executors of different checkpoints with one another: success as a matrix and a picture.

    python -m cahl_pl cross-play --out runs/cross_play -c configs/quickstart.yaml \
      --checkpoints runs/quickstart/version_0/checkpoints/step-*.ckpt --tasks 60

Rows are planners, columns executors; `start` is the model before training. If each role had only learnt for itself, a
planner would do equally well with any executor of the same strength; where the diagonal stands out they have adapted to each
other. Keep the checkpoints of a run for this: `Checkpoints` with a large `keep`. Those of several runs are distinguished by
names, `NAME=CHECKPOINT`. Further arguments belong to the configuration.

A pair that is already in `cross_play.json` is not played again.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cahl_pl  # noqa: F401 - before torch: it decides how torch's threads wait

# isort: split
import matplotlib  # here: before hours of play, not after them
from torch import Tensor

from cahl_pl.cli import CAHLCLI, main
from cahl_pl.commands import verb_parser
from cahl_pl.errors import ConfigError
from cahl_pl.metrics import is_success
from cahl_pl.plurals import counted
from cahl_pl.runs.checkpoints import fault_of, read_checkpoint
from cahl_pl.startup.library_warnings import quiet_libraries

START = "start"


def named(checkpoints: Sequence[str]) -> dict[str, Path]:
    """Return each checkpoint by its name: the one given, `NAME=CHECKPOINT`, or the file's.

    Raises:
        ConfigError: two have the same name, or a name cannot be used in a table.
    """
    found: dict[str, Path] = {}
    for text in checkpoints:
        name, path = Path(text).stem, text
        if "=" in text and not Path(text).exists():
            name, _, path = text.partition("=")
        if name == START:
            raise ConfigError(
                f"--checkpoints names one {START!r}, which is the model before training: give another, as in mine={path}"
            )
        if not re.fullmatch(r"[^\s|]+", name):
            raise ConfigError(
                f"--checkpoints names one {name!r}: names need a character, and no blanks or bars; give one, as in mine={path}"
            )
        if name in found:
            raise ConfigError(f"--checkpoints names two {name!r}: tell them apart, as in seed-1={path}")
        found[name] = Path(path)
    return found


def adapters(cli: CAHLCLI, checkpoints: Mapping[str, Path]) -> dict[str, dict[str, Tensor]]:
    """Return the adapters of the untrained policy and of each checkpoint, by name.

    Raises:
        ConfigError: a checkpoint is missing or damaged.
        PolicyError: one does not fit the configured model.
    """
    policy = cli.model.policy
    policy.load()
    found = {START: {key: tensor.clone() for key, tensor in policy.adapter_state().items()}}
    for name, path in checkpoints.items():
        if fault := fault_of(path):
            raise ConfigError(f"--checkpoints names {str(path)!r}, which cannot be read ({fault}): leave it out")
        content = read_checkpoint(path)
        policy.check_config(content["policy_config"])
        policy.load_adapter_state(content["state_dict"])
        found[name] = content["state_dict"]
    return found


def mixed(planner: Mapping[str, Tensor], executor: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the planner of one state and the executor of another."""
    return {name: planner[name] if ".planner." in name else executor[name] for name in planner}


def play(cli: CAHLCLI, state: dict[str, Tensor], test_set: str, count: int) -> float:
    """Return the success of greedy episodes on the first tasks of a test set."""
    data = cli.datamodule
    tasks = data.test_tasks[test_set]
    cli.model.policy.load_adapter_state(state)
    successes = 0
    for first in range(0, count, data.eval_batch_size):
        batch = [tasks[i] for i in range(first, min(count, first + data.eval_batch_size))]
        successes += sum(map(is_success, data.evaluate(batch)))
    return successes / count


def table(names: Sequence[str], success: Mapping[str, float]) -> str:
    """Return the matrix as Markdown, in percent."""
    lines = ["| planner \\ executor | " + " | ".join(names) + " |", "| --- |" + " ---: |" * len(names)]
    for planner in names:
        cells = [f"{100 * success[f'{planner} {executor}']:.1f}" for executor in names]
        lines.append(f"| {planner} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(names: Sequence[str], success: Mapping[str, float], path: Path, title: str) -> None:
    """Draw the matrix as a picture."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    values = [[100 * success[f"{planner} {executor}"] for executor in names] for planner in names]
    size = 2.2 + 0.75 * len(names)
    figure, axes = pyplot.subplots(figsize=(size + 1, size), layout="constrained")
    image = axes.imshow(values, cmap="cividis", vmin=0)
    middle = (max(map(max, values)) or 1) / 2
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            axes.text(j, i, f"{value:.0f}", ha="center", va="center", color="black" if value > middle else "white")
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="executor of", ylabel="planner of", title=title)
    figure.colorbar(image, label="success, %")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _earlier(path: Path) -> dict[str, Any]:
    """Return the results of an earlier call; older ones had only file names as names.

    Raises:
        ConfigError: the file is something else.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        stems = [START, *(Path(name).stem for name in content["checkpoints"])]
        return (
            {"names": stems} | {key: content[key] for key in ("test_set", "tasks", "checkpoints", "success")} | content
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(f"{path} is none that cross-play has written: delete it, or give another --out") from None


def run(arguments: list[str]) -> None:
    """Play all pairs."""
    parser = verb_parser("cross-play", __doc__, takes_configuration=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for cross_play.json, table.md and success.png")
    parser.add_argument("--checkpoints", nargs="+", required=True, metavar="[NAME=]CKPT")
    parser.add_argument("--test-set", default="test", help="name in data.test")
    parser.add_argument("--tasks", type=int, default=100, help="tasks of the test set, at most")
    args, config = parser.parse_known_args(arguments)
    quiet_libraries()
    _run(args, main(config, run=False))


def _run(args: argparse.Namespace, cli: CAHLCLI) -> None:
    data = cli.datamodule
    if args.test_set not in data.test_tasks:
        raise ConfigError(f"--test-set {args.test_set!r} is not in data.test, which has {', '.join(data.test_tasks)}")
    if data.single_level:
        raise ConfigError("data.single_level: without a planner there is nothing to cross")
    cli.trainer.strategy.connect(cli.model)
    data.trainer = cli.trainer
    checkpoints = named(args.checkpoints)
    states = adapters(cli, checkpoints)
    names, count = list(states), min(args.tasks, len(data.test_tasks[args.test_set]))
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "cross_play.json"
    head: dict[str, Any] = {
        "test_set": args.test_set,
        "tasks": count,
        "checkpoints": list(map(str, checkpoints.values())),
        "names": names,
    }
    content = _earlier(path) if path.is_file() else {**head, "success": {}}
    if {key: content[key] for key in head} != head:
        raise ConfigError(f"{path} is of other checkpoints, names or tasks: give another --out")
    success: dict[str, float] = content["success"]
    for planner in names:
        for executor in names:
            pair = f"{planner} {executor}"
            if pair not in success:
                success[pair] = play(cli, mixed(states[planner], states[executor]), args.test_set, count)
                path.write_text(json.dumps({**head, "success": success}, indent=2) + "\n")
                print(f"planner {planner}, executor {executor}: {100 * success[pair]:.1f} %", flush=True)
    text = table(names, success)
    (args.out / "table.md").write_text(text + "\n", encoding="utf-8")
    plot(names, success, args.out / "success.png", f"success on {counted(count, 'task')} of {args.test_set}")
    print(text)
