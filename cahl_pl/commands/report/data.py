"""Data of runs, read from their folders: curves, the before-and-after table, settings, episodes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cahl_pl.commands.report.episodes import Episode, view
from cahl_pl.errors import UserError
from cahl_pl.plurals import counted

EPISODE_FILES = {"trajectories.jsonl": "training", "predictions.jsonl": "prediction"}
"""Files of episodes, and their kind: sampled in training, or greedy ones of `predict`."""


class RunError(UserError):
    """Folder that is not a run: one sentence that says what to give instead."""


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        name: short name, different from those of the other runs.
        scalars: tag -> optimiser step -> value, steps ascending.
        summary: summary written by the callback `BeforeAfter`, or None.
        settings: dotted key -> value as text; empty if there is no `config.yaml`.
        config: the text of `config.yaml`.
        episodes: episodes for the explorer, in the order of the files.
        notes: what is missing or damaged, one sentence each.
    """

    name: str
    scalars: dict[str, dict[int, float]]
    summary: dict[str, Any] | None
    settings: dict[str, str]
    config: str
    episodes: list[Episode]
    notes: list[str]


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Return the runs in these folders, such as `runs/quickstart/version_0`.

    Raises:
        RunError: a folder does not exist, has no event file or nothing else to show, or is given twice.
    """
    for folder in folders:
        if not folder.is_dir():
            raise RunError(f"there is no folder {folder}: give that of a run, such as runs/quickstart/version_0")
        if not any(folder.glob("events.out.tfevents.*")):
            within = sorted(path.parent for path in folder.glob("*/events.out.tfevents.*"))
            hint = str(within[-1]) if within else "runs/quickstart/version_0"
            raise RunError(
                f"{folder} has no event file (events.out.tfevents.*): give a run's own folder, such as {hint}"
            )
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise RunError("a run is given twice: give each once")
    runs = [_read(folder, name) for folder, name in zip(folders, run_names(folders), strict=True)]
    for folder, run in zip(folders, runs, strict=True):
        if not (run.scalars or run.summary or run.episodes):
            raise RunError(
                f"there is nothing to report of {folder}: the run has logged no step, measured nothing and written no episode; "
                "give a run that has trained"
            )
    return runs


def run_names(folders: Sequence[Path]) -> list[str]:
    """Return as many last parts of each path as distinguish it, without a `version_...` common to all."""
    parts = [folder.resolve().parts for folder in folders]
    last = {path[-1] for path in parts}
    if len(last) == 1 and len(parts[0]) > 2 and last.pop().startswith("version_"):
        parts = [path[:-1] for path in parts]
    least = 2 if any(path[-1].startswith("version_") for path in parts) else 1
    for number in range(least, max(map(len, parts)) + 1):
        names = ["/".join(path[-number:]) for path in parts]
        if len(set(names)) == len(names):
            break
    return names


def _read(folder: Path, name: str) -> Run:
    notes: list[str] = []
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    scalars = {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}
    if not scalars:
        notes.append("The event file holds no values yet.")
    summary = _summary(folder / "summary.json", notes)
    config, settings = _settings(folder / "config.yaml", notes)
    episodes = [episode for file in EPISODE_FILES for episode in _episodes(folder / file, notes)]
    if not episodes:
        notes.append(
            "No trajectories.jsonl and no predictions.jsonl with episodes: the callbacks ExecutionFeedback and "
            "PredictionWriter write them."
        )
    return Run(name, scalars, summary, settings, config, episodes, notes)


def _summary(path: Path, notes: list[str]) -> dict[str, Any] | None:
    """Return `summary.json`, reduced to the parts of the expected form."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        details = content["details"]
        sets = {
            name: {when: details[name][when] for when in ("before", "after")} for name in content if name != "details"
        }
        for values in sets.values():
            for measured in values.values():
                for value in ({} if measured is None else measured).values():
                    float(value)
        return {"sets": sets, "training": details.get("training")}
    except FileNotFoundError:
        notes.append("No summary.json: training has not ended, or the callback BeforeAfter is not among the trainer's.")
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        notes.append("summary.json cannot be read, so that values before and after training are left out.")
    return None


def _settings(path: Path, notes: list[str]) -> tuple[str, dict[str, str]]:
    try:
        text = path.read_text(encoding="utf-8")
        notes += [
            f"The settings were changed on the way: {earlier.name} holds those until that step."
            for earlier in sorted(path.parent.glob("config.until-step-*.yaml"))
        ]
        return text, _flat(yaml.safe_load(text))
    except FileNotFoundError:
        notes.append("No config.yaml: the run was not started with the command line.")
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        notes.append("config.yaml cannot be read, so that settings are left out.")
    return "", {}


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    """Return `{"a": {"b": 1}}` as `{"a.b": "1"}`."""
    if not isinstance(value, dict):
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        return {prefix: text}
    result: dict[str, str] = {}
    for key, item in value.items():
        result |= _flat(item, f"{prefix}.{key}" if prefix else str(key))
    return result


def _episodes(path: Path, notes: list[str]) -> list[Episode]:
    """Return the episodes of a file; lines without one are counted."""
    found: list[Episode] = []
    damaged = 0
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    found.append(view(json.loads(line), EPISODE_FILES[path.name]))
                except (ValueError, RecursionError):
                    damaged += 1
    except FileNotFoundError:
        return []
    except OSError as error:
        notes.append(f"{path.name} cannot be read ({error.strerror}).")
    if damaged:
        left_out = "is left out" if damaged == 1 else "are left out"
        notes.append(f"{path.name}: {counted(damaged, 'line')} could not be read and {left_out}.")
    return found
