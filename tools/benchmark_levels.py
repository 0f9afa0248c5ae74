"""What the second level costs: planner and executor beside one policy that works alone, in training and in inference.

    python tools/benchmark_levels.py training --repeats 3 --out runs/levels_training.json
    python tools/benchmark_levels.py inference --repeats 3 --out runs/levels_inference.json

Every system runs in a process of its own, in turns, `--repeats` times, on Linux. Tables give medians over the repeats
[least, most], and the ratio of medians to the single-level system. Repeats differ in time alone: all is drawn by `--seed`.

**Training**: configs/quickstart.yaml (CAHL) and the same with configs/ablations/single_level.yaml over it (the executor's
adapter alone), on the same ToolWorld tasks, `--rounds` rounds after one to warm up. Alike for both are the size of all
groups, the limits of new tokens, the completions decoded at once and the tokens of a micro-batch; both fill these, so
that a system which samples more (CAHL samples outputs for each step of each plan) takes more time in a round, but not
more memory by that alone. Peak is the most resident memory that the process held (VmHWM), with the interpreter and all
libraries in it; beside it stands what the process held before the first round. Time is that of rounds, sampling and
updates, by sampled token. glibc's allocator gives large blocks back at once (`check_memory_plan.RELEASE`) in both, which
costs both some time. Adapters, gradients and moments are counted in bytes of their tensors. Single-level training
carries the planner's adapter too and never uses it: its bytes are taken off its peak before the ratio is formed.
The model has to be able to write plans: one that cannot gives the executor nothing to do.

**Inference**: ToolWorld tasks with two to four gold calls, carried out by the code that evaluation runs, but with the
tokens of the gold outputs in place of the likeliest ones, each drawn after its own forward pass: seconds compare two
organisations that give the same calls, not how good two models are. Adapters are fresh, which changes no product's size.

- Planner and executor: the gold plan (a line with instruction, tool and parameters for each call); then an output for
  each sub-task, whose prompt is that of the last step, its output, the answer to it, and the next sub-task. The episode
  ends with the last sub-task's output: what that call is answered is read by nobody.
- Single-level: calls that wait for no other's result are written together in one turn; then their answers are read, and
  a further turn follows, until an answer in text ("Done.") ends the episode.

So the calls are equal, while a plan is one more text to write, and the answer in text one less. No policy thinks
before it writes; one that does would write more tokens on either side. `generated` are sampled tokens; `computed` those
that went through the model: of the prompts what was neither kept from an earlier one nor shared with another one beside
it, and the sampled ones but for the last of each output, which nothing follows; `passes` are calls of the model, which
is what one task at a time waits for. Tokens without an effect (padding) are not counted.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from check_memory_plan import RELEASE
from fit_runs import at_least_one
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from cahl_pl import forward
from cahl_pl.engines import TransformersEngine
from cahl_pl.engines import transformers as engine_code
from cahl_pl.engines.base import Completion, Sampling
from cahl_pl.environments import RecordedEnvironment
from cahl_pl.files import write_json
from cahl_pl.forward import Pass, PrefixStore
from cahl_pl.packing import Row
from cahl_pl.policy import Policy, PolicyConfig, load_tokenizer
from cahl_pl.prompts import PromptBuilder
from cahl_pl.quiet import quiet_libraries
from cahl_pl.rewards import ExecutorReward, PlannerReward, TurnReward
from cahl_pl.rollout import Rollout, RolloutConfig
from cahl_pl.single_level import SingleLevelRollout
from cahl_pl.supervised import Example, executor_examples, planner_example, single_examples
from cahl_pl.toolworld import ToolWorld
from cahl_pl.toolworld.prompts import PROMPTS
from cahl_pl.turns import gold_turns
from cahl_pl.types import ROLES, Role, Task

TWO, ONE = "planner + executor", "single-level"
SYSTEMS = (TWO, ONE)
ADAPTERS = ("lora", "alora")
MIB = 2**20
TARGETS = {"training": 1.05, "inference": 1.25}
_CONFIGS = Path(__file__).resolve().parents[1] / "configs"


# --- training ------------------------------------------------------------------------------------------------------------


class Meter(Callback):
    """Looks at a training run after each optimiser step.

    Attributes:
        loaded: resident bytes before the first round.
        ends: when each step was done.
        tokens: sampled in the step's round.
        held: bytes of the tensors that learning adds, the most of any step.
    """

    def __init__(self) -> None:
        self.loaded = 0
        self.ends: list[float] = []
        self.tokens: list[float] = []
        self.held: dict[str, int] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Base and adapters are loaded; nothing has been sampled."""
        self.loaded = resident("VmRSS")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Read clock and sizes."""
        self.ends.append(time.perf_counter())
        self.tokens.append(batch.metrics["rollout/tokens"])
        policy: Any = pl_module.policy
        for name, size in held_bytes(policy, trainer.optimizers).items():
            self.held[name] = max(size, self.held.get(name, 0))


def held_bytes(policy: Policy, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, int]:
    """Bytes of each adapter, of all gradients, and of the optimisers' moments (with their counts of steps)."""
    sizes = {f"{role} adapter": sum(p.nbytes for p in policy.parameters_of(role)) for role in ROLES}
    gradients = [p.grad for role in ROLES for p in policy.parameters_of(role) if p.grad is not None]
    states = [value for optimizer in optimizers for state in optimizer.state.values() for value in state.values()]
    moments = sum(value.nbytes for value in states if isinstance(value, Tensor))
    return {**sizes, "gradients": sum(g.nbytes for g in gradients), "moments": moments}


