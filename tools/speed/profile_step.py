"""Measure what share of a GRPO step's time is the arithmetic of the model's matrix products, and where the rest goes.

    python -m tools.speed.profile_step --shape 0 --adapter lora --out runs/profile.json
    python -m tools.speed.profile_step --prompts 4 --length 128 --group 4 --new 16
    pip install trl==1.16.0 && python -m tools.speed.profile_step --shape 0 --system trl

Model, step and shapes are those of tools/speed/benchmark_grpo.py. The same process takes one warm-up step, --steps timed
ones, one in which floating-point operations are counted, and one under torch.profiler; sampling and update separately.

The first table lists the operations of all matrix products, a multiplication and an addition each being one: those of the
base's linear layers, of LoRA, of the output layer, and of attention, where causal attention counts half. Divided by the best
rate at which this machine, with the same threads, multiplies large square float32 matrices, they give a lower bound on the
time. Matrices of a decoding step are far from square: each weight is read for a few tokens, so the bound is out of reach.

The second table is the profiler's self time, by kind of operation. `vocabulary` is all operations except products on
tensors as wide as the vocabulary: softmax, draws, and their copies. `optimiser` is its step alone. `the rest` is views,
memory and the autograd engine. `outside any op` is the time in which no operation ran: Python. The profiler slows
small operations and Python down, so its step takes longer than the timed one; compare shares, not seconds.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import cahl_pl  # noqa: F401 - before torch: it decides how torch's threads wait

# isort: split
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from cahl_pl.commands.fit_runs import at_least_one
from cahl_pl.commands.pipes import reader_may_leave
from cahl_pl.plurals import counted
from cahl_pl.runs.files import write_json
from cahl_pl.startup.library_warnings import quiet_libraries
from tools.speed.benchmark_grpo import SHAPES, Shape, Steps, make_model, trl_trainer

STAGES = ("sampling", "update")
PARTS = ("base linear layers", "LoRA", "attention", "output layer")
PRODUCTS, ATTENTION, ELEMENTS, COPIES, VOCABULARY, OPTIMISER, REST, OUTSIDE = GROUPS = (
    "matrix products",
    "attention",
    "element-wise, reductions",
    "copies, indexing",
    "vocabulary",
    "optimiser",
    "the rest",
    "outside any op",
)
# by name without "aten::" and the underscore of in-place operations
_PRODUCTS = re.compile("mm|addmm|bmm|baddbmm")
_COPIES = re.compile(
    "copy|_to_copy|to|contiguous|clone|cat|stack|index|index_put|_index_put_impl|index_select|gather|scatter|embedding|fill|"
    "zero|zeros|ones|full|zeros_like|ones_like|arange|masked_scatter|masked_select|masked_fill|nonzero|repeat|"
    "repeat_interleave|constant_pad_nd|roll|tril|triu|item|_local_scalar_dense"
)
_ELEMENTS = re.compile(
    "add|sub|rsub|mul|div|neg|pow|sqrt|rsqrt|exp|log|reciprocal|abs|sign|clamp|clamp_min|clamp_max|minimum|maximum|cos|sin|"
    "silu|silu_backward|sigmoid|tanh|where|eq|ne|lt|le|gt|ge|logical_and|logical_or|logical_not|bitwise_and|bitwise_or|"
    "bitwise_not|isin|isfinite|isnan|remainder|addcmul|addcdiv|lerp|sum|mean|var|std|max|min|amax|amin|all|any|argmax|cumsum|"
    "norm|linalg_vector_norm|sort|argsort|topk|searchsorted|rand|uniform|multinomial|exponential|"
    "_?(log_)?softmax|_(log_)?softmax_backward_data"
)

Watch = Callable[[str, Any], AbstractContextManager[None]]
"""Function of the stage that begins and the PEFT model; its context is left when the stage ends."""


class Clock:
    """Timer of stages.

    Args:
        now: a clock, in seconds.

    Attributes:
        seconds: stage -> seconds of each step.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self._now = now

    @contextmanager
    def watch(self, stage: str, model: Any) -> Iterator[None]:
        """See `Watch`."""
        start = self._now()
        yield
        self.seconds[stage].append(self._now() - start)


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counter of floating-point operations.

    A product belongs to the part whose weight it multiplies with. One without a weight is the gradient of a LoRA matrix:
    nothing else is trained.

    Attributes:
        counted: stage -> part -> operations.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counted: dict[str, Counter[str]] = {stage: Counter() for stage in STAGES}
        self._stage = ""
        self._weights: list[tuple[int, int, str]] = []

    @contextmanager
    def watch(self, stage: str, model: Any) -> Iterator[None]:
        """See `Watch`."""
        self._stage, self._weights = stage, weights_of(model)
        with self:
            yield

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count it."""
        result = func(*args, **(kwargs or {}))
        packet, counts = func._overloadpacket, self.counted[self._stage]
        name = packet.__name__.rstrip("_")  # addmm_ adds in place
        if name.startswith("_scaled_dot_product_"):
            named = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | (kwargs or {})
            counts["attention"] += attention_operations(
                named["query"].shape, named["key"].shape, named.get("is_causal", False), name.endswith("_backward")
            )
        elif (formula := flop_registry.get(getattr(torch.ops.aten, name, packet))) is not None:
            operations = formula(*args, **(kwargs or {}), out_val=result)
            if name in ("bmm", "baddbmm"):
                counts["attention"] += operations
            else:
                addresses = [a.data_ptr() for a in args if isinstance(a, torch.Tensor)]
                parts = (p for begin, end, p in self._weights if any(begin <= a < end for a in addresses))
                counts[next(parts, "LoRA")] += operations
        return result


def weights_of(model: Any) -> list[tuple[int, int, str]]:
    """Return first address, end and part of each weight matrix of a PEFT model; views of it, or of its rows, lie in between."""
    output = model.get_base_model().get_output_embeddings().weight
    matrices = [(n, p) for n, p in model.named_parameters() if p.dim() == 2 and p is not output]
    parts = [(output, "output layer"), *((p, "LoRA" if "lora_" in n else PARTS[0]) for n, p in matrices)]
    return [(p.data_ptr(), p.data_ptr() + p.nbytes, part) for p, part in parts]


def attention_operations(query: Sequence[int], key: Sequence[int], causal: bool, backward: bool) -> int:
    """Count attention operations of [B, H, Q, d] on [B, H, K, d]: two products, or five for a gradient without kept weights."""
    batch, heads, queries, width = query
    pairs = queries * (queries + 1) // 2 if causal else queries * key[2]
    return 2 * (5 if backward else 2) * batch * heads * pairs * width


class Profile:
    """Self time of operations under torch.profiler.

    Attributes:
        seconds: stage -> seconds of the whole stage.
        groups: stage -> group -> operation -> seconds.
        calls: stage -> group -> number of operations.
    """

    def __init__(self, vocabulary: int) -> None:
        self.seconds: dict[str, float] = {}
        self.groups: dict[str, dict[str, dict[str, float]]] = {}
        self.calls: dict[str, Counter[str]] = {}
        self._vocabulary = vocabulary

    @contextmanager
    def watch(self, stage: str, model: Any) -> Iterator[None]:
        """See `Watch`."""
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
            start = time.perf_counter()
            yield
            seconds = time.perf_counter() - start
        groups: dict[str, dict[str, float]] = {group: defaultdict(float) for group in GROUPS}
        calls: Counter[str] = Counter()
        for event in profiler.events() or ():
            group = group_of(event, self._vocabulary)
            groups[group][event.name] += event.self_cpu_time_total / 1e6
            calls[group] += 1
        groups[OUTSIDE]["between ops"] = seconds - sum(sum(ops.values()) for ops in groups.values())
        self.seconds[stage], self.groups[stage], self.calls[stage] = seconds, groups, calls


def group_of(event: Any, vocabulary: int) -> str:
    """Return which of `GROUPS` the self time of a profiler's event belongs to.

    Args:
        event: event of `torch.profiler.profile.events`.
        vocabulary: last dimension of logits and similar tensors.
    """
    names, above = [event.name], event.cpu_parent
    while above is not None:
        names.append(above.name)
        above = above.cpu_parent
    if any(name.startswith("Optimizer.step") for name in names):
        return OPTIMISER
    if any("scaled_dot_product" in name for name in names):
        return ATTENTION
    if "::" not in event.name:  # a node of the autograd graph, or a function written in Python
        return REST if re.search(r"Backward\d+$", event.name) else OUTSIDE
    name = event.name.removeprefix("aten::").rstrip("_")
    if _PRODUCTS.fullmatch(name):
        return PRODUCTS
    copies = _COPIES.fullmatch(name)
    if not copies and not _ELEMENTS.fullmatch(name):
        return REST
    if any(shape and shape[-1] == vocabulary for shape in event.input_shapes or () if isinstance(shape, list)):
        return VOCABULARY
    return COPIES if copies else ELEMENTS


def run_ours(folder: Path, shape: Shape, adapter: str, seed: int, watches: Sequence[Watch]) -> None:
    """Take a step for each of the watches."""
    steps = Steps(folder, shape, adapter, seed)
    for watch in watches:
        with watch("sampling", steps.policy.lm):
            groups = steps.sample()
        with watch("update", steps.policy.lm):
            steps.update(groups)


def run_trl(folder: Path, shape: Shape, watches: Sequence[Watch]) -> None:
    """Do the same with TRL's trainer; its batches are ready when it has sampled and scored."""
    from transformers import TrainerCallback

    trainer, stage, remaining = trl_trainer(folder, shape, len(watches)), ExitStack(), list(watches)
    prepare = trainer._prepare_inputs

    class Begin(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            stage.enter_context(remaining[0]("sampling", trainer.model))

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            stage.close()
            remaining.pop(0)

    def sample(batch: Any) -> Any:
        inputs = prepare(batch)
        stage.close()
        stage.enter_context(remaining[0]("update", trainer.model))
        return inputs

    trainer._prepare_inputs = sample
    trainer.add_callback(Begin())
    trainer.train()


def peak_rate(now: Callable[[], float] = time.perf_counter, sizes: Sequence[int] = (512, 1024, 2048)) -> float:
    """Return the operations per second of the fastest product of two square float32 matrices, by the clock `now`."""
    best = 0.0
    for size in sizes:
        a, b, out = torch.randn(size, size), torch.randn(size, size), torch.empty(size, size)
        for _ in range(5 * max(sizes) // size):
            start = now()
            torch.mm(a, b, out=out)
            best = max(best, 2 * size**3 / (now() - start))
    return best


def summary(result: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return rows of the first table: name -> sampling, update, step."""
    counted = [result["operations"][stage] for stage in STAGES]
    rows = {f"{part}, GFLOP": [counts.get(part, 0) / 1e9 for counts in counted] for part in PARTS}
    all_ = [sum(counts.values()) for counts in counted]
    rows["all, GFLOP"] = [count / 1e9 for count in all_]
    rows["lower bound, s"] = [count / result["peak"] for count in all_]
    rows["measured, s"] = [statistics.median(result["seconds"][stage]) for stage in STAGES]
    table = {name: {**dict(zip(STAGES, row, strict=True)), "step": sum(row)} for name, row in rows.items()}
    share = {c: 100 * table["lower bound, s"][c] / table["measured, s"][c] for c in (*STAGES, "step")}
    return {**table, "bound / measured, %": share}


def tables(result: Mapping[str, Any]) -> str:
    """Return Markdown: operations, bound and share; then the profile."""
    lines = ["| | sampling | update | step |", "| --- | ---: | ---: | ---: |"]
    for name, row in summary(result).items():
        lines.append(f"| {name} | " + " | ".join(f"{value:.3g}" for value in row.values()) + " |")
    profiled = result["profile"]
    lines += ["", "| self time under the profiler |", "| --- |"]
    for stage in STAGES:
        lines[-2] += f" {stage}, s | share, % | ops | most of it |"
        lines[-1] += " ---: | ---: | ---: | --- |"
    for group in GROUPS:
        line = f"| {group} |"
        for stage in STAGES:
            ops = profiled[stage]["groups"][group]
            seconds, whole = sum(ops.values()), profiled[stage]["seconds"]
            most = [n for n in sorted(ops, key=lambda n: -ops[n])[:3] if ops[n] > 0.0005 * whole]
            names = ", ".join(f"{name.removeprefix('aten::')} {100 * ops[name] / whole:.1f} %" for name in most)
            line += (
                f" {seconds:.3f} | {100 * seconds / whole:.1f} | {profiled[stage]['calls'].get(group, 0)} | {names} |"
            )
        lines.append(line)
    whole = [
        f" {profiled[stage]['seconds']:.3f} | 100 | {sum(profiled[stage]['calls'].values())} | |" for stage in STAGES
    ]
    lines.append("| all |" + "".join(whole))
    for stage in STAGES:
        operations = sum(n for part, n in result["operations"][stage].items() if part != "attention")
        rate = operations / (sum(profiled[stage]["groups"][PRODUCTS].values()) or float("nan"))
        lines.append(f"\nMatrix products but attention's, {stage}: {rate / 1e9:.1f} GFLOP/s")
    lines.append(f"\nPeak: {result['peak'] / 1e9:.1f} GFLOP/s with {counted(result['machine']['threads'], 'thread')}")
    return "\n".join(lines)


def measure(folder: Path, shape: Shape, options: argparse.Namespace) -> dict[str, Any]:
    """Return all figures of one system: the content of --out."""
    now = time.process_time if options.processor_time else time.perf_counter
    warm_up, clock, operations, profiled = Clock(), Clock(now), Operations(), Profile(vocabulary=32_000)
    watches = [warm_up.watch, *[clock.watch] * options.steps, operations.watch, profiled.watch]
    peak = peak_rate(now)
    if options.system == "trl":
        run_trl(folder, shape, watches)
    else:
        run_ours(folder, shape, options.adapter, options.seed, watches)
    return {
        "system": options.system,
        "adapter": options.adapter,
        "shape": shape._asdict(),
        "seed": options.seed,
        "clock": now.__name__,
        "machine": {
            "cpu": platform.processor(),
            "cpus": os.cpu_count(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        },
        "peak": max(peak, peak_rate(now)),
        "operations": operations.counted,
        "seconds": clock.seconds,
        "profile": {
            stage: {
                "seconds": profiled.seconds[stage],
                "calls": profiled.calls[stage],
                "groups": profiled.groups[stage],
            }
            for stage in STAGES
        },
    }


@reader_may_leave()
def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--system", choices=["ours", "trl"], default="ours")
    parser.add_argument("--adapter", choices=["lora", "alora"], default="lora", help="of our step; TRL's has lora")
    shapes = ", ".join(f"{i}: {name}" for i, name in enumerate(SHAPES))
    parser.add_argument(
        "--shape", type=int, choices=range(len(SHAPES)), help=f"a shape of benchmark_grpo.py ({shapes})"
    )
    parser.add_argument("--prompts", type=at_least_one, default=8, help="without --shape: how many prompts")
    parser.add_argument("--length", type=at_least_one, default=512, help="without --shape: tokens of each prompt")
    parser.add_argument("--group", type=at_least_one, default=4, help="without --shape: samples of a prompt")
    parser.add_argument("--new", type=at_least_one, default=64, help="without --shape: tokens of each sample")
    parser.add_argument("--steps", type=at_least_one, default=1, help="timed steps; the median counts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="bound and steps by the processor's time, for a machine that does other work too; with one thread",
    )
    options = parser.parse_args(arguments)
    if options.processor_time and torch.get_num_threads() > 1:
        parser.error("--processor-time adds up the time of all threads: set OMP_NUM_THREADS=1")
    if options.system == "trl" and options.adapter == "alora":
        parser.error("TRL's trainer has no activated LoRA: leave --adapter out")
    quiet_libraries()
    if options.shape is None:
        shape = Shape([options.length] * options.prompts, options.group, options.new)
    else:
        shape = list(SHAPES.values())[options.shape]
    with tempfile.TemporaryDirectory() as name:
        make_model(Path(name))
        result = measure(Path(name), shape, options)
    system = "TRL" if options.system == "trl" else options.adapter
    prompts = f"{counted(len(shape.prompts), 'prompt')} of {min(shape.prompts)} to {max(shape.prompts)} tokens"
    print(f"{system}: {prompts}, G {shape.group_size}, {shape.new_tokens} new tokens\n\n{tables(result)}")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.out, result)


if __name__ == "__main__":
    main()
