"""Advantages, loss, gradients and KL divergence against TRL's GRPOTrainer: its own methods, on the same samples.

Needs trl 1.16 (`pip install trl==1.16.0`).
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from cahl_pl.grpo.advantages import Scoring, fill_advantages
from cahl_pl.grpo.config import GRPOConfig
from cahl_pl.grpo.loss import LossStats, grpo_loss
from cahl_pl.grpo.selection import select
from cahl_pl.policy.logprobs import micro_batches, score
from cahl_pl.policy.reference import as_reference, keep_reference
from cahl_pl.types import Group

pytest.importorskip("trl", reason="trl is not installed: pip install trl==1.16.0")
pytestmark = pytest.mark.filterwarnings("ignore")  # of TRL and what it imports

PROMPTS, SIZE, LIMIT = 3, 4, 9
WEIGHTS = {"form": 0.3, "exact": 0.7}
END = 2  # <|im_end|> of the tiny model


@pytest.fixture(scope="module")
def samples():
    """Prompts, completions (some cut off), two rewards of each, and log-probabilities that another program might give."""
    random = torch.Generator().manual_seed(5)
    prompts = [torch.randint(3, 250, (n,), generator=random).tolist() for n in (6, 11, 4)]
    completions = []
    for i in range(PROMPTS * SIZE):
        length = 2 + int(torch.randint(LIMIT - 1, (), generator=random))
        ids = torch.randint(3, 250, (length,), generator=random).tolist()
        completions.append(ids if i % 4 == 1 else [*ids[:-1], END])  # one of each group is cut off
    rewards = {name: torch.rand(PROMPTS * SIZE, generator=random) for name in WEIGHTS}
    rewards["form"] = rewards["form"].round()
    noise = [0.3 * torch.randn(len(ids), generator=random) for ids in completions]
    return SimpleNamespace(prompts=prompts, completions=completions, rewards=rewards, noise=noise)


@pytest.fixture(scope="module")
def trainer(tiny_model, samples, tmp_path_factory):
    """TRL's trainer on the tiny model; it is given samples instead of drawing them."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig as TRLConfig
    from trl import GRPOTrainer

    def reward(name):
        def values(completions, **kwargs):
            return samples.rewards[name].tolist()

        values.__name__ = name
        return values

    args = TRLConfig(
        output_dir=str(tmp_path_factory.mktemp("trl")),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=PROMPTS * SIZE,
        num_generations=SIZE,
        max_completion_length=LIMIT,
        reward_weights=list(WEIGHTS.values()),
        beta=0.04,
        loss_type="grpo",
        report_to="none",
        save_strategy="no",
    )
    made = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32),
        args=args,
        reward_funcs=[reward(name) for name in WEIGHTS],
        train_dataset=Dataset.from_dict({"prompt": ["a", "b", "c"]}),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
        peft_config=LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    made.current_gradient_accumulation_steps = 1
    return made


