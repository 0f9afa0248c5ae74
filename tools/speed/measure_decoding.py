"""Measure what folding a prompt's samples into the heads that share keys saves in a decoding step (`policy.folded_attention`).

    python -m tools.speed.measure_decoding                       # 12 layers, 8 query and 2 key heads, 16 prompts of 1,200
    python -m tools.speed.measure_decoding --heads 28 --key-heads 4 --samples 8 --out runs/decoding.json

A model with random weights continues the same prompts both ways in turns, in one process: whole decoding steps, from one
draw to the next. Times are processor times of one thread, which other programs change least: medians of all steps, with the
smallest and the largest median of a repetition.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cahl_pl  # noqa: F401 - before torch: it decides how torch's threads wait

# isort: split
import torch
from torch import Tensor

import cahl_pl.engines.local as engine_code
from cahl_pl.commands.fit_runs import at_least_one
from cahl_pl.commands.pipes import reader_may_leave
from cahl_pl.engines import TransformersEngine
from cahl_pl.engines.base import Completion, Sampling
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.policy.folded_attention import folded_attention
from cahl_pl.policy.policy import Policy
from cahl_pl.runs.files import write_json
from cahl_pl.startup.library_warnings import quiet_libraries
from tools.speed.benchmark_grpo import make_model

WAYS: dict[str, Any] = {"plain": contextlib.nullcontext, "folded": folded_attention}


def steps_of(
    policy: Policy, prompts: Sequence[Sequence[int]], samples: int, new: int, way: str
) -> tuple[list[float], list[list[Completion]]]:
    """Return the seconds of each decoding step, and the samples.

    Args:
        policy: policy that samples.
        prompts: token ids.
        samples: samples per prompt.
        new: maximum tokens of a completion.
        way: one of `WAYS`.
    """
    times: list[float] = []
    logits = policy.logits

    def timed(hidden: Tensor) -> Tensor:
        times.append(time.process_time())
        return logits(hidden)

    sampling, generator = Sampling(1.0, 1.0, new), torch.Generator().manual_seed(0)
    with patch.object(policy, "logits", timed), patch.object(engine_code, "folded_attention", WAYS[way]):
        found = TransformersEngine().generate(policy, "planner", prompts, samples, sampling, generator)
    # the first time is that of the prompts' logits
    return [after - before for before, after in itertools.pairwise(times[1:])], found


def measure(policy: Policy, prompts: Sequence[Sequence[int]], samples: int, new: int, repeats: int) -> dict[str, Any]:
    """Return medians of both ways in milliseconds, their ratio, and whether they sampled the same tokens."""
    medians: dict[str, list[float]] = {way: [] for way in WAYS}
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    tokens: dict[str, list[list[int]]] = {}
    for turn in range(repeats + 1):
        for way in WAYS:
            steps, found = steps_of(policy, prompts, samples, new, way)
            tokens[way] = [completion.ids.tolist() for group in found for completion in group]
            if turn:  # the first turn is the warm-up
                seconds[way] += steps
                medians[way].append(statistics.median(steps))
    ms = {
        way: {
            "median": 1e3 * statistics.median(seconds[way]),
            "least": 1e3 * min(medians[way]),
            "most": 1e3 * max(medians[way]),
        }
        for way in WAYS
    }
    ratio = ms["plain"]["median"] / ms["folded"]["median"]
    return {"ms": ms, "ratio": ratio, "same_tokens": tokens["plain"] == tokens["folded"]}


@reader_may_leave()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default, what in (
        ("layers", 12, "of the model"),
        ("width", 512, "of the model; of the MLP four times that"),
        ("heads", 8, "of queries"),
        ("key-heads", 2, "of keys and values"),
        ("prompts", 16, "continued at once"),
        ("length", 1200, "tokens of a prompt"),
        ("samples", 4, "of each prompt"),
        ("new", 8, "tokens of a completion"),
        ("repeats", 5, "turns of each way, after one to warm up"),
    ):
        parser.add_argument(f"--{name}", type=at_least_one, default=default, help=f"{what} (default {default})")
    parser.add_argument("--out", type=Path, help="also write all values here, as JSON")
    args = parser.parse_args()
    quiet_libraries()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        make_model(
            Path(folder),
            hidden_size=args.width,
            intermediate_size=4 * args.width,
            num_hidden_layers=args.layers,
            num_attention_heads=args.heads,
            num_key_value_heads=args.key_heads,
        )
        policy = Policy(PolicyConfig(model=folder))
        policy.load()
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(10, 30_000, (args.prompts, args.length), generator=generator).tolist()
    result = measure(policy, prompts, args.samples, args.new, args.repeats)
    print("| attention | a decoding step, ms | ratio |", "| --- | ---: | ---: |", sep="\n")
    for way, ms in result["ms"].items():
        ratio = f"{result['ratio']:.2f}" if way == "folded" else "1.00"
        print(f"| {way} | {ms['median']:.1f} [{ms['least']:.1f}, {ms['most']:.1f}] | {ratio} |")
    print(f"same tokens: {'yes' if result['same_tokens'] else 'no'}")
    if args.out is not None:
        write_json(args.out, result)


if __name__ == "__main__":
    main()
