"""Compare the memory planner with a full-size run that needs neither a GPU nor the memory (`tools.memory.shadows`).

    python -m tools.memory.check_full_size [--layers 28] [--only NAME ...]

The model has the shape of Qwen2.5-7B in NF4, and the settings are those of configs/cahl.yaml. Our own code runs: sampling as
in the engine, an update as in the trainer. The peak of live bytes is printed beside the planner's count and its total, which
adds its assumptions (without the CUDA context, which does not exist here). Kernels' internal workspaces are not seen. The
exit status is 1 if a peak is above the total.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cahl_pl  # noqa: F401 - before torch: it decides how torch's threads wait

# isort: split
import torch
from transformers import AutoModelForCausalLM

from cahl_pl.commands.pipes import reader_may_leave
from cahl_pl.engines import TransformersEngine
from cahl_pl.engines.base import Sampling
from cahl_pl.grpo.config import GRPOConfig
from cahl_pl.grpo.selection import everything
from cahl_pl.memory_plan import GIB, Settings, sampling_moments, settings_of, shape_of, update_moments
from cahl_pl.memory_plan.parts import base_bytes
from cahl_pl.memory_plan.stages import FRAGMENTATION
from cahl_pl.module import CAHLModule
from cahl_pl.policy import policy as policy_module
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.policy.logprobs import micro_batches
from cahl_pl.rollout.config import RolloutConfig
from cahl_pl.startup.library_warnings import quiet_libraries
from cahl_pl.types import ROLES, Group, Role, RolloutBatch
from tools.memory.check_memory_plan import Case, prompts_of, qwen2_config
from tools.memory.shadows import pack_weights, shadows

SHAPE = Case("7b", 3584, 18944, 28, 28, 4, 152064, 4096, 512, 2, 64, 3, 16384, True, "nf4", "bfloat16")


@dataclass(frozen=True)
class Work:
    """Sampling for `groups` prompts, or an update on them; lengths in tokens.

    The last steps of sampling use the most memory, but running all steps would take hours: see `at_the_end`.
    """

    name: str
    role: Role
    groups: int
    size: int
    prompt: int
    completion: int
    update: bool = False


def at_the_end(work: Work, steps: int) -> Work:
    """Move all but the last tokens of completions into the prompts, so that buffers and context are as large as at the end."""
    longer = work.prompt + work.size * (work.completion - steps)
    return replace(work, name=f"{work.name}, end", prompt=longer, completion=steps)


SAMPLING = (
    Work("sample planner", "planner", 64, 2, 4096, 512),
    Work("sample executor", "executor", 64, 4, 4096, 256),
)
UPDATES = (
    Work("update planner, long prompts", "planner", 3, 2, 4096, 512, update=True),
    Work("update executor, long prompts", "executor", 3, 4, 4096, 256, update=True),
    Work("update executor, one row", "executor", 1, 48, 4096, 256, update=True),
    Work("update executor, usual lengths", "executor", 8, 4, 1200, 200, update=True),
)
WORK = (*SAMPLING, *(at_the_end(work, steps=3) for work in SAMPLING), *UPDATES)


class _Enough(Exception):
    """Signal that the first steps have been taken."""


def policy_config(case: Case, folder: Path) -> PolicyConfig:
    """Return the policy's part of configs/cahl.yaml, with a folder that contains a configuration and no weights."""
    config = qwen2_config(case)
    config.architectures = ["Qwen2ForCausalLM"]
    config.save_pretrained(folder)
    return PolicyConfig(
        model=str(folder),
        quantization=case.quantization,  # type: ignore[arg-type]
        dtype=case.dtype,  # type: ignore[arg-type]
        gradient_checkpointing=case.checkpointing,
    )


def load_base(config: PolicyConfig, base_config: Any, device: torch.device) -> tuple[Any, Any]:
    """Replace `cahl_pl.policy.loading.load_base`: return a base without content."""
    base = AutoModelForCausalLM.from_config(base_config, dtype=getattr(torch, config.dtype), attn_implementation="sdpa")
    if config.quantization == "nf4":
        pack_weights(base)
    return SimpleNamespace(pad_token_id=0, eos_token_id=1), base.eval()


def measure(case: Case, work: Work) -> tuple[int, int, int]:
    """Return bytes: the planner's count, its total without the context, and the peak of live bytes."""
    with (
        tempfile.TemporaryDirectory() as folder,
        shadows(
            (policy_module, "load_base", load_base),
            (torch.nn.Module, "to", lambda module, *args, **kwargs: module),  # everything is on one device
        ) as mode,
    ):
        module = module_of(case, Path(folder))
        held = as_after_a_step(module, work.role)
        given = prompts_of(case.vocabulary, work.prompt, work.groups)
        if work.update:
            groups = groups_of(case, work)
            moments = planned_update(case, module, work, groups)
            mode.start_again()
            update(module, work.role, groups)
        else:
            moments = planned_sampling(case, module, work)
            _stop_after(module, steps=3)
            mode.start_again()
            with contextlib.suppress(_Enough):
                sample(module, work, given)
        peak = mode.peak
        del held
        return *totals(case, module, work, moments), peak


def _stop_after(module: CAHLModule, steps: int) -> None:
    """End sampling with an exception after `steps` tokens of each completion."""
    inner, left = module.policy.logits, [steps]

    def counting(hidden: torch.Tensor) -> torch.Tensor:
        left[0] -= 1
        if left[0] < 0:
            raise _Enough
        return inner(hidden)

    module.policy.logits = counting  # type: ignore[method-assign]