def theirs(trainer, policy, samples, monkeypatch, options, old):
    """Loss, gradients by our names and KL divergence of TRL with these options."""
    for name, value in options.items():
        owner = trainer if hasattr(trainer, name) else trainer.args
        assert hasattr(owner, name)
        monkeypatch.setattr(owner, name, value)
    with torch.no_grad():
        weights = dict(policy.lm.named_parameters())
        for name, parameter in trainer.model.named_parameters():
            for own, other in ((".default.", ".planner."), (".ref.", ".planner_reference.")):
                if own in name:
                    parameter.copy_(weights[name.replace(own, other)])
    repeated = [samples.prompts[i // SIZE] for i in range(PROMPTS * SIZE)]
    sampled = [values.tolist() for values in sampling_logprobs(policy, samples)] if options.get("use_vllm") else None
    texts = ["?"] * len(repeated)
    monkeypatch.setattr(
        trainer,
        "_generate",
        lambda prompts: (repeated, samples.completions, None, texts, sampled, {}, None, None),
    )
    trainer.model.train()
    trainer.model.zero_grad(set_to_none=True)
    trainer._metrics["train"].clear()
    inputs = trainer._generate_and_score_completions([{"prompt": "?"} for _ in repeated])
    if old:
        padded = torch.nn.utils.rnn.pad_sequence(sampling_logprobs(policy, samples), batch_first=True)
        inputs["old_per_token_logps"] = padded
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    gradients = {
        name.replace(".default.", ".planner."): p.grad
        for name, p in trainer.model.named_parameters()
        if p.grad is not None
    }
    kl = trainer._metrics["train"].get("kl", [0.0])[-1]
    return SimpleNamespace(loss=loss.item(), gradients=gradients, kl=kl, advantages=inputs["advantages"])


def groups_of(samples):
    groups = []
    for i in range(PROMPTS):
        members = range(i * SIZE, (i + 1) * SIZE)
        completions = [torch.tensor(samples.completions[j]) for j in members]
        components = {name: values[list(members)] for name, values in samples.rewards.items()}
        groups.append(
            Group(
                torch.tensor(samples.prompts[i]),
                completions,
                sum(WEIGHTS[name] * values for name, values in components.items()),
                components,
                torch.zeros(SIZE),
                torch.tensor([ids[-1] != END for ids in completions]),
                i,
            )
        )
    return groups


def sampling_logprobs(policy, samples):
    """What the policy says, disturbed."""
    policy.activate("planner")
    groups = groups_of(samples)
    with torch.no_grad():
        (part,) = micro_batches(policy, groups, 10**6)
        scored = score(policy, part)
    found = {}
    for sample, values in zip(part.samples, scored.logprobs, strict=True):
        found[sample.group.comparison_id * SIZE + sample.index] = values[: len(sample.ids)]
    return [found[i] + samples.noise[i] for i in range(len(found))]


def ours(policy, samples, config, old, engine):
    """The same, by what training steps are made of."""
    groups = groups_of(samples)
    if old or engine:
        sampled = sampling_logprobs(policy, samples)
        for i, group in enumerate(groups):
            group.logprobs = sampled[i * SIZE : (i + 1) * SIZE]
    signal = fill_advantages(groups, Scoring(config, WEIGHTS, LIMIT))
    selected = select(groups, signal, config)
    policy.activate("planner")
    policy.lm.zero_grad(set_to_none=True)
    total = LossStats()
    for part in micro_batches(policy, selected.groups, 60):  # several micro-batches
        with torch.no_grad(), as_reference(policy, "planner"):
            reference = score(policy, part).logprobs
        scored = score(policy, part, 1.0, config.entropy > 0)
        loss, stats = grpo_loss(
            scored.logprobs,
            part.logprobs if old else None,
            reference,
            part.advantages,
            scored.mask,
            config,
            selected.size,
            part.logprobs if engine else None,
            scored.entropy,
            selected.regularised,
        )
        loss.backward()
        total.add(stats)
    gradients = {name: p.grad for name, p in policy.lm.named_parameters() if ".planner." in name}
    advantages = torch.cat([group.advantages for group in groups])
    return SimpleNamespace(
        loss=total.loss, gradients=gradients, kl=total.kl / max(total.tokens, 1), advantages=advantages
    )


VLLM = {"use_vllm": True, "vllm_importance_sampling_correction": True, "vllm_importance_sampling_clip_max": 1.1}
CASES = {
    # name: our options, TRL's, off-policy
    "grpo": ({}, {}, False),
    "kl as estimated": ({"kl_bias_correction": False}, {"use_bias_correction_kl": False}, False),
    "off-policy": ({"clip_low": 0.1, "clip_high": 0.28}, {"epsilon_low": 0.1, "epsilon_high": 0.28}, True),
    "off-policy, kl as estimated": ({"kl_bias_correction": False}, {"use_bias_correction_kl": False}, True),
    "dapo": ({"loss": "dapo", "scale_rewards": "batch"}, {"loss_type": "dapo", "scale_rewards": "batch"}, True),
    "dr_grpo": (
        {"loss": "dr_grpo", "scale_rewards": "none", "max_completion_length": LIMIT},
        {"loss_type": "dr_grpo", "scale_rewards": "none"},
        True,
    ),
    "gspo": (
        {"loss": "gspo"},
        {"importance_sampling_level": "sequence", "epsilon_low": 3e-4, "epsilon_high": 4e-4},
        True,
    ),
    "gspo, on-policy": (
        {"loss": "gspo"},
        {"importance_sampling_level": "sequence", "epsilon_low": 3e-4, "epsilon_high": 4e-4},
        False,
    ),
    "dual clip": ({"dual_clip": 1.25}, {"delta": 1.25}, True),
    "masked": ({"truncation": "mask"}, {"mask_truncated_completions": True}, False),
    "masked, dapo": (
        {"truncation": "mask", "loss": "dapo"},
        {"mask_truncated_completions": True, "loss_type": "dapo"},
        True,
    ),
    "entropy": ({"entropy": 0.05}, {"entropy_coef": 0.05, "_entropy_bonus_enabled": True}, False),
    "gdpo": (
        {"aggregate_rewards": "normalize_then_sum"},
        {"multi_objective_aggregation": "normalize_then_sum"},
        False,
    ),
    **{
        mode: (
            {"importance": mode, "importance_cap": 1.1},
            {**VLLM, "vllm_importance_sampling_mode": mode},
            False,
        )
        for mode in ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")
    },
}


@pytest.mark.parametrize("reference", ["base", "adapter"])
@pytest.mark.parametrize("case", CASES)
def test_training_is_that_of_trl(trainer, make_policy, samples, monkeypatch, case, reference):
    own, options, old = CASES[case]
    policy = make_policy()
    if reference == "adapter":
        keep_reference(policy, "planner")
        with torch.no_grad():
            for name, parameter in policy.lm.named_parameters():
                if "lora_B.planner_reference" in name:
                    parameter.normal_(0, 0.05)
        trainer.model.add_adapter("ref", trainer.model.peft_config["default"])
        trainer.model.set_adapter("default")
    try:
        them = theirs(trainer, policy, samples, monkeypatch, options, old)
    finally:
        if reference == "adapter":
            trainer.model.delete_adapter("ref")
            trainer.model.set_adapter("default")
    config = GRPOConfig(**{"kl": 0.04, "scale_rewards": "group", **own})
    us = ours(policy, samples, config, old, "importance" in own)
    torch.testing.assert_close(us.advantages, them.advantages, rtol=1e-5, atol=1e-5)
    assert us.loss == pytest.approx(them.loss, abs=1e-5, rel=1e-5)
    assert us.kl == pytest.approx(them.kl, abs=1e-5, rel=1e-5)
    assert us.kl > 1e-3
    assert us.gradients.keys() == them.gradients.keys()
    for name, gradient in us.gradients.items():
        torch.testing.assert_close(gradient, them.gradients[name], rtol=1e-4, atol=1e-5)
    size = math.sqrt(sum(float(g.square().sum()) for g in them.gradients.values()))
    apart = math.sqrt(sum(float((us.gradients[n] - g).square().sum()) for n, g in them.gradients.items()))
    assert size > 1e-3
    assert apart / size < 1e-5
