"""Peak memory of a run on each device, by part, from its configuration; no weights are loaded, no data are read.

    python -m cahl_pl plan-memory -c configs/cahl.yaml --gpu-gib 24 45 --data.rollout.planner_group_size 8

For one device, for two and for the configured number it prints the contents of memory at the peak of sampling (unless
servers sample) and of each role's update, and for each GPU size whether that fits, the largest
`model.max_tokens_per_micro_batch` whose update fits, and, if the run does not fit, what to add to the command line.
Each device holds the base, or its part of it with `model.policy.shard_base`. The size of a GPU is the total in `nvidia-smi`,
which is less than the advertised size.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from cahl_pl.commands import verb_parser
from cahl_pl.commands.configured import policy_of, read_config
from cahl_pl.engines import TransformersEngine
from cahl_pl.engines.base import Sampling
from cahl_pl.errors import ConfigError
from cahl_pl.memory_plan import (
    GIB,
    ModelShape,
    Settings,
    largest_micro_batch,
    made_to_fit,
    overrides,
    peak,
    references_of,
    settings_of,
    shape_of,
    stages,
)
from cahl_pl.plurals import counted
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.rollout.config import RolloutConfig
from cahl_pl.startup.library_warnings import quiet_libraries
from cahl_pl.types import ROLES


def settings_for(config: Any, policy: PolicyConfig, devices: int) -> Settings:
    """Return the memory planner's settings.

    Raises:
        ConfigError: the engine that samples is neither ours nor a server.
    """
    data = config.data
    engine: TransformersEngine | None = TransformersEngine()
    if data.engine is not None and data.engine.class_path.endswith(".ServerEngine"):
        engine = None
    elif data.engine is not None:
        if not data.engine.class_path.endswith(".TransformersEngine"):
            raise ConfigError(f"data.engine is {data.engine.class_path}, whose memory is not known: plan without it")
        engine = TransformersEngine(**data.engine.init_args.as_dict())
    common, roles = config.model.grpo, (config.model.planner_grpo, config.model.executor_grpo)
    return settings_of(
        policy,
        _rollout(config),
        config.model.max_tokens_per_micro_batch,
        data.tasks_per_round,
        engine,
        devices,
        data.single_level,
        data.eval_batch_size if data.validation or data.test else 0,
        references_of(policy, data.warm_start_rounds, [common.kl if own.kl is None else own.kl for own in roles]),
    )


def _devices(config: Any) -> int:
    """Return the number of configured devices; 1 if Lightning decides."""
    devices, nodes = str(config.trainer.devices), config.trainer.num_nodes
    return int(devices) * nodes if devices.isdigit() and int(devices) else 1


def _rollout(config: Any) -> RolloutConfig:
    rollout = config.data.rollout.as_dict()
    planner, executor = (Sampling(**rollout.pop(role)) for role in ROLES)
    return RolloutConfig(**rollout, planner=planner, executor=executor)


def plan(shape: ModelShape, settings: Settings, sizes: list[float]) -> dict[str, Any]:
    """Return the plan that is printed for one number of devices."""
    gpus: dict[str, Any] = {}
    for size in sizes:
        limit = int(size * GIB)
        fitting = made_to_fit(shape, settings, limit)
        gpus[f"{size:g}"] = {
            "fits": peak(shape, settings) <= limit,
            "largest_max_tokens_per_micro_batch": largest_micro_batch(shape, settings, limit),
            "changes": None if fitting is None else overrides(settings, fitting),
        }
    found = {stage.name: stage.parts | {"total": stage.total} for stage in stages(shape, settings)}
    return {"stages": found, "peak": peak(shape, settings), "gpus": gpus}


def show(devices: int, planned: dict[str, Any]) -> None:
    """Print a plan for people."""
    found: dict[str, dict[str, int]] = planned["stages"]
    print(f"\n{devices} device{'s' * (devices > 1)}, GiB on each:\n")
    print(f"| {'at the worst moment of':22} | " + " | ".join(f"{name:>16}" for name in found) + " |")
    print("| --- |" + " ---: |" * len(found))
    for part in next(iter(found.values())):
        print(f"| {part:22} | " + " | ".join(f"{stage[part] / GIB:16.2f}" for stage in found.values()) + " |")
    print(f"\npeak: {planned['peak'] / GIB:.1f} GiB")
    for size, gpu in planned["gpus"].items():
        largest = gpu["largest_max_tokens_per_micro_batch"]
        room = "not even one sequence of the greatest length" if largest is None else counted(largest, "token")
        print(f"{size} GiB: {'fits' if gpu['fits'] else 'does not fit'}; largest micro-batch that fits: {room}")
        if not gpu["fits"]:
            print(f"  to make it fit: {' '.join(gpu['changes']) if gpu['changes'] else 'nothing known here helps'}")


def run(arguments: list[str]) -> None:
    """Parse, plan, print."""
    parser = verb_parser("plan-memory", __doc__, takes_configuration=True)
    parser.add_argument("--gpu-gib", type=float, nargs="+", default=[45.0], help="memory of a GPU, one or more sizes")
    parser.add_argument("--json", action="store_true", help="bytes, for programs")
    args, rest = parser.parse_known_args(arguments)
    quiet_libraries()
    config = read_config(rest)
    policy = policy_of(config)
    shape = shape_of(policy, _rollout(config).longest)
    planned = {n: plan(shape, settings_for(config, policy, n), args.gpu_gib) for n in sorted({1, 2, _devices(config)})}
    if args.json:
        print(json.dumps({"model": policy.model, "shape": asdict(shape), "devices": planned}))
        return
    weights = sum(shape.linear) + shape.others
    held = "in 4 bits (nf4)" if policy.quantization == "nf4" else f"in {policy.dtype}"
    print(f"{policy.model}: {weights:,} weights {held}, {shape.adapter:,} in each adapter")
    if shape.experts and policy.quantization == "nf4":
        print(f"{shape.experts:,} of them are experts, which stay in {policy.dtype}: NF4 is for linear layers alone")
    for devices, one in planned.items():
        show(devices, one)
