"""Compare a GRPO step of one policy, sampling and update, with TRL's GRPOTrainer at its best: seconds, peak memory, results.

    pip install trl==1.16.0
    python -m tools.speed.benchmark_grpo --out runs/benchmark_grpo.json
    python -m tools.speed.benchmark_grpo --out runs/benchmark_grpo.json --rlla rlla_sft.json   # and the lengths of real prompts

The model is a Qwen2 of 22 M parameters (6 layers, width 384, vocabulary 32,000) with random weights, in float32 on the
CPU, with LoRA of rank 16 on all linear layers. Every system and shape runs in a separate process with one thread, in turns,
`--repeats` times: one warm-up step, then `--steps` timed ones, in processor seconds, which other programs do not change much.
Tables give the median of the steps; memory is the peak of the process. `trl-8` is TRL in micro-batches of 8 sequences, `trl`
all in one pass. Ratios are to TRL's fastest setting, and to its setting that needs the least memory. `--allocator` makes
glibc keep freed memory, for all systems. `--check` compares loss and gradients on the same samples instead.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import statistics
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import cahl_pl  # noqa: F401 - before torch: it decides how torch's threads wait

# isort: split
import torch

from cahl_pl.commands.pipes import reader_may_leave
from cahl_pl.engines import TransformersEngine
from cahl_pl.engines.base import Sampling
from cahl_pl.grpo.advantages import advantages
from cahl_pl.grpo.config import GRPOConfig
from cahl_pl.grpo.loss import Size, grpo_loss
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.policy.logprobs import micro_batches, score
from cahl_pl.policy.policy import Policy
from cahl_pl.types import Group
from tools.worker import run_again

SYSTEMS = ("trl", "trl-8", "trl-4", "lora", "alora")
ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}
INVOCATION = [5, 6, 7]  # last tokens of each prompt, before which an activated adapter does not act
MICRO_BATCH = 2048  # tokens, or one prompt with its samples; larger ones take more memory, not less time


class Shape(NamedTuple):
    """Lengths of the prompts, samples of each, and tokens of each sample."""

    prompts: list[int]
    group_size: int
    new_tokens: int


SHAPES = {
    "8 x 512, G 4, 64 new": Shape([512] * 8, 4, 64),
    "4 x 2048, G 4, 64 new": Shape([2048] * 4, 4, 64),  # four, since TRL takes minutes per step
    "8 x 512, G 8, 64 new": Shape([512] * 8, 8, 64),
}


def rlla_shape(path: Path) -> Shape:
    """Return the lengths of eight real prompts, evenly spaced over the sorted file, at four characters a token."""
    rows = json.loads(path.read_text(encoding="utf-8"))
    lengths = sorted((len(row["instruction"]) + len(row["input"])) // 4 for row in rows)
    return Shape([lengths[(2 * i + 1) * len(lengths) // 16] for i in range(8)], 4, 64)


def qwen2_config(vocabulary: int, end: int, padding: int, **sizes: int) -> Any:
    """Return a config of six layers of width 384; 22 M weights with a vocabulary of 32,000. `sizes` are keys of Qwen2Config."""
    from transformers import Qwen2Config

    own = {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 6}
    values: dict[str, Any] = {**own, "num_attention_heads": 6, "num_key_value_heads": 6, **sizes}
    return Qwen2Config(
        vocab_size=vocabulary,
        **values,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=padding,
    )


def make_model(folder: Path, **sizes: int) -> None:
    """Make random weights, of other `sizes` if given, and a tokenizer whose words are its ids."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

    torch.manual_seed(0)
    Qwen2ForCausalLM(qwen2_config(32_000, end=1, padding=0, **sizes)).save_pretrained(folder)
    # a special token is found inside words too, so none may be the beginning of another one
    words = {"<pad>": 0, "<end>": 1} | {f"w{i}": i for i in range(2, 32_000)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w2"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>")
    fast.save_pretrained(folder)


def prompts_of(shape: Shape) -> list[list[int]]:
    """Return random ids that end with the invocation."""
    rng = random.Random(0)
    return [[rng.randrange(10, 32_000) for _ in range(n - 3)] + INVOCATION for n in shape.prompts]


def reward(ids: list[int]) -> float:
    """Return a reward that differs within a group: an arbitrary function of the tokens."""
    return sum(i % 7 for i in ids) / (7 * len(ids))


