"""Show on a CPU that the full-size model trains: Qwen2.5-7B's shape with random weights in NF4, one round, one update.

    python -m tools.memory.prove_7b --out proof            # a machine with 24 GiB of memory and 16 GiB of free disk
    python -m tools.memory.prove_7b --out proof --tenth    # a model of a tenth of the weights

Three steps, each in a separate process; one that has finished is not run again, and weights are written shard by shard,
so that an interrupted run can resume:

1. weights: random bfloat16 shards, one per layer, written to OUT/model.
2. round: the base is loaded shard by shard into NF4; both roles sample groups from short prompts.
3. updates: it is loaded again; one optimiser step of each role on these groups, with gradient checkpointing.

All estimates are printed first, and the measured peak of a step after it: of the process's own memory and, for
information, with the pages of files that it has read, such as the shards, which the system can drop at any time.
OUT/proof.json keeps the figures. They show that the steps run, and what they need; random weights learn nothing.
Activations are float32: products in bfloat16 are very slow on CPUs without instructions for them.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import cahl_pl  # noqa: F401 - before torch: it decides how torch's threads wait

# isort: split
import torch
from safetensors.torch import save_file

from cahl_pl.commands.pipes import reader_may_leave
from cahl_pl.engines import TransformersEngine
from cahl_pl.engines.base import Sampling
from cahl_pl.memory_plan import (
    GIB,
    Settings,
    sampling_moments,
    settings_of,
    shape_of,
    update_moments,
)
from cahl_pl.memory_plan.parts import base_bytes
from cahl_pl.memory_plan.stages import CONTEXT
from cahl_pl.module import CAHLModule
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.rollout.config import RolloutConfig
from cahl_pl.runs.checkpoints import read_checkpoint
from cahl_pl.startup.library_warnings import quiet_libraries
from cahl_pl.types import ROLES, Group
from tools.memory.check_memory_plan import Case, prompts_of, qwen2_config, sample, update
from tools.memory.process_memory import RELEASE
from tools.worker import command, environment

FULL = Case("7b", 3584, 18944, 28, 28, 4, 152064, 32, 8, 4, 2, 2, 256, True, "nf4")
TENTH = Case("tenth", 1152, 6144, 28, 9, 3, 48640, 32, 8, 4, 2, 2, 256, True, "nf4")
STEPS = ("weights", "round", "updates")


def write_weights(case: Case, folder: Path) -> None:
    """Write configuration, tokenizer and shards; existing shards are kept."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    config = qwen2_config(case)
    config.dtype = torch.bfloat16
    config.architectures = ["Qwen2ForCausalLM"]
    config.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<end>": 1}, unk_token="<pad>"))
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<end>").save_pretrained(folder)
    with torch.device("meta"):
        shapes = {name: tuple(p.shape) for name, p in Qwen2ForCausalLM(config).named_parameters()}
    shards: dict[str, list[str]] = {}
    for name in shapes:
        layer = name.split(".")[2] if ".layers." in name else name.removesuffix(".weight")
        shards.setdefault(f"model-{layer}.safetensors", []).append(name)
    for number, (file, names) in enumerate(shards.items()):
        if (folder / file).exists():
            continue
        generator = torch.Generator().manual_seed(number)
        tensors = {name: _random(name, shapes[name], generator) for name in names}
        save_file(tensors, folder / f"{file}.part", metadata={"format": "pt"})
        (folder / f"{file}.part").rename(folder / file)
    weight_map = {name: file for file, names in shards.items() for name in names}
    size = 2 * sum(map(math.prod, shapes.values()))
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _random(name: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    if name.endswith("norm.weight"):
        return torch.ones(shape, dtype=torch.bfloat16)
    return torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)


@contextmanager
def measured(figures: dict[str, Any], name: str) -> Iterator[None]:
    """Record the peak memory while this runs, sampled 20 times a second, and its seconds."""
    peaks, done, start = {"RssAnon": 0, "VmRSS": 0}, Event(), time.perf_counter()

    def watch() -> None:
        while not done.is_set():
            for line in Path("/proc/self/status").read_text().splitlines():
                key, _, value = line.partition(":")
                if key in peaks:
                    peaks[key] = max(peaks[key], 1024 * int(value.split()[0]))
            done.wait(0.05)

    watcher = Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
    own, resident = (round(peaks[key] / GIB, 2) for key in ("RssAnon", "VmRSS"))
    seconds = round(time.perf_counter() - start)
    figures[name] = {"gib": own, "gib_with_files": resident, "seconds": seconds}
    print(f"{name}: {own} GiB at the peak, {resident} with pages of files, {seconds} s", flush=True)


