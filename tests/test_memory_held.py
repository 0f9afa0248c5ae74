"""The plan against every tensor that a small model really holds."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cahl_pl.engines import TransformersEngine
from cahl_pl.engines.base import Sampling
from cahl_pl.memory_plan import sampling_moments, settings_of, shape_of, update_moments
from cahl_pl.policy.logprobs import micro_batches, score
from cahl_pl.rollout.config import RolloutConfig
from cahl_pl.types import Group


class Held(TorchDispatchMode):
    """Counts the bytes of the tensors that are alive while it is on, of those made in it."""

    def __init__(self):
        super().__init__()
        self.sizes, self.now, self.peak = {}, 0, 0

    def _free(self, key):
        self.now -= self.sizes.pop(key)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        given = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in given and storage._cdata not in self.sizes:
                    self.sizes[storage._cdata] = storage.nbytes()
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._free, storage._cdata)
        self.peak = max(self.peak, self.now)
        return result


def groups_of(prompt, completion, size, count):
    generator = torch.Generator().manual_seed(0)

    def ids(length):
        return torch.randint(5, 250, (length,), generator=generator)

    return [
        Group(
            ids(prompt),
            [ids(completion) for _ in range(size)],
            torch.zeros(size),
            {},
            torch.ones(size),
            torch.zeros(size),
            i,
        )
        for i in range(count)
    ]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("dtype", "adapter_dtype"), [("float32", "float32"), ("bfloat16", "float32"), ("bfloat16", "bfloat16")]
)
def test_update_against_the_tensors_it_holds(make_policy, checkpointing, dtype, adapter_dtype):
    policy = make_policy(gradient_checkpointing=checkpointing, dtype=dtype, adapter_dtype=adapter_dtype)
    shape = shape_of(policy.config)
    settings = settings_of(policy.config, RolloutConfig(), 1000, 4, TransformersEngine(8))
    policy.activate("planner")
    with policy.training_mode():
        (part,) = micro_batches(policy, groups_of(150, 20, 2, 4), 1000)
        with Held() as held:
            score(policy, part).logprobs.sum().backward()
    row = max(len(r.ids) for r in part.rows)
    trunk = 0 if checkpointing else 149
    moments = update_moments(shape, settings, row * len(part.rows), row, 160, trunk)
    planned = max(sum(parts.values()) for parts in moments)
    assert planned == pytest.approx(held.peak, rel=0.15)


def test_sampling_against_the_tensors_it_holds(make_policy):
    policy = make_policy()
    shape = shape_of(policy.config)
    rollout = RolloutConfig(planner_group_size=2, max_prompt_tokens=150, planner=Sampling(max_new_tokens=4))
    settings = settings_of(policy.config, rollout, 1000, 8, TransformersEngine())
    prompts = [group.prompt_ids.tolist() for group in groups_of(150, 1, 1, 8)]
    with Held() as held:
        TransformersEngine().generate(policy, "planner", prompts, 2, rollout.planner, torch.Generator().manual_seed(0))
    moments = sampling_moments(shape, settings, "planner")
    # the plan has room for masks, which prompts need that share a beginning
    planned = max(sum(parts.values()) - parts["attention masks"] for parts in moments)
    assert planned == pytest.approx(held.peak, rel=0.15)
