"""Whole runs on a device, beside the same runs on the CPU: fit, go on, validate, test, predict and export.

    python -m pytest tests/devices                              # the emulated device, one of them, where there is one
    CAHL_TEST_DEVICE=emulated python -m pytest tests/devices    # one and two of them
    CAHL_TEST_DEVICE=cuda python -m pytest tests/devices        # as many real ones as there are, up to two

The emulated device computes on the CPU, so that its results are the CPU's. A real GPU rounds in another way, and draws the
adapters' first weights with a generator of its own: what is sampled first is close, what comes later only has to be there.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).resolve().parents[2]
NOT_THE_SAME = ("memory/", "time/", "perf/")
"""Beginnings of tags whose values are times, speeds and the memory of this process."""

PAIR, ODD = (
    {"class_path": "cahl_pl.toolworld.ToolWorld", "init_args": {"split": "test", "size": size}} for size in (2, 3)
)
SHORT = {
    "eval_batch_size": 2,
    "tasks_per_round": 2,
    "validation": ODD,
    "test": {"test": PAIR, "odd": ODD},
}


def commands(name: str, tmp_path: Path, tiny_model: Path, rlla_file: Path) -> list[list[str]]:
    """All verbs with a configuration, and a moment in deterministic mode."""
    logger = {"log_every_n_steps": 1, "logger": {"init_args": {"version": 0}}}
    content: dict[str, Any] = {"trainer": logger, "data": {**SHORT}}
    if name == "quickstart":  # with its own model, whose plans can be read and carried out
        content["data"]["rollout"] = {"planner_group_size": 2, "executor_group_size": 2, "max_steps": 2}
    else:  # a random model's plans cannot be read: both roles imitate before they sample
        content["model"] = {"policy": {"model": str(tiny_model), "lora_rank": 4}, "max_tokens_per_micro_batch": 2048}
        few = {"max_new_tokens": 8}
        content["data"] |= {
            "train": {"init_args": {"path": str(rlla_file)}},
            "engine": {"init_args": {"batch_size": 8, "max_prefill_tokens": 2048}},
            "warm_start_rounds": 1,
            "rollout": {"planner": few, "executor": few, "max_steps": 2},
        }
    config = tmp_path / f"{name}.yaml"
    config.write_text(yaml.safe_dump(content))
    given = ["-c", str(ROOT / "configs" / f"{name}.yaml"), "-c", str(config), "-c", "device.yaml"]
    first, last = (["--ckpt_path", f"runs/{name}/version_0/checkpoints/step-00000{n}.ckpt"] for n in (2, 4))
    elsewhere = ["--trainer.logger.init_args.version", "other"]
    deterministic = ["--trainer.logger.init_args.name", "deterministic", "--trainer.deterministic", "true"]
    return [
        ["fit", *given, "--trainer.max_steps", "2"],
        ["fit", *given, "--trainer.max_steps", "4", *first],
        ["validate", *given, *last, *elsewhere],
        ["test", *given, *last, *elsewhere],
        ["predict", *given, *last, *elsewhere, "--trainer.callbacks+", "cahl_pl.callbacks.PredictionWriter"],
        ["export", "--out", "adapters", *given, *last],
        ["fit", *given, "--trainer.max_steps", "2", *deterministic],
    ]


def results(folder: Path) -> dict[str, Any]:
    """What the runs have written, by name; tensors, numbers and texts."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*.ckpt")):
        content = torch.load(path, map_location="cpu", weights_only=True)
        found |= {f"{path.relative_to(folder)} {name}": tensor for name, tensor in content["state_dict"].items()}
        found[f"{path.relative_to(folder)} global_step"] = float(content["global_step"])
    for path in sorted(folder.glob("adapters/**/*.safetensors")):
        found |= {f"{path.relative_to(folder)} {name}": tensor for name, tensor in load_file(path).items()}
    for path in sorted([*folder.rglob("summary.json"), *folder.rglob("test.json"), *folder.rglob("predictions.jsonl")]):
        found[str(path.relative_to(folder))] = path.read_text()
    for events in sorted({path.parent for path in folder.rglob("events.out.tfevents.*")}):
        read = EventAccumulator(str(events), size_guidance={"scalars": 0}).Reload()
        for tag in read.Tags()["scalars"]:
            if not tag.startswith(NOT_THE_SAME):
                found |= {f"{events.relative_to(folder)} {tag} {n}": e.value for n, e in enumerate(read.Scalars(tag))}
    return found


def differences(expected: dict[str, Any], found: dict[str, Any], exact: bool) -> list[str]:
    """Names of what is not as expected."""
    wrong = [f"only once: {name}" for name in sorted(expected.keys() ^ found.keys())]
    for name in expected.keys() & found.keys():
        a, b = expected[name], found[name]
        if isinstance(a, torch.Tensor):
            same = a.shape == b.shape and bool(b.isfinite().all()) and (torch.allclose(a, b, 1e-4, 1e-6) or not exact)
        elif isinstance(a, float):
            same = math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-6) or (not exact and math.isfinite(b))
        else:
            same = a == b or (not exact and len(str(a).splitlines()) == len(str(b).splitlines()))
        if not same:
            wrong.append(name if isinstance(a, torch.Tensor) else f"{name}: {a} {b}")
    return wrong


@pytest.mark.device
@pytest.mark.timeout(3300)
@pytest.mark.parametrize(("name", "devices"), [("cahl", 1), ("quickstart", 1), ("cahl", 2), ("quickstart", 2)])
def test_runs_give_what_they_give_on_the_cpu(device, emulator, start, tiny_model, rlla_file, tmp_path, name, devices):
    if (name, devices) != ("cahl", 1) and "CAHL_TEST_DEVICE" not in os.environ:
        pytest.skip("takes minutes: CAHL_TEST_DEVICE=emulated python -m pytest tests/devices")
    if device == "cuda" and torch.cuda.device_count() < devices:
        pytest.skip(f"there is one CUDA device, not {devices}")
    given = commands(name, tmp_path, tiny_model, rlla_file)
    runs = [start(given, "-", "cpu", devices)]
    if device != "cpu":
        runs.append(start(given, emulator, "gpu", devices))
    expected, found = results(runs[0].finish()), results(runs[-1].finish())
    steps = [value for key, value in found.items() if f"runs/{name}/" in key and key.endswith(" global_step")]
    assert sorted(steps) == [2.0, 4.0]
    written = " ".join(found)
    for part in ("val/task/success", "odd/task/success", "predictions.jsonl", "adapters/planner", "runs/deterministic"):
        assert part in written
    assert differences(expected, found, exact=device != "cuda") == []
