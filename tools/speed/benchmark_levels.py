"""Measure the cost of the second level: planner and executor against a single policy, in training and in inference.

    python -m tools.speed.benchmark_levels training --repeats 3 --out runs/levels_training.json
    python -m tools.speed.benchmark_levels inference --repeats 3 --out runs/levels_inference.json

Every system runs in a separate process, in turns, `--repeats` times, on Linux. Tables give medians over the repeats
[least, most], and the ratio of medians to the single-level system. Repeats differ only in time: `--seed` fixes all draws.
For the comparisons and counts, see tools/speed/levels_training.py and tools/speed/levels_inference.py.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import cahl_pl  # noqa: F401 - before torch: it decides how torch's threads wait

# isort: split
import torch

from cahl_pl.commands.fit_runs import at_least_one
from cahl_pl.commands.pipes import reader_may_leave
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.policy.loading import load_tokenizer
from cahl_pl.prompts.tool_text import ToolFormat
from cahl_pl.runs.files import write_json
from cahl_pl.startup.library_warnings import quiet_libraries
from tools.memory.process_memory import RELEASE
from tools.speed.benchmark_grpo import qwen2_config
from tools.speed.levels_inference import infer, inference_table
from tools.speed.levels_ratios import SYSTEMS
from tools.speed.levels_training import train, training_table
from tools.worker import run_again

ADAPTERS = ("lora", "alora")


def make_model(folder: Path) -> None:
    """Make a Qwen2 of 11 M random weights (6 layers, width 384) with the tokenizer of the shipped model."""
    from transformers import Qwen2ForCausalLM

    tokenizer = load_tokenizer(PolicyConfig())
    torch.manual_seed(0)
    config = qwen2_config(len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def measure(job: list[Any], model: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run one job in a separate process.

    Raises:
        SystemExit: it failed.
    """
    words = [options.part, *options.passed, "--worker", json.dumps([*job, model])]
    changes = {"OMP_NUM_THREADS": str(options.threads), "TOKENIZERS_PARALLELISM": "false"}
    if options.part == "training":
        changes |= RELEASE
    return run_again(__file__, words, ", ".join(map(str, job)), changes)[-1]


def jobs_of(options: argparse.Namespace) -> list[list[Any]]:
    """Return the jobs: in training a system; in inference a system, its adapter, and the number of tasks at once."""
    if options.part == "training":
        return [[system] for system in SYSTEMS["training"]]
    settings = itertools.product(options.adapters, dict.fromkeys((1, options.tasks)))
    return [[system, adapter, at_once] for adapter, at_once in settings for system in SYSTEMS["inference"]]


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    training = parts.add_parser("training", help="peak memory, and time a sampled token")
    inference = parts.add_parser("inference", help="tokens and seconds at equal answers")
    for part, model in ((training, "toolworld"), (inference, "random")):
        part.add_argument("--out", type=Path, help="JSON file of all values")
        part.add_argument("--repeats", type=at_least_one, default=3)
        part.add_argument(
            "--model", default=model, help=f"hub id, folder, toolworld, or random (11 M weights); default {model}"
        )
        part.add_argument("--tasks", type=at_least_one, default=16, help="of a round; in inference: of all")
        part.add_argument("--seed", type=int, default=0)
        part.add_argument("--threads", type=at_least_one, default=1)
        part.add_argument("--worker", help=argparse.SUPPRESS)
    training.add_argument("--rounds", type=at_least_one, default=4, help="that are timed")
    training.add_argument("--group-size", type=at_least_one, default=4, help="of every group")
    training.add_argument("--new-tokens", type=at_least_one, default=128, help="of an output at most")
    training.add_argument("--batch-size", type=at_least_one, default=64, help="completions decoded at once")
    training.add_argument("--micro-batch", type=at_least_one, default=2048, help="tokens of a micro-batch")
    inference.add_argument(
        "--tool-format", choices=get_args(ToolFormat), default="compact", help="of the prompts' tools; json is longest"
    )
    inference.add_argument("--adapters", nargs="+", choices=ADAPTERS, default=list(ADAPTERS))
    options = parser.parse_args(words)
    options.passed = list(words[1:])
    return options


@reader_may_leave()
def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    if options.worker is not None:
        quiet_libraries()
        torch.set_num_threads(options.threads)
        work: Any = train if options.part == "training" else infer
        run = work(*json.loads(options.worker), options)
        print(json.dumps(run), flush=True)
        return
    runs: list[tuple[list[Any], dict[str, Any]]] = []
    with tempfile.TemporaryDirectory() as name:
        model = options.model
        if model == "random":
            make_model(Path(name))
            model = name
        for _ in range(options.repeats):
            for job in jobs_of(options):
                runs.append((job, measure(job, model, options)))
                print(f"{', '.join(map(str, job))}: {runs[-1][1]}", file=sys.stderr, flush=True)
    results: Any = {}
    for (system, *setting), run in runs:
        of_setting = results.setdefault(", ".join(map(str, setting)), {})
        of_setting.setdefault(system, []).append(run)
    text = training_table(results[""]) if options.part == "training" else inference_table(results)
    print(text)
    if options.out is not None:
        machine = {
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
            "torch": torch.__version__,
            "threads": options.threads,
        }
        settings = {k: v for k, v in vars(options).items() if k not in ("out", "worker", "passed")}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.out, {"machine": machine, "options": settings, "results": results})


if __name__ == "__main__":
    main()