def estimates(case: Case, policy: PolicyConfig) -> dict[str, float]:
    """Return the memory planner's estimate for every step, in GiB."""
    shape, settings = shape_of(policy), settings_for(case, policy)
    base = base_bytes(shape, settings) + CONTEXT
    row = case.prompt + case.group_size * case.completion
    embeddings = case.vocabulary * case.hidden  # weights of the largest tensor
    moments = update_moments(shape, settings, case.groups * row, row, case.groups * case.group_size * case.completion)
    samplings = [m for role in ROLES for m in sampling_moments(shape, settings, role)]
    found = {
        "weights": 2 * 2 * embeddings + CONTEXT,  # the largest shard in bfloat16, and its copy while it is written
        "load": base + 4 * embeddings,  # the largest tensor, besides its destination
        "sample": base + 8 * shape.adapter + max(sum(m.values()) for m in samplings),  # no optimiser in that process
        "update": base + 28 * shape.adapter + max(sum(m.values()) for m in moments),  # adapters, moments and gradients
    }
    return {name: round(value / GIB, 2) for name, value in found.items()}


def settings_for(case: Case, policy: PolicyConfig) -> Settings:
    """Return the planner's settings for a case."""
    sampling = Sampling(max_new_tokens=case.completion)
    rollout = RolloutConfig(
        planner_group_size=case.group_size,
        executor_group_size=case.group_size,
        max_steps=1,
        max_prompt_tokens=case.prompt,
        planner=sampling,
        executor=sampling,
    )
    return settings_of(policy, rollout, case.micro_batch, case.groups, TransformersEngine())


def carry_out(step: str, case: Case, out: Path) -> None:
    """Run one step in this process; its figures go to OUT/STEP.json."""
    figures: dict[str, Any] = {}
    torch.manual_seed(0)
    if step == "weights":
        with measured(figures, "weights"):
            write_weights(case, out / "model")
    else:
        module = CAHLModule(_policy(out), max_tokens_per_micro_batch=case.micro_batch)
        with measured(figures, f"load for {step}"):
            module.policy.load()
        if step == "round":
            prompts = prompts_of(case.vocabulary, case.prompt, case.groups)
            for role in ROLES:
                with measured(figures, f"sample {role}"):
                    groups = sample(module.policy, role, prompts, case.group_size, case.completion)
                torch.save([vars_of(group) for group in groups], out / f"{role}.pt")
        else:
            for role in ROLES:
                groups = [Group(**values) for values in read_checkpoint(out / f"{role}.pt")]
                optimizer = torch.optim.AdamW(module.policy.parameters_of(role), lr=1e-5)
                before = {n: p.clone() for n, p in module.policy.adapter_state().items()}
                with measured(figures, f"update {role}"):
                    update(module, role, groups, optimizer)
                moved = {n for n, p in module.policy.adapter_state().items() if not torch.equal(p, before[n])}
                if not moved or any(f".{role}." not in name for name in moved):
                    raise SystemExit(f"the {role}'s update moved {sorted(moved)[:2]}, which is not its adapter")
    (out / f"{step}.json").write_text(json.dumps(figures))


def vars_of(group: Group) -> dict[str, Any]:
    """Return a group as plain values."""
    return {name: getattr(group, name) for name in Group.__dataclass_fields__}


def _policy(out: Path) -> PolicyConfig:
    return PolicyConfig(
        model=str((out / "model").resolve()), quantization="nf4", dtype="float32", gradient_checkpointing=True
    )


@reader_may_leave()
def main() -> None:
    """Run the steps that have not finished."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for weights, groups and figures")
    parser.add_argument("--tenth", action="store_true", help="a model of a tenth of the size")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    quiet_libraries()
    case = TENTH if args.tenth else FULL
    if args.step:
        carry_out(args.step, case, args.out)
        return
    (args.out / "model").mkdir(parents=True, exist_ok=True)
    qwen2_config(case).save_pretrained(args.out / "model")
    planned = estimates(case, _policy(args.out))
    print(f"estimates, GiB: {planned}", flush=True)
    figures: dict[str, Any] = {"estimates": planned}
    for step in STEPS:
        if not (args.out / f"{step}.json").exists():
            words = ["--out", str(args.out), "--step", step, *(["--tenth"] if args.tenth else [])]
            subprocess.run(command(__file__, words), check=True, env=environment(RELEASE))
        figures |= json.loads((args.out / f"{step}.json").read_text())
    (args.out / "proof.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(f"written: {args.out / 'proof.json'}")


if __name__ == "__main__":
    main()