class Steps:
    """GRPO steps of one adapter, one after another."""

    def __init__(self, folder: Path, shape: Shape, adapter: str, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.policy, self.shape = make_policy(folder, adapter), shape
        self._optimizer = torch.optim.AdamW(self.policy.parameters_of("planner"), lr=1e-5)
        self._engine, self._generator = TransformersEngine(), torch.Generator().manual_seed(seed)

    def sample(self) -> list[Group]:
        """Return samples of every prompt, with rewards and advantages."""
        prompts, sampling = prompts_of(self.shape), Sampling(max_new_tokens=self.shape.new_tokens)
        self.policy.prefixes.forget()
        samples = self._engine.generate(
            self.policy, "planner", prompts, self.shape.group_size, sampling, self._generator
        )
        groups = []
        for i, (prompt, completions) in enumerate(zip(prompts, samples, strict=True)):
            ids = [c.ids for c in completions]
            rewards = torch.tensor([reward(c.tolist()) for c in ids])
            zeros = torch.zeros(len(ids)).bool()
            groups.append(Group(torch.tensor(prompt), ids, rewards, {}, advantages([rewards])[0], zeros, i))
        return groups

    def update(self, groups: list[Group]) -> None:
        """Take one optimiser step on them."""
        if self.policy.config.adapter == "lora":
            self.policy.prefixes.forget()
        # a prompt whose samples do not fit into one micro-batch would be computed once for each of them
        longest = max(self.shape.prompts) + self.shape.group_size * self.shape.new_tokens
        backward(self.policy, groups, 0.0, max(MICRO_BATCH, longest))
        torch.nn.utils.clip_grad_norm_(self.policy.parameters_of("planner"), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.policy.version["planner"] += 1


def run_ours(folder: Path, shape: Shape, adapter: str, steps: int) -> list[float]:
    """Return the seconds of each step, the first being the warm-up."""
    taken, seconds = Steps(folder, shape, adapter), []
    for _ in range(steps + 1):
        start = time.process_time()
        taken.update(taken.sample())
        seconds.append(time.process_time() - start)
    return seconds


def make_policy(folder: Path, adapter: str) -> Policy:
    """Return the model with fresh adapters, the planner's active."""
    policy = Policy(PolicyConfig(model=str(folder), adapter=adapter))  # type: ignore[arg-type]
    policy.load()
    policy.invocation = {"planner": INVOCATION, "executor": INVOCATION}
    policy.activate("planner")
    return policy


def backward(policy: Policy, groups: list[Group], kl: float, max_tokens: int = MICRO_BATCH) -> float:
    """Return the loss of the groups, and leave its gradients in the adapter."""
    count, tokens = sum(len(g.completion_ids) for g in groups), sum(len(c) for g in groups for c in g.completion_ids)
    total = 0.0
    for part in micro_batches(policy, groups, max_tokens):
        reference = None
        if kl > 0:
            with torch.no_grad(), policy.without_adapters():
                reference = score(policy, part).logprobs
        scores = score(policy, part)
        config = GRPOConfig(kl=kl)
        loss, _ = grpo_loss(scores.logprobs, None, reference, part.advantages, scores.mask, config, Size(count, tokens))
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    return total


def trl_trainer(folder: Path, shape: Shape, steps: int, beta: float = 0.0, micro_batch: int | None = None) -> Any:
    """Return TRL's trainer on the same model, prompts and settings; `micro_batch` in sequences, None for all of a step."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
    from trl import GRPOConfig as TRLConfig
    from trl import GRPOTrainer

    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    texts = [" ".join(f"w{i}" for i in prompt) for prompt in prompts_of(shape)]
    if tokenizer(texts).input_ids != prompts_of(shape):
        raise SystemExit("the tokenizer does not give TRL the prompts that the other systems read")
    sequences = len(texts) * shape.group_size
    micro_batch = micro_batch or sequences
    config = TRLConfig(
        output_dir=tempfile.mkdtemp(),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=sequences // micro_batch,  # all of them are sampled together
        num_generations=shape.group_size,
        max_completion_length=shape.new_tokens,
        max_steps=steps,
        num_train_epochs=steps,
        beta=beta,
        loss_type="grpo",
        learning_rate=1e-5,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        logging_steps=1000,
    )
    return GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        args=config,
        reward_funcs=lambda completion_ids, **_: [reward(ids) for ids in completion_ids],
        train_dataset=Dataset.from_dict({"prompt": texts}),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )


def run_trl(folder: Path, shape: Shape, steps: int, micro_batch: int | None) -> list[float]:
    """Return the seconds of each step, the first being the warm-up."""
    from transformers import TrainerCallback

    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            times.append(-time.process_time())

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            times[-1] += time.process_time()

    trainer = trl_trainer(folder, shape, steps + 1, micro_batch=micro_batch)
    trainer.add_callback(Clock())
    trainer.train()
    return times


def check(folder: Path, beta: float) -> dict[str, float]:
    """Return the absolute difference of the loss and the relative one of the gradients from TRL's, on samples drawn by TRL."""
    shape = Shape([40, 25, 33, 60], 4, 12)
    trainer = trl_trainer(folder, shape, 1, beta)
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.02)
    seen: dict[str, Any] = {}
    compute = trainer._compute_loss

    def record(model: Any, inputs: Any) -> Any:
        seen["inputs"], seen["loss"] = inputs, compute(model, inputs)
        return seen["loss"]

    trainer._compute_loss = record
    weights = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if "lora_" in n}
    step = trainer.optimizer
    trainer.create_optimizer_and_scheduler(1) if step is None else None
    gradients: dict[str, torch.Tensor] = {}
    backward_of = trainer.accelerator.backward

    def keep(loss: Any, **kwargs: Any) -> None:
        backward_of(loss, **kwargs)
        gradients.update({n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None})

    trainer.accelerator.backward = keep
    trainer.train()
    policy = make_policy(folder, "lora")
    with torch.no_grad():
        for name, parameter in policy.lm.named_parameters():
            if ".planner." in name:
                parameter.copy_(weights[name.replace(".planner.", ".default.")])
    inputs = seen["inputs"]
    rows = [
        (prompt[mask.bool()], ids[keep_.bool()], advantage)
        for prompt, mask, ids, keep_, advantage in zip(
            inputs["prompt_ids"],
            inputs["prompt_mask"],
            inputs["completion_ids"],
            inputs["completion_mask"],
            inputs["advantages"],
            strict=True,
        )
    ]
    zeros = torch.zeros(1)
    groups = [Group(p, [c], zeros, {}, a[None], zeros.bool(), i) for i, (p, c, a) in enumerate(rows)]
    loss = backward(policy, groups, beta)
    ours = {n: p.grad for n, p in policy.lm.named_parameters() if ".planner." in n}
    theirs = {n.replace(".default.", ".planner."): g for n, g in gradients.items()}
    difference = torch.sqrt(sum(((ours[n] - theirs[n]) ** 2).sum() for n in ours))
    size = torch.sqrt(sum((theirs[n] ** 2).sum() for n in ours))  # type: ignore[arg-type]
    their_loss = seen["loss"].item()
    return {
        "beta": beta,
        "loss": loss,
        "loss_trl": their_loss,
        "loss_difference": abs(loss - their_loss),
        "gradient_relative_difference": (difference / size).item(),
    }