def resident(name: str) -> int:
    """Bytes that /proc/self/status gives: VmRSS now, VmHWM the most of this program so far."""
    # not ru_maxrss: a process begins with that of the one that has started it
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:")]
    return 1024 * int(line.split()[1])


def train(system: str, model: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run one system in this process: seconds and tokens of each round but the first, and memory in bytes."""
    from cahl_pl.cli import main as build

    configs = [_CONFIGS / "quickstart.yaml"]
    if system == ONE:
        configs.append(_CONFIGS / "ablations" / "single_level.yaml")
    steps = 1 if system == ONE else 2  # of a round
    values: dict[str, Any] = {
        "seed_everything": options.seed,
        "trainer.max_steps": steps * (options.rounds + 1),
        "trainer.logger": "false",
        "trainer.callbacks": "null",
        "trainer.enable_checkpointing": "false",
        "model.policy.model": model,
        "model.max_tokens_per_micro_batch": options.micro_batch,
        "data.seed": options.seed,
        "data.test": "null",
        "data.engine": "cahl_pl.engines.TransformersEngine",
        "data.engine.init_args.batch_size": options.batch_size,
        "data.tasks_per_round": options.tasks,
        "data.rollout.planner_group_size": options.group_size,
        "data.rollout.executor_group_size": options.group_size,
        "data.rollout.max_steps": 5,
        "data.rollout.planner.max_new_tokens": options.new_tokens,
        "data.rollout.executor.max_new_tokens": options.new_tokens,
    }
    arguments = [word for config in configs for word in ("-c", str(config))]
    meter = Meter()
    # Lightning looks at argv, and writes the configuration into the folder
    with tempfile.TemporaryDirectory() as folder, patch.object(sys, "argv", sys.argv[:1]):
        values["trainer.default_root_dir"] = folder
        cli = build([*arguments, *(f"--{key}={value}" for key, value in values.items())], run=False)
        cli.trainer.callbacks.append(meter)  # type: ignore[attr-defined]
        cli.trainer.fit(cli.model, cli.datamodule)
    ends = meter.ends[steps - 1 :: steps]
    return {
        "seconds": [end - start for start, end in itertools.pairwise(ends)],
        "tokens": meter.tokens[steps - 1 :: steps][1:],
        "peak": resident("VmHWM"),
        "loaded": meter.loaded,
        "held": meter.held,
    }


def training_table(results: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: a row a system.

    Args:
        results: system -> what `train` gave, one a repeat.
    """
    idle = results[ONE][0]["held"]["planner adapter"]
    peak = {s: [run["peak"] - (idle if s == ONE else 0) for run in runs] for s, runs in results.items()}
    grown = {s: [run["peak"] - run["loaded"] for run in runs] for s, runs in results.items()}
    cost = {s: [1000 * sum(r["seconds"]) / sum(r["tokens"]) for r in runs] for s, runs in results.items()}
    lines = [
        "| system | peak, MiB | ratio | before the first round, MiB | peak less that, MiB | ratio | sampled tokens | "
        "ms a sampled token | ratio | adapters, KiB | gradients, KiB | moments, KiB |",
        "| --- |" + " ---: |" * 11,
    ]
    for system, runs in results.items():
        held = runs[0]["held"]
        used = sum(held[f"{role} adapter"] for role in ROLES) - (idle if system == ONE else 0)
        cells = [
            _spread([p / MIB for p in peak[system]]),
            _ratio(peak, system),
            f"{statistics.median(run['loaded'] for run in runs) / MIB:.1f}",
            _spread([g / MIB for g in grown[system]]),
            _ratio(grown, system),
            f"{sum(runs[0]['tokens']):,.0f}",
            _spread(cost[system], 3),
            _ratio(cost, system),
            *(f"{size / 1024:,.0f}" for size in (used, held["gradients"], held["moments"])),
        ]
        lines.append(f"| {system} | " + " | ".join(cells) + " |")
    verdict = _verdict("training", {"peak memory": statistics.median(peak[TWO]) / statistics.median(peak[ONE])})
    note = f"The planner's adapter that single-level training carries unused, {idle / 1024:,.0f} KiB, is taken off."
    return "\n".join([*lines, "", note, verdict])


# --- inference -----------------------------------------------------------------------------------------------------------


@dataclass
class CountingStore(PrefixStore):
    """A store that counts the tokens it spares."""

    spared: int = 0

    def find(self, maker: str, ids: Any) -> tuple[int, list[tuple[Tensor, Tensor]]]:
        """See `PrefixStore.find`."""
        length, layers = super().find(maker, ids)
        self.spared += length
        return length, layers


class ScriptError(RuntimeError):
    """An episode is not the gold one, so that its seconds would mean something else."""


class ScriptedEngine(TransformersEngine):
    """Samples as usual, and then takes the token that a script has at this place.

    Args:
        script: prompt -> completion, token ids.

    Attributes:
        tokens: `<role> read`, `<role> generated` and `<role> outputs`: counts so far; what a store of prefixes has
            spared is still in `read`.
    """

    def __init__(self, script: dict[tuple[int, ...], list[int]]) -> None:
        super().__init__()
        self.script = script
        self.tokens: Counter[str] = Counter()

    def generate(
        self,
        policy: Policy,
        role: Role,
        prompts: Sequence[Sequence[int]],
        num_samples: int,
        sampling: Sampling,
        generator: torch.Generator,
    ) -> list[list[Completion]]:
        """See `Engine.generate`; one sample a prompt.

        Raises:
            ScriptError: the script does not have one of the prompts.
        """
        if num_samples != 1 or any(tuple(prompt) not in self.script for prompt in prompts):
            raise ScriptError("an episode has left the gold trajectory")
        with _scripted([self.script[tuple(prompt)] for prompt in prompts], role, self.tokens):
            completions = super().generate(policy, role, prompts, num_samples, sampling, generator)
        self.tokens[f"{role} outputs"] += len(prompts)
        self.tokens[f"{role} generated"] += sum(len(c.ids) for group in completions for c in group)
        return completions

    def generate_from_drafts(
        self,
        policy: Policy,
        role: Role,
        prompts: Sequence[Sequence[int]],
        drafts: Sequence[Sequence[int]],
        sampling: Sampling,
        generator: torch.Generator,
    ) -> list[list[Completion]]:
        """Token by token: what a draft spares is not measured here."""
        return self.generate(policy, role, prompts, 1, sampling, generator)


@dataclass
class _Place:
    """Where a chunk of prompts stands: their texts, those of the rows that are left, and the number of the next token."""

    chunk: list[list[int]] = field(default_factory=list)
    left: list[list[int]] = field(default_factory=list)
    step: int = 0


@contextmanager
def _scripted(texts: Sequence[list[int]], role: str, tokens: Counter[str]) -> Iterator[None]:
    """While this is open, the engine's tokens are those of `texts`, one a prompt."""
    place = _Place()
    draw, keep = engine_code._draw, engine_code._keep

    def read(policy: Policy, rows: Sequence[Row], *args: Any, **kwargs: Any) -> Pass:
        if place.step:  # the chunk before has been decoded; one chunk may be read in several parts
            place.chunk, place.step = [], 0
        place.chunk += [texts[member] for row in rows for member in row.members]
        place.left = place.chunk
        tokens[f"{role} read"] += sum(len(row.ids) for row in rows)
        return forward.run(policy, rows, *args, **kwargs)

    def take(logits: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        _, logprobs = draw(logits, *rest)  # what drawing costs is part of it
        token = torch.tensor([text[place.step] for text in place.left], device=logits.device)
        place.step += 1
        return token, logprobs

    def leave(slot: Tensor) -> Tensor:
        kept = keep(slot)
        place.left = [place.chunk[i] for i in slot[kept][:, 0].tolist()]
        return kept

    with patch.multiple(engine_code, run=read, _draw=take, _keep=leave):
        yield


def tasks_of(count: int, seed: int) -> list[Task]:
    """The first tasks of ToolWorld's test split with two to four gold calls."""
    world = ToolWorld("test", size=100 * count, seed=seed)
    return list(
        itertools.islice((t for t in map(world.__getitem__, range(len(world))) if 2 <= len(t.gold) <= 4), count)
    )


def examples_of(builder: PromptBuilder, task: Task, system: str) -> list[Example]:
    """The prompts of a gold episode and what follows them."""
    if system == ONE:
        return single_examples(builder, task)
    return [planner_example(builder, task), *executor_examples(builder, task)]


def infer(system: str, adapter: str, at_once: int, model: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run one system in this process: seconds of all episodes, and counts.

    Raises:
        ScriptError: an episode made other calls than the gold ones.
    """
    policy = Policy(PolicyConfig(model=model, adapter=adapter))  # type: ignore[arg-type]
    policy.load()
    store = policy.prefixes = CountingStore(policy.config.prefix_cache_tokens)
    builder = PromptBuilder(policy.tokenizer, PROMPTS)
    policy.invocation = {role: builder.invocation(role, system == ONE) for role in ROLES}
    tasks = tasks_of(options.tasks, options.seed)
    script = {tuple(e.prompt): e.completion for task in tasks for e in examples_of(builder, task, system)}
    every = [e for task in tasks for of in SYSTEMS for e in examples_of(builder, task, of)]
    limit = max(len(e.completion) for e in every)  # alike for both: the cache has room for it
    engine, greedy = ScriptedEngine(script), Sampling(temperature=0.0, max_new_tokens=limit)
    config = RolloutConfig(planner_group_size=1, executor_group_size=1, planner=greedy, executor=greedy)
    if system == ONE:
        rollout: Any = SingleLevelRollout(engine, RecordedEnvironment(), TurnReward(), config)
    else:
        rollout = Rollout(engine, RecordedEnvironment(), PlannerReward(), ExecutorReward(), config)
    generator = torch.Generator().manual_seed(options.seed)
    passes = 0

    def count(*_: Any) -> None:
        nonlocal passes
        passes += 1

    policy.causal_lm.base_model.register_forward_pre_hook(count)
    rollout.run(policy, builder, tasks[:1], generator)  # to warm up
    policy.prefixes.forget()
    engine.tokens.clear()
    store.spared = passes = 0
    seconds, episodes = 0.0, []
    for i in range(0, len(tasks), at_once):
        start = time.perf_counter()
        episodes += rollout.run(policy, builder, tasks[i : i + at_once], generator).trajectories
        policy.prefixes.forget()  # as after each batch of an evaluation
        seconds += time.perf_counter() - start
    for task, episode in zip(tasks, episodes, strict=True):
        turns = gold_turns(task) if system == ONE else [task.gold]
        if list(episode.calls) != [gold.call for turn in turns for gold in turn]:
            raise ScriptError(f"the episode of task {task.id!r} made other calls than the gold ones")
    tokens = engine.tokens
    read, generated, outputs = (
        sum(tokens[f"{role} {what}"] for role in ROLES) for what in ("read", "generated", "outputs")
    )
    return {
        "seconds": seconds,
        "generated": generated,
        "computed": read - store.spared + generated - outputs,
        "spared": store.spared,
        "passes": passes,
        "by_role": dict(tokens),
    }


def inference_table(results: dict[str, dict[str, list[dict[str, Any]]]]) -> str:
    """Markdown: a row a system and setting.

    Args:
        results: setting (`alora, 16`: the adapter, tasks at once) -> system -> what `infer` gave, one a repeat.
    """
    counts = ("generated", "computed", "passes")
    lines = [
        "| adapter, tasks at once | system | generated | ratio | computed | ratio | passes | ratio | seconds | ratio |",
        "| --- | --- |" + " ---: |" * 8,
    ]
    found = {}
    for setting, systems in results.items():
        values = {what: {s: [run[what] for run in runs] for s, runs in systems.items()} for what in counts}
        seconds = {s: [run["seconds"] for run in runs] for s, runs in systems.items()}
        for system in systems:
            cells = [f"{values[what][system][0]:,} | {_ratio(values[what], system)}" for what in counts]
            cells.append(f"{_spread(seconds[system], 2)} | {_ratio(seconds, system)}")
            lines.append(f"| {setting} | {system} | " + " | ".join(cells) + " |")
        if setting.startswith("alora"):
            found[setting] = statistics.median(seconds[TWO]) / statistics.median(seconds[ONE])
    return "\n".join([*lines, "", _verdict("inference", found)])


# --- both ----------------------------------------------------------------------------------------------------------------


def make_model(folder: Path) -> None:
    """A Qwen2 of 11 M random weights (6 layers, width 384) with the tokenizer of the shipped model."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = load_tokenizer(PolicyConfig())
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _spread(values: Sequence[float], digits: int = 1) -> str:
    return f"{statistics.median(values):.{digits}f} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


def _ratio(values: dict[str, list[Any]], system: str) -> str:
    return "" if system == ONE else f"{statistics.median(values[system]) / statistics.median(values[ONE]):.2f}"


def _verdict(part: str, ratios: dict[str, float]) -> str:
    target = TARGETS[part]
    told = (f"{name}: {ratio:.3f}, {'met' if ratio <= target else 'not met'}" for name, ratio in ratios.items())
    return f"Target, at most {target} x single-level: {'; '.join(told) or 'not measured'}."


def measure(job: list[Any], model: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run one job in a process of its own.

    Raises:
        SystemExit: it failed.
    """
    words = [options.part, *options.passed, "--worker", json.dumps([*job, model])]
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads), "TOKENIZERS_PARALLELISM": "false"}
    if options.part == "training":
        environment |= RELEASE
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        sys.exit(f"error: {', '.join(map(str, job))} failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def jobs_of(options: argparse.Namespace) -> list[list[Any]]:
    """What is run: in training a system; in inference a system, its adapter, and how many tasks at once."""
    if options.part == "training":
        return [[system] for system in SYSTEMS]
    settings = itertools.product(options.adapters, dict.fromkeys((1, options.tasks)))
    return [[system, adapter, at_once] for adapter, at_once in settings for system in SYSTEMS]


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The command line."""
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
    inference.add_argument("--adapters", nargs="+", choices=ADAPTERS, default=list(ADAPTERS))
    options = parser.parse_args(words)
    options.passed = list(words[1:])
    return options


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
