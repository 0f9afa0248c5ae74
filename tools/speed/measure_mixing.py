"""Estimate whether decoding plans and executions in the same passes, across tasks and the two adapters, would pay off.

    python -m tools.speed.measure_mixing --out runs/mixing.json

In a round all plans are sampled at once, then the first outputs of all episodes, then the second ones, and so on: every pass
of the model uses one adapter. Mixed, an episode would continue as soon as its own plan, or the output that is carried out,
has ended, while other plans are still being written: fewer passes with more rows each, in which every row has its own
adapter (PEFT's `adapter_names`).

Rounds of ToolWorld are sampled with the shipped model, and the lengths of their outputs are replayed both ways. A decoding
pass is timed for several numbers of rows, with one adapter and with both; for numbers in between, times are interpolated.
Reading prompts is left out, although mixed ones would be read in smaller batches: the figures for mixing are its best case.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cahl_pl  # noqa: F401 - before torch: it decides how torch's threads wait

# isort: split
import numpy as np
import torch

from cahl_pl.commands.fit_runs import at_least_one
from cahl_pl.commands.pipes import reader_may_leave
from cahl_pl.engines import TransformersEngine, drawing
from cahl_pl.engines import local as engine_code
from cahl_pl.engines.base import Sampling
from cahl_pl.environments import ExecutableEnvironment
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.policy.folded_attention import folded_attention
from cahl_pl.policy.kv_cache import run_layers
from cahl_pl.policy.packing import pack
from cahl_pl.policy.policy import Policy
from cahl_pl.prompts import PromptBuilder
from cahl_pl.rewards import ExecutorReward, PlannerReward
from cahl_pl.rollout.config import RolloutConfig
from cahl_pl.rollout.episode import Round
from cahl_pl.rollout.two_level import Rollout
from cahl_pl.runs.files import write_json
from cahl_pl.startup.library_warnings import quiet_libraries
from cahl_pl.toolworld import ToolWorld
from cahl_pl.toolworld.prompts import PROMPTS
from cahl_pl.types import ROLES

SAMPLES = 4  # G_h and G_l, as in configs/quickstart.yaml
CONFIG = RolloutConfig(
    planner_group_size=SAMPLES,
    executor_group_size=SAMPLES,
    max_steps=5,
    planner=Sampling(max_new_tokens=128),
    executor=Sampling(max_new_tokens=56),
)
TASKS = (1, 4, 16)
ROWS = (4, 8, 16, 32, 64, 128, 256)

Pass = tuple[int, int]
"""Rows of a decoding pass: the planner's, and the executor's."""


def lengths_of(sampled: Round) -> list[tuple[int, list[list[int]]]]:
    """Return the token counts of each episode's plan, and of each step's outputs."""
    steps: dict[int, dict[int, list[int]]] = defaultdict(dict)
    for group in sampled.groups["executor"]:
        steps[group.comparison_id // CONFIG.max_steps][group.comparison_id % CONFIG.max_steps] = list(
            map(len, group.completion_ids)
        )
    plans = [len(ids) for group in sampled.groups["planner"] for ids in group.completion_ids]
    return [(plan, [steps[i][k] for k in sorted(steps[i])]) for i, plan in enumerate(plans)]


def apart(episodes: Sequence[tuple[int, list[list[int]]]]) -> list[Pass]:
    """Return the passes of a round as it is now: first all plans, then all first outputs, and so on.

    The first token of an output comes from the pass that reads its prompt, which is not counted.
    """
    passes: list[Pass] = [(n, 0) for n in _falling([plan for plan, _ in episodes])]
    for k in range(max(len(steps) for _, steps in episodes)):
        outputs = [length for _, steps in episodes if len(steps) > k for length in steps[k]]
        passes += [(0, n) for n in _falling(outputs)]
    return passes


def mixed(episodes: Sequence[tuple[int, list[list[int]]]], generator: torch.Generator) -> list[Pass]:
    """Return the passes if no episode waited for another one; the output that is carried out is drawn beforehand."""
    rows: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    for plan, steps in episodes:
        now = 0
        for role, outputs in enumerate(([plan], *steps)):
            for length in outputs:
                for t in range(now, now + length - 1):
                    rows[t][role > 0] += 1
            # one pass, in which others may decode, reads the next prompt
            now += outputs[int(torch.randint(len(outputs), (), generator=generator))]
    return [(planner, executor) for planner, executor in rows.values()]


def _falling(lengths: Sequence[int]) -> list[int]:
    return [sum(length > t for length in lengths) for t in range(1, max(lengths))]


def pass_seconds(policy: Policy, rows: int, both: bool, repeats: int, prompt: int = 150) -> float:
    """Return the median seconds of a decoding pass, layers, logits and draw, of `rows` samples, four per prompt."""
    generator = torch.Generator().manual_seed(0)
    count = rows // SAMPLES
    prompts = torch.randint(100, 1000, (count, prompt), generator=generator).tolist()
    packed = pack(prompts, policy.hidden_size, prompt, context_tokens=[prompt - 1] * count)
    for row in packed:
        row.freeze_trunk()
    policy.activate("planner")
    policy.prefixes.forget()
    state = engine_code._prefill(policy, [packed], SAMPLES, repeats + 4)
    used, position, seconds = state.used, state.positions, []
    names = [ROLES[i % 2] for i in range(count)] if both else None
    with mixing(policy, names), folded_attention(policy.decoder):
        for _ in range(repeats + 2):
            start = time.perf_counter()
            state.visible[:, range(SAMPLES), range(used, used + SAMPLES)] = True
            position = position + 1
            state.keys[:, used : used + SAMPLES] = position
            used += SAMPLES
            ids = torch.full(position.shape, 200)
            mask = policy.attention_mask(state.visible[:, :, :used], position, state.keys[:, :used])
            hidden = run_layers(policy.decoder, ids, mask, position, state.cache)
            drawing.draw(policy.logits(hidden).flatten(0, 1), CONFIG.planner, generator)
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[2:])


def mixing(policy: Policy, names: Sequence[str] | None) -> contextlib.AbstractContextManager[None]:
    """Give each row of a batch the adapter named for it within the context; None: all have the active one."""
    if names is None:
        return contextlib.nullcontext()
    hooks: contextlib.AbstractContextManager[None] = policy.lm.base_model._enable_peft_forward_hooks(
        adapter_names=list(names)
    )
    return hooks


def seconds_of(passes: Sequence[Pass], one: dict[int, float], both: dict[int, float]) -> float:
    """Return the passes' seconds, estimated from the timed ones, one adapter or both."""
    counts = np.array([sum(rows) for rows in passes])
    mixes = np.array([min(rows) > 0 for rows in passes])
    alone, together = (np.interp(counts, list(t), list(t.values())) for t in (one, both))
    return float(np.where(mixes, together, alone).sum())


