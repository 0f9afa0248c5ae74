"""Compare the memory planner with measured peaks, on the CPU (Linux).

    python -m tools.memory.check_memory_plan [--only NAME ...]

For each of a few small random models, sampling and one update run in a separate process, and the peak of its resident
memory, minus that just before (the model loaded, and everything run once on a few tokens), is printed beside the
transient memory that `cahl_pl.memory_plan` counts. glibc's allocator is told to return large blocks at once, as it would
otherwise keep freed memory. The planner's assumptions, the CUDA context and fragmentation, are not checked here.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cahl_pl  # noqa: F401 - before torch: it decides how torch's threads wait

# isort: split
import torch

from cahl_pl.commands.pipes import reader_may_leave
from cahl_pl.engines import TransformersEngine
from cahl_pl.engines.base import Sampling
from cahl_pl.grpo.selection import everything
from cahl_pl.memory_plan import Settings, sampling_moments, settings_of, shape_of, update_moments
from cahl_pl.module import CAHLModule
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.policy.logprobs import micro_batches
from cahl_pl.policy.policy import Policy
from cahl_pl.rollout.config import RolloutConfig
from cahl_pl.startup.library_warnings import quiet_libraries
from cahl_pl.types import Group, Role, RolloutBatch
from tools.memory.process_memory import RELEASE, forget_peak, resident
from tools.worker import run_again

MIB = 2**20


@dataclass(frozen=True)
class Case:
    """Model and its workload; lengths in tokens, `groups` prompts sampled and the first `trained` trained on."""

    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    prompt: int
    completion: int
    group_size: int
    groups: int
    trained: int
    micro_batch: int
    checkpointing: bool
    quantization: str
    dtype: str = "float32"


CASES = (
    Case("plain", 512, 1536, 4, 8, 2, 4096, 256, 32, 4, 16, 4, 2048, False, "none"),
    Case("recomputed", 512, 1536, 6, 8, 4, 16000, 256, 32, 8, 16, 4, 2048, True, "none"),
    Case("long rows", 256, 768, 4, 4, 2, 2048, 1200, 32, 4, 3, 1, 2048, False, "none"),
    Case("nf4", 1024, 4096, 2, 8, 2, 4096, 192, 32, 4, 8, 4, 2048, False, "nf4"),
    Case("nf4, bfloat16", 512, 2048, 4, 8, 2, 4096, 256, 16, 4, 8, 3, 2048, False, "nf4", "bfloat16"),
)


def write_model(case: Case, folder: Path) -> None:
    """Write a random Qwen2 of the case's shape, with a tokenizer that knows only its special tokens."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

    torch.manual_seed(0)
    Qwen2ForCausalLM(qwen2_config(case)).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<end>": 1}, unk_token="<pad>"))
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<end>").save_pretrained(folder)


def qwen2_config(case: Case) -> Any:
    """Return the model's configuration; the end of a turn is a single, improbable token, so completions grow long."""
    from transformers import Qwen2Config

    return Qwen2Config(
        vocab_size=case.vocabulary,
        hidden_size=case.hidden,
        intermediate_size=case.intermediate,
        num_hidden_layers=case.layers,
        num_attention_heads=case.heads,
        num_key_value_heads=case.kv_heads,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )


