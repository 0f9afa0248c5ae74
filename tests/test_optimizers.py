"""A role's optimiser: LoRA+, and what a resume and a warm start leave of it."""

from __future__ import annotations

import re

import pytest
import torch

from cahl_pl.errors import ConfigError
from cahl_pl.optimizers import (
    OptimizerConfig,
    check_state,
    forget_moments,
    hold_to,
    make_optimizer,
    scheduled_rate,
    set_rate,
)


def named():
    return {
        "q.lora_A.planner.weight": torch.nn.Parameter(torch.ones(2, 3)),
        "q.lora_B.planner.weight": torch.nn.Parameter(torch.ones(3, 2)),
        "q.lora_magnitude_vector.planner.weight": torch.nn.Parameter(torch.ones(3)),
        "e.lora_embedding_A.planner": torch.nn.Parameter(torch.ones(2, 3)),
        "e.lora_embedding_B.planner": torch.nn.Parameter(torch.ones(3, 2)),
    }


def step(optimizer, parameters):
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def test_lora_plus_lets_b_learn_faster():
    parameters, config = named(), OptimizerConfig(lr=0.01, lora_plus_ratio=16.0)
    optimizer, _ = make_optimizer(parameters, config, 10)
    step(optimizer, parameters)  # AdamW's first step has the size of the rate
    moved = {name: round(1 - p.flatten()[0].item(), 5) for name, p in parameters.items()}
    fast = ("lora_B", "magnitude", "embedding_B")
    assert moved == {name: 0.16 if any(f in name for f in fast) else 0.01 for name in parameters}


def test_without_it_there_is_one_group_in_the_order_of_the_parameters():
    parameters = named()
    optimizer, _ = make_optimizer(parameters, OptimizerConfig(), 10)
    (group,) = optimizer.param_groups
    assert [id(p) for p in group["params"]] == [id(p) for p in parameters.values()]


def test_rates_of_warm_start_schedule_and_resume_keep_the_ratio():
    config = OptimizerConfig(lr=0.01, lora_plus_ratio=4.0, lr_schedule="linear")
    optimizer, scheduler = make_optimizer(named(), config, 10)
    set_rate(optimizer, config, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 2.0]
    optimizer.step()
    for _ in range(5):
        scheduler.step()
    assert scheduler.get_last_lr() == pytest.approx([0.005, 0.02])
    now = OptimizerConfig(lr=0.1, lora_plus_ratio=8.0, weight_decay=0.3, betas=(0.5, 0.6), lr_schedule="linear")
    hold_to(optimizer, scheduler, now)
    assert scheduled_rate(scheduler, now, 10) == pytest.approx(0.05)
    set_rate(optimizer, now, scheduled_rate(scheduler, now, 10))
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.4])
    assert [(group["betas"], group["weight_decay"]) for group in optimizer.param_groups] == [((0.5, 0.6), 0.3)] * 2


@pytest.mark.parametrize(
    ("schedule", "warmup", "taken", "spent", "share"),
    [
        ("linear", 0, 2, 0.0, 0.98),
        ("linear", 0, 2, 0.25, 0.75),
        ("linear", 0, 50, 0.25, 0.5),  # the steps end first
        ("linear", 20, 10, 0.9, 0.5),  # of the warm-up, steps count alone
        ("linear", 20, 20, 0.5, 0.5),
        ("cosine", 0, 1, 0.5, 0.5),
        ("linear", 0, 3, 1.0, 0.0),
        ("constant", 0, 3, 0.7, 1.0),
        ("inverse_sqrt", 0, 0, 0.7, 1.0),
    ],
)
def test_a_rate_that_ends_with_the_run_falls_with_the_tokens_of_a_budget(schedule, warmup, taken, spent, share):
    config = OptimizerConfig(lr=0.2, lr_schedule=schedule, warmup_steps=warmup)
    optimizer, scheduler = make_optimizer(named(), config, 100)
    optimizer.step()
    for _ in range(taken):
        scheduler.step()
    assert scheduled_rate(scheduler, config, 100, spent) == pytest.approx(0.2 * share)


@pytest.mark.parametrize(("then", "now", "word"), [(1.0, 16.0, "without"), (16.0, 1.0, "with")])
def test_another_grouping_is_refused_on_resume(then, now, word):
    state = make_optimizer(named(), OptimizerConfig(lora_plus_ratio=then), 10)[0].state_dict()
    check_state("planner", OptimizerConfig(lora_plus_ratio=then), state)
    with pytest.raises(
        ConfigError, match=rf"written {word} LoRA\+, but model\.planner\.lora_plus_ratio is now {now:g}"
    ):
        check_state("planner", OptimizerConfig(lora_plus_ratio=now), state)


def test_forgotten_moments():
    parameters = named()
    optimizer, _ = make_optimizer(parameters, OptimizerConfig(), 10)
    step(optimizer, parameters)
    forget_moments(optimizer)
    assert not optimizer.state
    step(optimizer, parameters)
    assert {float(state["step"]) for state in optimizer.state.values()} == {1.0}


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_ratios_that_could_not_work_are_refused(value):
    with pytest.raises(ValueError, match=re.escape(f"lora_plus_ratio of an optimiser is {value}")):
        OptimizerConfig(lora_plus_ratio=value)