@torch.no_grad()
def measure(model: str, tasks: Sequence[int], rows: Sequence[int], repeats: int, seed: int) -> dict[str, Any]:
    """Return the seconds of passes by their rows, and of both ways through a round by its tasks."""
    policy = Policy(PolicyConfig(model=model))
    policy.load()
    kinds = {"one": False, "both": True}
    timed: dict[str, dict[int, list[float]]] = {kind: defaultdict(list) for kind in kinds}
    for _, count, (kind, both) in itertools.product(range(3), rows, kinds.items()):  # in turns: machines drift
        timed[kind][count].append(pass_seconds(policy, count, both and count > SAMPLES, repeats))
    costs = {kind: {count: min(values) for count, values in found.items()} for kind, found in timed.items()}
    builder = PromptBuilder(policy.tokenizer, PROMPTS)
    environment = ExecutableEnvironment("cahl_pl.toolworld.toolkit")
    world, generator = ToolWorld("train", size=1500, seed=1), torch.Generator().manual_seed(seed)
    rounds: dict[int, dict[str, float]] = {}
    for count in tasks:
        rollout = Rollout(TransformersEngine(), environment, PlannerReward(), ExecutorReward(), CONFIG)
        totals: dict[str, float] = defaultdict(float)
        for i in range(3):
            start = (i * max(tasks)) % len(world)
            sampled = rollout.run(policy, builder, [world[start + j] for j in range(count)], generator)
            policy.prefixes.forget()
            episodes = lengths_of(sampled)
            for name, passes in (("apart", apart(episodes)), ("mixed", mixed(episodes, generator))):
                totals[f"{name} passes"] += len(passes)
                totals[f"{name} rows"] += sum(map(sum, passes))
                totals[f"{name} s"] += seconds_of(passes, costs["one"], costs["both"])
        rounds[count] = dict(totals)
    return {"pass_ms": {k: {n: 1e3 * s for n, s in found.items()} for k, found in costs.items()}, "rounds": rounds}


def tables(result: dict[str, Any]) -> str:
    """Return Markdown."""
    lines = ["| rows of a pass | one adapter, ms | both, ms | ratio |", "| ---: | ---: | ---: | ---: |"]
    one, both = result["pass_ms"]["one"], result["pass_ms"]["both"]
    lines += [f"| {n} | {one[n]:.2f} | {both[n]:.2f} | {both[n] / one[n]:.2f} |" for n in one]
    lines += [
        "",
        "| tasks a round | passes, apart | mixed | ratio | rows a pass, apart | mixed | seconds, apart | mixed | ratio |",
        "| ---: |" + " ---: |" * 8,
    ]
    for count, found in result["rounds"].items():
        a, m = ({what: found[f"{way} {what}"] for what in ("passes", "rows", "s")} for way in ("apart", "mixed"))
        lines.append(
            f"| {count} | {a['passes']:.0f} | {m['passes']:.0f} | {m['passes'] / a['passes']:.2f} "
            f"| {a['rows'] / a['passes']:.1f} | {m['rows'] / m['passes']:.1f} "
            f"| {a['s']:.2f} | {m['s']:.2f} | {m['s'] / a['s']:.2f} |"
        )
    return "\n".join(lines)


@reader_may_leave()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="toolworld", help="whose passes are timed and whose rounds are sampled")
    parser.add_argument("--tasks", nargs="+", type=at_least_one, default=list(TASKS), help="tasks of a round")
    parser.add_argument(
        "--rows", nargs="+", type=at_least_one, default=list(ROWS), help="of a timed pass; multiples of 4"
    )
    parser.add_argument(
        "--repeats", type=at_least_one, default=20, help="passes timed for each number of rows, three times"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="also write all values here, as JSON")
    args = parser.parse_args()
    quiet_libraries()
    if any(n % SAMPLES for n in args.rows):
        parser.error(f"--rows takes multiples of {SAMPLES}, the samples of a prompt")
    result = measure(args.model, args.tasks, sorted(args.rows), args.repeats, args.seed)
    print(tables(result))
    if args.out is not None:
        write_json(args.out, result)


if __name__ == "__main__":
    main()
