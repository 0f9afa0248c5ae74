"""Data modules over six tasks, sampled by a small policy."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from cahl_pl.datamodule import RolloutDataModule
from cahl_pl.datasets.base import TaskSource
from cahl_pl.engines.base import Completion, Engine, Sampling
from cahl_pl.environments import ExecutableEnvironment
from cahl_pl.prompts import PromptConfig
from cahl_pl.rollout.config import RolloutConfig
from cahl_pl.types import Message, Task


class Requests(TaskSource):
    """`size` requests without tools."""

    def __init__(self, size, length=1):
        self.size, self.length = size, length

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        if not 0 <= index < self.size:
            raise IndexError(index)
        return Task(f"t{index}", (Message("user", f"request {index} " * self.length),), ())


class Babble(Engine):
    """Random ids, as many as the length limit says."""

    def generate(self, policy, role, prompts, num_samples, sampling, generator):
        def completion():
            ids = torch.randint(3, 200, (sampling.max_new_tokens,), generator=generator)
            return Completion(ids, torch.zeros(len(ids)), ended=False)

        return [[completion() for _ in range(num_samples)] for _ in prompts]


@pytest.fixture
def make(policy):
    """A data module on a policy that does not learn, without a trainer."""

    def build(size=5, length=1, **options):
        sampling = Sampling(max_new_tokens=3)
        options = {
            "rollout": RolloutConfig(2, 2, max_prompt_tokens=300, planner=sampling, executor=sampling),
            "prompts": PromptConfig(system="", planner="", executor="{subtask}", single="Act"),
            "engine": Babble(),
            "tasks_per_round": 2,
            **options,
        }
        data = RolloutDataModule(Requests(size, length), ExecutableEnvironment(lambda state: {}), **options)
        module = SimpleNamespace(policy=policy)
        data.trainer = SimpleNamespace(lightning_module=module, global_rank=0, world_size=1, max_epochs=1, max_steps=-1)
        return data

    return build