def prompts_of(vocabulary: int, length: int, count: int) -> list[list[int]]:
    """Return random prompts that have no prefix in common."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(2, vocabulary, (length,), generator=generator).tolist() for _ in range(count)]


def sample(policy: Policy, role: Role, prompts: list[list[int]], group_size: int, limit: int) -> list[Group]:
    """Call the engine once; return groups with random rewards."""
    generator = torch.Generator().manual_seed(0)
    sampling = Sampling(max_new_tokens=limit)
    sampled = TransformersEngine().generate(policy, role, prompts, group_size, sampling, generator)
    policy.prefixes.forget()
    return [
        Group(
            prompt_ids=torch.tensor(prompt),
            completion_ids=[c.ids for c in completions],
            logprobs=[c.logprobs for c in completions],
            rewards=torch.rand(group_size, generator=generator),
            components={},
            advantages=torch.randn(group_size, generator=generator),
            truncated=torch.zeros(group_size),
            comparison_id=i,
        )
        for i, (prompt, completions) in enumerate(zip(prompts, sampled, strict=True))
    ]


def update(module: CAHLModule, role: Role, groups: list[Group], optimizer: torch.optim.Optimizer) -> None:
    """Do what `CAHLModule.training_step` does with a batch, without a trainer."""
    batch = RolloutBatch(role, groups, version=0, update=0)
    module.policy.lm.zero_grad(set_to_none=True)
    module.updates.accumulate(everything(groups), batch, lambda loss: loss.backward())  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(module.policy.parameters_of(role), 1.0)
    optimizer.step()


def peak_of(work: Callable[[], Any]) -> tuple[int, Any]:
    """Return the maximum growth of resident memory in bytes while `work` runs, and its result."""
    forget_peak()
    before = resident("VmRSS")
    result = work()
    return resident("VmHWM") - before, result


def measure(case: Case, folder: Path) -> None:
    """Run one case in this process and print its figures, one JSON object per stage."""
    torch.set_num_threads(1)
    policy = PolicyConfig(
        model=str(folder),
        quantization=case.quantization,  # type: ignore[arg-type]
        dtype=case.dtype,  # type: ignore[arg-type]
        gradient_checkpointing=case.checkpointing,
    )
    module = CAHLModule(policy, max_tokens_per_micro_batch=case.micro_batch)
    module.policy.load()
    optimizer = torch.optim.AdamW(module.policy.parameters_of("planner"), lr=1e-4)
    small = sample(module.policy, "planner", prompts_of(case.vocabulary, 8, 2), 2, 3)
    update(module, "planner", small, optimizer)

    shape, settings = shape_of(policy), _settings(case, policy)
    prompts = prompts_of(case.vocabulary, case.prompt, case.groups)
    peak, groups = peak_of(lambda: sample(module.policy, "planner", prompts, case.group_size, case.completion))
    _print(case.name, "sample", max(sum(m.values()) for m in sampling_moments(shape, settings, "planner")), peak)

    groups = groups[: case.trained]
    predicted = 0
    module.policy.activate("planner")
    for part in micro_batches(module.policy, groups, case.micro_batch):
        row = max(len(r.ids) for r in part.rows)
        ends = sum(len(s.ids) for s in part.samples)
        moments = update_moments(shape, settings, row * len(part.rows), row, ends, min(r.trunk() for r in part.rows))
        predicted = max(predicted, *(sum(m.values()) for m in moments))
    peak, _ = peak_of(lambda: update(module, "planner", groups, optimizer))
    _print(case.name, "update", predicted, peak)


def _settings(case: Case, policy: PolicyConfig) -> Settings:
    rollout = RolloutConfig(
        planner_group_size=case.group_size,
        max_prompt_tokens=case.prompt,
        planner=Sampling(max_new_tokens=case.completion),
    )
    return settings_of(policy, rollout, case.micro_batch, case.groups, TransformersEngine())


def _print(name: str, stage: str, predicted: int, measured: int) -> None:
    print(json.dumps({"name": name, "stage": stage, "predicted": predicted, "measured": measured}), flush=True)


@reader_may_leave()
def main() -> None:
    """Make the models, run the cases one after another, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[case.name for case in CASES], help="these cases alone")
    parser.add_argument("--measure", nargs=2, metavar=("CASE", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    quiet_libraries()
    if args.measure:
        measure(Case(**json.loads(args.measure[0])), Path(args.measure[1]))
        return
    print("| case | stage | predicted, MiB | measured, MiB | predicted / measured |\n| --- | --- | --- | --- | --- |")
    for case in CASES:
        if args.only and case.name not in args.only:
            continue
        with tempfile.TemporaryDirectory() as folder:
            write_model(case, Path(folder))
            arguments = ["--measure", json.dumps(asdict(case)), folder]
            found = run_again(__file__, arguments, case.name, RELEASE | {"OMP_NUM_THREADS": "1"})
        for one in found:
            predicted, measured = one["predicted"] / MIB, one["measured"] / MIB
            ratio = predicted / measured
            print(f"| {one['name']} | {one['stage']} | {predicted:.0f} | {measured:.0f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