def module_of(case: Case, folder: Path, device: str = "cpu") -> CAHLModule:
    """Return the module of configs/cahl.yaml with fresh adapters on the case's base."""
    config = policy_config(case, folder)
    module = CAHLModule(config, grpo=GRPOConfig(kl=0.001), max_tokens_per_micro_batch=case.micro_batch)
    module.policy.load(device)
    return module


def as_after_a_step(module: CAHLModule, role: Role) -> list[torch.Tensor]:
    """Leave the gradients of a role's last step, and return what else is in memory then: both moments of both optimisers."""
    for parameter in module.policy.parameters_of(role):
        parameter.grad = torch.zeros_like(parameter)
    return [torch.zeros_like(p) for r in ROLES for p in module.policy.parameters_of(r) for _ in range(2)]


def sample(module: CAHLModule, work: Work, prompts: list[list[int]]) -> int:
    """Sample as a round does; return the number of sampled tokens."""
    sampling = Sampling(max_new_tokens=work.completion)
    found = TransformersEngine().generate(
        module.policy, work.role, prompts, work.size, sampling, torch.Generator().manual_seed(0)
    )
    return sum(len(completion.ids) for completions in found for completion in completions)


def update(module: CAHLModule, role: Role, groups: list[Group]) -> None:
    """Accumulate the gradients of a batch, as the trainer does."""
    batch = RolloutBatch(role, groups, version=0, update=0)
    module.policy.lm.zero_grad(set_to_none=True)
    module.updates.accumulate(everything(groups), batch, lambda loss: loss.backward())  # type: ignore[no-untyped-call]


def groups_of(case: Case, work: Work) -> list[Group]:
    """Return groups of random completions, all of the maximum length."""
    generator = torch.Generator().manual_seed(0)
    shape = (work.size, work.completion)
    return [
        Group(
            prompt_ids=torch.tensor(prompt),
            completion_ids=list(torch.randint(2, case.vocabulary, shape, generator=generator)),
            logprobs=list(torch.zeros(shape)),
            rewards=torch.rand(work.size, generator=generator),
            components={},
            advantages=torch.randn(work.size, generator=generator),
            truncated=torch.zeros(work.size),
            comparison_id=i,
        )
        for i, prompt in enumerate(prompts_of(case.vocabulary, work.prompt, work.groups))
    ]


def settings_for(case: Case, module: CAHLModule, work: Work) -> Settings:
    """Return the planner's settings for `work`."""
    sampling = Sampling(max_new_tokens=work.completion)
    rollout = RolloutConfig(
        planner_group_size=work.size,
        executor_group_size=work.size,
        max_prompt_tokens=work.prompt,
        planner=sampling,
        executor=sampling,
    )
    settings = settings_of(module.policy.config, rollout, case.micro_batch, work.groups, TransformersEngine())
    return replace(settings, prompts={**settings.prompts, work.role: work.groups})


def planned_sampling(case: Case, module: CAHLModule, work: Work) -> list[dict[str, int]]:
    """Return the planner's moments of sampling."""
    return sampling_moments(shape_of(module.policy.config), settings_for(case, module, work), work.role)


def planned_update(case: Case, module: CAHLModule, work: Work, groups: list[Group]) -> list[dict[str, int]]:
    """Return the planner's moments of an update, for its actual micro-batches."""
    module.policy.activate(work.role)
    settings, shape, moments = settings_for(case, module, work), shape_of(module.policy.config), []
    for part in micro_batches(module.policy, groups, case.micro_batch):
        row = max(len(r.ids) for r in part.rows)
        ends = sum(len(s.ids) for s in part.samples)
        moments += update_moments(shape, settings, row * len(part.rows), row, ends, min(r.trunk() for r in part.rows))
    return moments


def totals(case: Case, module: CAHLModule, work: Work, moments: list[dict[str, int]]) -> tuple[int, int]:
    """Return bytes at the worst moment: all that is counted, and the total with assumed fragmentation, without the context."""
    shape, settings = shape_of(module.policy.config), settings_for(case, module, work)
    lasting = base_bytes(shape, settings) + 28 * shape.adapter  # adapters, moments, gradients of one adapter
    counted = max(sum(parts.values()) for parts in moments)
    return lasting + counted, lasting + int((1 + FRAGMENTATION) * counted)


@reader_may_leave()
def main() -> None:
    """Do all the work, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=SHAPE.layers, help="fewer than 28, for a quick look")
    parser.add_argument("--only", nargs="+", choices=[work.name for work in WORK], help="these alone")
    args = parser.parse_args()
    quiet_libraries()
    case, above = replace(SHAPE, layers=args.layers), []
    print("| what | counted, GiB | with fragmentation, GiB | alive, GiB | alive / counted |")
    print("| --- | ---: | ---: | ---: | ---: |", flush=True)
    for work in WORK:
        if args.only and work.name not in args.only:
            continue
        counted, total, peak = measure(case, work)
        if peak > total:
            above.append(work.name)
        values = " | ".join(f"{value / GIB:.2f}" for value in (counted, total, peak))
        print(f"| {work.name} | {values} | {peak / counted:.3f} |", flush=True)
    if above:
        raise SystemExit(f"more is alive than was planned: {', '.join(above)}")


if __name__ == "__main__":
    main()
