"""Measure full-size sampling and updates of configs/cahl.yaml on a device: seconds, tokens per second, memory against the plan.

    python -m tools.speed.gpu_step --out gpu_step.json           # a CUDA device of 45 GiB or more; a few minutes
    python -m tools.speed.gpu_step --small --device cpu          # the same on a model of 2 layers, to try the program

The base has random weights of Qwen2.5-7B's shape in NF4, made on the device; they are neither downloaded nor written. Lengths
are the longest that the configuration allows (only the last 32 tokens of each completion are sampled, where the context is
longest), and usual ones. Each is run once, after a small warm-up run. For sampling, tokens per second include the reading of
the prompts; `step` is the time of a decoding step without it.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import cahl_pl  # noqa: F401 - before torch: it decides how torch's threads wait

# isort: split
import bitsandbytes as bnb
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from cahl_pl.commands.pipes import reader_may_leave
from cahl_pl.memory_plan import GIB
from cahl_pl.module import CAHLModule
from cahl_pl.policy import policy as policy_module
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.policy.four_bit import keep_cpu_gradients
from cahl_pl.startup.library_warnings import quiet_libraries
from tools.memory.check_full_size import (
    SAMPLING,
    SHAPE,
    UPDATES,
    Work,
    as_after_a_step,
    at_the_end,
    groups_of,
    module_of,
    planned_sampling,
    planned_update,
    sample,
    totals,
    update,
)
from tools.memory.check_memory_plan import Case, prompts_of

SMALL = Case("small", 64, 128, 2, 4, 2, 512, 96, 24, 2, 4, 2, 512, True, "nf4", "bfloat16")
USUAL = Work("sample executor, usual lengths", "executor", 64, 4, 1200, 64)
FEW = 32
"""Sampled tokens of each completion."""


def load_base(config: PolicyConfig, base_config: Any, device: torch.device) -> tuple[Any, Any]:
    """Replace `cahl_pl.policy.loading.load_base`: return random weights, made and quantised on the device."""
    with torch.device(device):
        base = AutoModelForCausalLM.from_config(
            base_config, dtype=getattr(torch, config.dtype), attn_implementation=config.attention
        )
    for name, module in list(base.named_modules()):
        if type(module) is nn.Linear and name != "lm_head":
            parent, _, own = name.rpartition(".")
            setattr(base.get_submodule(parent), own, _quantised(module, device))
    base.is_loaded_in_4bit = True
    keep_cpu_gradients(base)
    return SimpleNamespace(pad_token_id=0, eos_token_id=1), base.eval()


def _quantised(linear: nn.Linear, device: torch.device) -> nn.Module:
    packed = bnb.nn.Linear4bit(
        linear.in_features,
        linear.out_features,
        bias=linear.bias is not None,
        compute_dtype=linear.weight.dtype,
        compress_statistics=True,
        quant_type="nf4",
        device="meta",
    )
    kind: dict[str, Any] = {"quant_type": "nf4", "compress_statistics": True}
    weight: Any = bnb.nn.Params4bit(linear.weight.data, requires_grad=False, **kind)
    packed.weight, packed.bias = weight.to(device), linear.bias  # the move packs it
    return packed


def small(work: Work) -> Work:
    """Return `work` scaled down for `SMALL`."""
    return replace(
        work, groups=min(work.groups, 4), size=min(work.size, 4), prompt=96, completion=min(work.completion, 24)
    )


def measure(case: Case, module: CAHLModule, work: Work) -> dict[str, Any]:
    """Do `work` once; return its figures."""
    device = module.policy.device
    groups = groups_of(case, work) if work.update else []
    moments = planned_update(case, module, work, groups) if work.update else planned_sampling(case, module, work)
    prompts = prompts_of(case.vocabulary, work.prompt, work.groups)
    row: dict[str, Any] = {"name": work.name}
    if work.update:
        tokens = sum(len(g.prompt_ids) + sum(map(len, g.completion_ids)) for g in groups)
        seconds = _seconds(device, lambda: update(module, work.role, groups), row)
    else:
        tokens = work.groups * work.size * work.completion
        with _first_logits(module) as begun:
            seconds = _seconds(device, lambda: sample(module, work, prompts), row)
            row["step"] = (time.perf_counter() - begun[0]) / max(work.completion - 1, 1)
    module.policy.prefixes.forget()
    counted, planned = totals(case, module, work, moments)
    row |= {"seconds": seconds, "tokens": tokens, "tokens_per_second": tokens / seconds}
    return row | {"counted_gib": counted / GIB, "planned_gib": planned / GIB}


@contextlib.contextmanager
def _first_logits(module: CAHLModule) -> Iterator[list[float]]:
    """Record when the prompts have been read: logits are requested for the first time."""
    inner, begun = module.policy.logits, list[float]()

    def noting(hidden: torch.Tensor) -> torch.Tensor:
        if not begun:
            if hidden.is_cuda:
                torch.cuda.synchronize(hidden.device)
            begun.append(time.perf_counter())
        return inner(hidden)

    module.policy.logits = noting  # type: ignore[method-assign]
    try:
        yield begun
    finally:
        del module.policy.logits  # the class's method again


def _seconds(device: torch.device, work: Any, row: dict[str, Any]) -> float:
    """Return the seconds that `work` takes; on CUDA, add its memory to the row."""
    cuda = device.type == "cuda"
    gc.collect()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        retries = torch.cuda.memory_stats(device).get("num_alloc_retries", 0)
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    if cuda:
        torch.cuda.synchronize(device)
        row["peak_gib"] = torch.cuda.max_memory_allocated(device) / GIB
        row["reserved_gib"] = torch.cuda.max_memory_reserved(device) / GIB
        row["alloc_retries"] = torch.cuda.memory_stats(device).get("num_alloc_retries", 0) - retries
    return time.perf_counter() - start


def table(rows: list[dict[str, Any]]) -> str:
    """Return the figures as Markdown; those not measured are `-`."""
    columns = (
        "seconds",
        "step",
        "tokens_per_second",
        "counted_gib",
        "planned_gib",
        "peak_gib",
        "reserved_gib",
        "alloc_retries",
    )
    lines = ["| what | " + " | ".join(columns) + " |", "| --- |" + " ---: |" * len(columns)]
    for row in rows:
        values = (f"{row[column]:.3g}" if column in row else "-" for column in columns)
        lines.append(f"| {row['name']} | " + " | ".join(values) + " |")
    return "\n".join(lines)


@reader_may_leave()
def main() -> None:
    """Make the base, do all the work, print the table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda or cpu")
    parser.add_argument("--small", action="store_true", help="a model of 2 layers and short prompts")
    parser.add_argument("--out", type=Path, help="file for the figures")
    args = parser.parse_args()
    quiet_libraries()
    case = SMALL if args.small else SHAPE
    works = [*(at_the_end(work, FEW) for work in SAMPLING), USUAL, *UPDATES]
    if args.small:
        works = [small(work) for work in works]
    rows = []
    with tempfile.TemporaryDirectory() as folder, patch.object(policy_module, "load_base", load_base):
        start = time.perf_counter()
        module = module_of(case, Path(folder), args.device)
        print(f"loaded in {time.perf_counter() - start:.0f} s", flush=True)
        held = as_after_a_step(module, "planner")
        sample(module, small(SAMPLING[0]), prompts_of(case.vocabulary, 96, 4))
        for work in works:
            rows.append(measure(case, module, work))
            print(table(rows[-1:]).splitlines()[-1], flush=True)
        del held
    name = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    result = {"device": name, "torch": torch.__version__, "model": case.name, "rows": rows}
    print(f"\n{name}, torch {torch.__version__}, model {case.name}\n{table(rows)}")
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
