"""Measure how far the rewards of plans are from their worth: data for docs/learning.md.

    python -m tools.quality.measure_credit --out docs/data/learning/credit.json

The planner of the shipped model writes plans for ToolWorld's tasks. A plan's worth is the mean of R_h over many whole
executions of it. It is then rewarded many times in each way of `data.rollout`, and its advantages are computed in each way of
`model.planner_grpo`; both are compared with its worth. Unreadable plans are worth 0 in every way and are compared too.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, cast

import cahl_pl  # noqa: F401 - before torch: it decides how torch's threads wait

# isort: split
import torch
import transformers
from torch import Tensor

from cahl_pl.commands.pipes import reader_may_leave
from cahl_pl.engines import Completion, TransformersEngine
from cahl_pl.environments import ExecutableEnvironment
from cahl_pl.grpo.advantages import Scoring, fill_advantages
from cahl_pl.grpo.config import GRPOConfig, Scale
from cahl_pl.policy import Policy, PolicyConfig
from cahl_pl.prompts import PromptBuilder
from cahl_pl.rewards import ExecutorReward, PlannerReward
from cahl_pl.rollout.config import RolloutConfig
from cahl_pl.rollout.two_level import Rollout
from cahl_pl.startup.library_warnings import quiet_libraries
from cahl_pl.toolworld import ToolWorld, toolkit
from cahl_pl.toolworld.prompts import PROMPTS
from cahl_pl.types import Group, Task

CREDITS: Final = {
    "sampled_mean": {"branching": "step", "credit": "sampled_mean"},
    "unbiased": {"branching": "step", "credit": "unbiased"},
    "trajectory": {"branching": "trajectory"},
}
"""Ways of rewarding a plan: name -> keys of `data.rollout`."""

SCALES: Final[tuple[Scale, ...]] = ("group", "none")

ADVANTAGES: Final[dict[str, GRPOConfig]] = {
    f"{scale}, pooled" if pooled else scale: GRPOConfig(scale_rewards=scale, pool_equal_plans=pooled)
    for scale in SCALES
    for pooled in (False, True)
}
"""Ways of computing advantages: name -> `model.planner_grpo`."""


class GivenPlans(Rollout):
    """Rollout that carries out plans sampled before."""

    plans: Sequence[list[Completion]]

    def _plan(self, *_: object) -> tuple[list[list[Completion]], int]:
        return list(self.plans), 0


def build(**keys: object) -> GivenPlans:
    """Return a rollout with the quickstart's limits and these keys of `data.rollout`."""
    config = RolloutConfig(planner_group_size=4, executor_group_size=4, max_steps=5, max_prompt_tokens=1024)
    config = replace(config, planner=replace(config.planner, max_new_tokens=128), **keys)  # type: ignore[arg-type]
    config = replace(config, executor=replace(config.executor, max_new_tokens=56))
    environment = ExecutableEnvironment(toolkit)
    return GivenPlans(TransformersEngine(), environment, PlannerReward(), ExecutorReward(), config)


def centred(values: Tensor) -> Tensor:
    """Return values [tasks, G_h] minus the mean of their task."""
    return values - values.mean(1, keepdim=True)


def cosine(advantages: Tensor, worth: Tensor) -> float:
    """Return the cosine between all advantages and all centred worths, each [tasks, G_h]."""
    return torch.cosine_similarity(advantages.flatten(), centred(worth).flatten(), dim=0).item()


def advantages_of(groups: list[Group], config: GRPOConfig) -> Tensor:
    """Return the groups' advantages, [tasks, G_h]; the groups' own are overwritten."""
    fill_advantages(groups, Scoring(config, {}, 128))
    return torch.stack([group.advantages for group in groups])


def measure(tasks: list[Task], executions: int, repeats: int, seed: int) -> dict[str, object]:
    """Return worths, the bias and variance of each way of rewarding, and the cosine of each way of computing advantages."""
    policy = Policy(PolicyConfig(model="toolworld"))
    policy.load()
    builder = PromptBuilder(policy.tokenizer, PROMPTS)
    generator = torch.Generator().manual_seed(seed)
    writer = build()
    config = writer.config
    plans = writer.engine.generate(
        policy, "planner", [builder.planner(t) for t in tasks], config.planner_group_size, config.planner, generator
    )

    def play(rollout: GivenPlans) -> tuple[Tensor, list[Group]]:
        rollout.plans = plans
        found = rollout.run(policy, builder, tasks, generator)
        return torch.stack([group.rewards for group in found.groups["planner"]]), found.groups["planner"]

    judge = build(branching="trajectory", executor_group_size=executions)
    worth, _ = play(judge)
    result: dict[str, object] = {
        "machine": platform.machine(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tasks": len(tasks),
        "seed": seed,
        "executions": executions,
        "repeats": repeats,
        "worth": [[round(v, 4) for v in row] for row in worth.tolist()],
    }
    for name, keys in CREDITS.items():
        rollout = build(**keys)
        paid: list[Tensor] = []
        made: dict[str, list[Tensor]] = {way: [] for way in ADVANTAGES}
        for _ in range(repeats):
            rewards, groups = play(rollout)
            paid.append(rewards)
            for way, grpo in ADVANTAGES.items():
                made[way].append(advantages_of(groups, grpo))
        stacked = torch.stack(paid)
        result[name] = {
            "bias": (stacked.mean(0) - worth).mean().item(),
            "variance": stacked.var(0).mean().item(),
            "cosine": {way: sum(cosine(a, worth) for a in many) / repeats for way, many in made.items()},
            "first_advantages": {
                way: [[round(v, 4) for v in row] for row in many[0].tolist()] for way, many in made.items()
            },
        }
    return result


@reader_may_leave()
def run() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file that is written")
    parser.add_argument("--tasks", type=int, default=48)
    parser.add_argument("--executions", type=int, default=64, help="whole executions of a plan that say its worth")
    parser.add_argument("--repeats", type=int, default=20, help="how often each way pays every plan")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    quiet_libraries()
    world = ToolWorld("train", args.tasks, seed=1)
    found = measure([world[i] for i in range(args.tasks)], args.executions, args.repeats, args.seed)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(found, indent=1) + "\n")
    for name in CREDITS:
        row = cast("dict[str, object]", found[name])
        print(f"{name:14} bias {row['bias']:+.4f}  variance {row['variance']:.4f}  cosine {row['cosine']}")


if __name__ == "__main__":
    run()
