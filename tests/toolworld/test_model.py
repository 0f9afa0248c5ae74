"""The small model that ships, and the tool that made it."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
import torch

import cahl_pl.toolworld
from cahl_pl.parsing import parse_action, parse_plan
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.policy.policy import Policy
from cahl_pl.prompts import PromptBuilder
from cahl_pl.rollout.gold import executor_examples, planner_example
from cahl_pl.toolworld import generate_tasks
from cahl_pl.toolworld.prompts import PROMPTS
from tools.make import toolworld_model

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def policy():
    policy = Policy(PolicyConfig(model="toolworld", lora_rank=1))
    policy.load()
    return policy


@pytest.fixture(scope="module")
def tool():
    return toolworld_model


def test_it_is_small_and_safe():
    files = list((Path(cahl_pl.toolworld.__file__).parent / "model").iterdir())
    assert sum(file.stat().st_size for file in files) < 8e6
    assert {file.suffix for file in files} <= {".safetensors", ".json", ".jinja", ".md"}


def test_its_tokenizer_is_the_one_it_was_trained_with(policy):
    # AutoTokenizer would put another pre-tokenizer in, which joins punctuation and spaces in other ways
    tokens = policy.tokenizer.tokenize('{"city": "Talomi 42"}')
    assert "4" in tokens
    assert "2" in tokens
    assert any(token.endswith('":\u0120') for token in tokens)


def test_it_has_learnt_its_task(policy):
    builder = PromptBuilder(policy.tokenizer, PROMPTS)
    losses = []
    for task in itertools.islice(generate_tasks("test", 7), 20):
        example = planner_example(builder, task)
        ids = torch.tensor([example.prompt + example.completion])
        with torch.no_grad():
            logits = policy.lm(ids).logits[0, len(example.prompt) - 1 : -1]
        losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(example.completion)).item())
    assert sum(losses) / len(losses) < 0.6  # guessing among 1,024 tokens: 6.9


def test_rows_hide_the_plan_from_the_executor(policy, tool):
    builder = PromptBuilder(policy.tokenizer, PROMPTS)
    task = next(t for t in generate_tasks("train", 3) if len(t.gold) == 2)
    batch = tool.collate([tool.task_row(builder, task, True, False)], pad=0)
    plan, steps = planner_example(builder, task), executor_examples(builder, task)
    start, shared = len(plan.prompt + plan.completion), len(builder.shared(task))
    episode = steps[-1].prompt + steps[-1].completion
    assert batch.ids[0, start:].tolist() == episode[shared:]
    assert batch.positions[0, start] == shared
    assert not batch.mask[0, 0, start, shared:start].any()
    assert batch.mask[0, 0, start, :shared].all()
    # the packed row gives the loss of the separate sequences
    with torch.no_grad():
        packed = tool.loss_of(policy.causal_lm, batch)
        total, count = 0.0, 0
        for example in (plan, *steps):
            ids = torch.tensor([example.prompt + example.completion])
            logits = policy.causal_lm(ids).logits[0, len(example.prompt) - 1 : -1]
            target = torch.tensor(example.completion)
            total, count = (
                total + torch.nn.functional.cross_entropy(logits, target, reduction="sum"),
                count + len(target),
            )
    torch.testing.assert_close(packed, total / count, atol=1e-4, rtol=1e-4)


def test_habits_are_bad(tool):
    kinds = set()
    for task in itertools.islice(generate_tasks("train", 3), 60):
        plan, text = tool.with_habit(task)
        kinds.add(len(task.gold))
        if task.gold:
            assert len(plan) != len(task.gold)
            assert parse_plan(tool.format_plan(plan)).error is None
            call = parse_action(text).call
            assert call is None or len(call.arguments) == len(task.gold[-1].arguments) - 1
    assert kinds >= {0, 1, 2, 3}


def test_the_initial_model_copies_without_training(policy, tool):
    torch.manual_seed(0)
    rng = random.Random(0)
    model = tool.initial_model(policy.tokenizer)
    rows = [rng.sample(range(20, 320), 12) * 4 for _ in range(16)]
    ids = torch.tensor(rows)
    with torch.no_grad():
        logits = model(ids).logits[:, 12:-1]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 13:].flatten())
    assert loss < 2.5  # guessing: 6.9