def worker(system: str, folder: Path, shape: Shape, steps: int) -> None:
    """Run one system in this process; print the measurements as the last line."""
    if system.startswith("trl"):
        size = system.removeprefix("trl").removeprefix("-")
        seconds = run_trl(folder, shape, steps, int(size) if size else None)
    else:
        seconds = run_ours(folder, shape, system, steps)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"seconds": seconds[1:], "peak_gib": peak}))


def measure(system: str, folder: Path, shape: Shape, steps: int, allocator: bool) -> dict[str, Any]:
    """Run a system in a separate process."""
    arguments = ["--worker", system, str(folder), json.dumps(shape), "--steps", str(steps)]
    changes = {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1", **(ALLOCATOR if allocator else {})}
    return run_again(__file__, arguments, system, changes)[-1]


def table(results: dict[str, dict[str, list[dict[str, Any]]]]) -> str:
    """Return Markdown: medians over repeats and steps, and their ratios to TRL's best."""
    lines = [
        "| shape | system | processor s a step, median [range] | peak GiB | time: best TRL / this | memory: this / least TRL |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for shape, systems in results.items():
        median = {s: statistics.median(t for run in runs for t in run["seconds"]) for s, runs in systems.items()}
        peak = {s: statistics.median(run["peak_gib"] for run in runs) for s, runs in systems.items()}
        theirs = [system for system in systems if system.startswith("trl")]
        for system, runs in systems.items():
            times = [t for run in runs for t in run["seconds"]]
            faster, smaller = "", ""
            if theirs:
                faster = f"{min(median[s] for s in theirs) / median[system]:.1f}"
                smaller = f"{peak[system] / min(peak[s] for s in theirs):.2f}"
            lines.append(
                f"| {shape} | {system} | {median[system]:.1f} [{min(times):.1f}, {max(times):.1f}] | {peak[system]:.2f} | "
                f"{faster} | {smaller} |"
            )
    return "\n".join(lines)


@reader_may_leave()
def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--shapes", nargs="+", type=int, help="numbers of the shapes to run, from 0; all by default")
    parser.add_argument("--rlla", type=Path, help="rlla rows in JSON, for a shape with the lengths of real prompts")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--allocator", action="store_true", help="glibc keeps the memory that it is given back")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--worker", nargs=3, metavar=("SYSTEM", "FOLDER", "SHAPE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        system, folder, shape = args.worker
        worker(system, Path(folder), Shape(*json.loads(shape)), args.steps)
        return
    if (args.check or any(system.startswith("trl") for system in args.systems)) and find_spec("trl") is None:
        parser.error(
            "trl is not installed: pip install trl==1.16.0, or name the other systems with --systems lora alora"
        )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(folder)
        if args.check:
            print(json.dumps([check(folder, beta) for beta in (0.0, 0.04)], indent=2))
            return
        shapes = SHAPES | ({"8 rlla prompts, G 4, 64 new": rlla_shape(args.rlla)} if args.rlla else {})
        chosen = [name for i, name in enumerate(shapes) if args.shapes is None or i in args.shapes]
        results: dict[str, dict[str, list[dict[str, Any]]]] = {}
        for _ in range(args.repeats):
            for shape_name in chosen:
                for system in args.systems:
                    run = measure(system, folder, shapes[shape_name], args.steps, args.allocator)
                    results.setdefault(shape_name, {}).setdefault(system, []).append(run)
                    print(f"{shape_name}, {system}: {run}", file=sys.stderr, flush=True)
    print(table(results))
    if args.out:
        machine = {"cpu": platform.processor(), "cpus": os.cpu_count(), "torch": torch.__version__}
        machine["allocator"] = args.allocator
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({"machine": machine, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
