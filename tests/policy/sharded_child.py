"""One of two processes that hold a base in parts: scores and gradients beside those of a whole base in the same process."""

from __future__ import annotations

import gc
import json
import sys

import cahl_pl  # noqa: F401 - before torch

# isort: split
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from cahl_pl.callbacks.memory import weights_gib
from cahl_pl.engines.self_check import check_computation
from cahl_pl.policy import forward
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.policy.logprobs import micro_batches, score
from cahl_pl.policy.policy import Policy
from cahl_pl.policy.reference import as_reference, keep_reference
from cahl_pl.policy.sharding import idle_group
from cahl_pl.types import Group


def make(shard_base: bool, **config) -> Policy:
    policy = Policy(PolicyConfig(lora_rank=4, lora_alpha=8, shard_base=shard_base, **config))
    torch.manual_seed(1)
    policy.load()
    if shard_base:
        check_computation(policy)
    with torch.no_grad():
        for name, parameter in policy.lm.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.05)
    return policy


def group(seed: int, count: int) -> Group:
    generator = torch.Generator().manual_seed(seed)

    def tokens(length):
        return torch.randint(3, 250, (length,), generator=generator)

    prompt, zeros = tokens(70), torch.zeros(count)  # long enough that a whole base would run its trunk first
    return Group(prompt, [tokens(5 + i) for i in range(count)], zeros, {}, zeros, zeros.bool(), 0)


def values(policy: Policy, rank: int) -> list[torch.Tensor]:
    """What one step computes: of three micro-batches in the first process, and of one in the second."""
    keep_reference(policy, "planner")
    policy.activate("planner")
    found = []
    for attempt in range(2):
        policy.lm.zero_grad()
        own = [group(10 * rank + attempt + i, 3) for i in range(1 if rank else 3)]
        parts = [part for one in own for part in micro_batches(policy, [one], 1000)]
        if policy.shards > 1:
            parts += [part for _ in range(3 - len(parts)) for part in micro_batches(policy, [idle_group()], 1000)]
        with policy.training_mode():
            for part in parts:
                with torch.no_grad(), as_reference(policy, "planner"):
                    reference = score(policy, part).logprobs
                scored = score(policy, part, 0.7)
                ((scored.logprobs * scored.mask).sum() + (scored.logprobs * scored.mask).square().sum()).backward()
                if scored.mask.any():
                    found += [reference, scored.logprobs.detach(), scored.entropy.detach()]
        found += [parameter.grad.clone() for parameter in policy.parameters_of("planner")]
    return found


def main(rank: int, meeting: str, variants: dict[str, dict]) -> None:
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    out = {}
    for name, config in variants.items():
        whole, sharded = make(False, **config), make(True, **config)
        stored = {
            id(p): (p.to_local() if isinstance(p, DTensor) else p).untyped_storage().nbytes()
            for n, p in sharded.lm.named_parameters()
            if "lora_" not in n
        }
        gc.collect()
        known = {id(p) for policy in (whole, sharded) for p in policy.lm.parameters()}
        left = [o for o in gc.get_objects() if isinstance(o, torch.nn.Parameter) and id(o) not in known]
        held = [weights_gib(policy.lm)["memory/base_gib"] for policy in (whole, sharded)]
        forward.SHORTEST_TRUNK = 10**9  # in bfloat16 a trunk that is run first rounds otherwise; one that is sharded has none
        expected = values(whole, rank)
        forward.SHORTEST_TRUNK = 64
        pairs = list(zip(expected, values(sharded, rank), strict=True))
        out[name] = {
            "apart": max(float((a - b).abs().max()) for a, b in pairs),
            "largest": max(float(a.abs().max()) for a, _ in pairs),
            "left": sum(o.untyped_storage().nbytes() for o in left if not isinstance(o, DTensor)),
            "held": held[1] / held[0],
            "stored": sum(stored.values()) / sum(p.nbytes for n, p in whole.lm.named_parameters() if "lora_" not in n),
            "sharded": [n for n, p in sharded.lm.named_parameters() if isinstance(p, DTensor)],
        }
    print(json.dumps(out))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]))
