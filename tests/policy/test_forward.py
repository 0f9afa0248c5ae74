"""Activated adapters against PEFT's own, and prefixes that are kept against prefixes that are run again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from cahl_pl.engines import TransformersEngine
from cahl_pl.engines.base import Sampling
from cahl_pl.errors import PolicyError
from cahl_pl.grpo.advantages import advantages
from cahl_pl.policy.forward import run
from cahl_pl.policy.logprobs import micro_batches, score
from cahl_pl.policy.packing import pack
from cahl_pl.policy.prefix_store import _walk
from cahl_pl.types import ROLES, Group

INVOCATION = {"planner": [251, 252], "executor": [253, 252]}


@pytest.fixture
def alora(make_policy):
    policy = make_policy(adapter="alora")
    policy.invocation = INVOCATION
    return policy


@pytest.fixture
def peft_alora(alora, tiny_model):
    """PEFT's own activated LoRA with the weights of `alora`'s adapter of a role."""

    def make(role):
        base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
        config = LoraConfig(
            r=4,
            lora_alpha=8,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
            alora_invocation_tokens=INVOCATION[role],
        )
        model = get_peft_model(base, config, adapter_name=role)
        state = alora.adapter_state()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if f".{role}." in name:
                    parameter.copy_(state[name])
        return model

    return make


def make_groups(role):
    """A task's prompts: the same start, then the role's words; later steps hold earlier ones, words and all."""
    generator = torch.Generator().manual_seed(5)

    def text(n):
        return torch.randint(3, 250, (n,), generator=generator)

    words = torch.tensor(INVOCATION[role])
    shared = text(30)
    first = torch.cat([shared, words, text(4)])
    second = torch.cat([first, text(6), words, text(3)])  # the last words count, as in PEFT
    groups = []
    for i, prompt in enumerate([first, second, torch.cat([text(9), words])]):
        rewards = torch.rand(3, generator=generator)
        completions = [text(n) for n in (5, 1, 8)]
        zeros = torch.zeros(3).bool()
        groups.append(Group(prompt, completions, rewards, {}, advantages([rewards])[0], zeros, i))
    return groups


@pytest.mark.parametrize("role", ROLES)
def test_log_probabilities_and_gradients_are_those_of_pefts_activated_lora(alora, peft_alora, role):
    alora.activate(role)
    groups = make_groups(role)
    for max_tokens in (40, 1000):  # several micro-batches, the later ones on kept prefixes, and one
        for batch in micro_batches(alora, groups, max_tokens):
            scores = score(alora, batch)
            (scores.logprobs * batch.advantages[:, None] * scores.mask).sum().backward()
        reference = peft_alora(role)
        for group in groups:
            for ids, advantage in zip(group.completion_ids, group.advantages, strict=True):
                sequence = torch.cat([group.prompt_ids, ids])[None]
                logits = reference(input_ids=sequence).logits[0, len(group.prompt_ids) - 1 : -1]
                logprobs = torch.log_softmax(logits, -1).gather(-1, ids[:, None])[:, 0]
                (advantage * logprobs.sum()).backward()
        expected = {name: p.grad for name, p in reference.named_parameters() if f".{role}." in name}
        actual = {name: p.grad for name, p in alora.lm.named_parameters() if f".{role}." in name}
        assert expected.keys() == actual.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(actual[name], gradient, atol=1e-5, rtol=1e-4)
        alora.lm.zero_grad(set_to_none=True)
        reference.zero_grad(set_to_none=True)


@pytest.mark.parametrize("role", ROLES)
def test_sampling_takes_the_tokens_that_peft_would_take(alora, peft_alora, role):
    alora.activate(role)
    prompts = [group.prompt_ids.tolist() for group in make_groups(role)]
    sampled = TransformersEngine().generate(alora, role, prompts, 1, Sampling(0.0, 1.0, 10), torch.Generator())
    for prompt, (completion,) in zip(prompts, sampled, strict=True):
        ids = torch.tensor([prompt])
        expected = peft_alora(role).generate(input_ids=ids, do_sample=False, max_new_tokens=10)[0, len(prompt) :]
        assert completion.ids.tolist() == expected.tolist()


def test_the_reference_of_an_activated_adapter_is_the_base_all_along(alora):
    alora.activate("planner")
    (batch,) = micro_batches(alora, make_groups("planner"), 1000)
    with torch.no_grad(), alora.without_adapters():
        reference = score(alora, batch)
    for i, sample in enumerate(batch.samples):
        sequence = torch.cat([sample.group.prompt_ids, sample.ids])[None]
        with torch.no_grad(), alora.without_adapters():
            logits = alora.lm(input_ids=sequence).logits[0, len(sample.group.prompt_ids) - 1 : -1]
        expected = torch.log_softmax(logits, -1).gather(-1, sample.ids[:, None])[:, 0]
        torch.testing.assert_close(reference.logprobs[i, : len(sample.ids)], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("adapter", ["lora", "alora"])
def test_kept_prefixes_give_what_running_them_again_gives(make_policy, adapter):
    policy = make_policy(adapter=adapter)
    policy.invocation = INVOCATION
    policy.activate("executor")
    prompts = [group.prompt_ids.tolist() for group in make_groups("executor")]

    def hidden():
        frozen = [policy.frozen_tokens(prompt) for prompt in prompts]
        rows = pack(prompts, 32, 1000, frozen, [len(prompt) - 1 for prompt in prompts])
        if adapter == "lora":
            for row in rows:
                row.freeze_trunk()
        with torch.no_grad():
            result = run(policy, rows)
        last = [(r, result.columns[r][path[-1]] - result.width) for r, row in enumerate(rows) for path in row.paths]
        return [result.hidden[r, place] for r, place in last]

    fresh = hidden()
    assert policy.prefixes.tokens
    again = hidden()
    for a, b in zip(fresh, again, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    # and they are really used: what is kept decides
    for root in policy.prefixes._roots.values():
        for segment, _ in _walk(root):
            segment.layers = [(keys + 1, values) for keys, values in segment.layers]
    assert any(not torch.allclose(a, b, atol=1e-3) for a, b in zip(fresh, hidden(), strict=True))


def test_prefixes_are_kept_by_maker_up_to_a_limit(make_policy):
    policy = make_policy(prefix_cache_tokens=30)
    policy.activate("planner")
    ids = np.arange(10, 30)
    rows = pack([ids.tolist()], 32, 100, context_tokens=[19])
    rows[0].freeze_trunk()
    with torch.no_grad():
        run(policy, rows)
        assert policy.prefixes.length("planner 0", ids) == policy.prefixes.tokens == 19
        policy.version["planner"] = 1  # other weights: what the old ones made is not used
        run(policy, rows)
        assert policy.prefixes.length("planner 1", ids) == 11  # there is no more room
        policy.begin_prefixes()  # nor are they kept any longer
        assert (policy.prefixes.length("planner 0", ids), policy.prefixes.tokens) == (0, 11)
        run(policy, rows)
    assert policy.prefixes.length("planner 1", ids) == policy.prefixes.tokens == 19


@pytest.mark.parametrize("adapter", ["lora", "alora"])
def test_of_prompts_that_go_on_only_what_is_new_is_read(make_policy, adapter):
    """As in a round: tasks that share a header, two plans of each, whose prompts get longer at each step."""
    keeping, forgetting = make_policy(adapter=adapter), make_policy(adapter=adapter, prefix_cache_tokens=0)
    keeping.invocation = forgetting.invocation = INVOCATION
    generator = torch.Generator().manual_seed(5)

    def text(n):
        return torch.randint(3, 250, (n,), generator=generator).tolist()

    def first_tokens(policy):
        sampling = Sampling(0.0, 1.0, 1)
        return TransformersEngine().generate(policy, "executor", prompts, 2, sampling, torch.Generator())

    words, header, read = INVOCATION["executor"], text(30), []
    prompts = [start + text(5) + words for start in [header + text(60) for _ in range(3)] for _ in range(2)]
    keeping.decoder.layers[0].register_forward_pre_hook(lambda module, args: read.append(args[0].shape[:2].numel()))
    for step in range(3):
        read.clear()
        found, expected = first_tokens(keeping), first_tokens(forgetting)
        for (ours, _), (theirs, _) in zip(found, expected, strict=True):
            assert ours.ids.tolist() == theirs.ids.tolist()
            torch.testing.assert_close(ours.logprobs, theirs.logprobs, atol=1e-5, rtol=1e-5)
        if step:
            # of each prompt what was added; with LoRA the last token before too, of which the hidden state had been wanted,
            # with activated LoRA the old words, which its adapter had read; and padding of rows that are not alike
            added = 10 + len(words) + (1 if adapter == "lora" else len(words))
            assert len(prompts) * 10 <= sum(read) <= 1.5 * len(prompts) * added
        prompts = [[*prompt, *text(10), *words] for prompt in prompts]
    assert forgetting.prefixes.tokens == 0


def test_a_prompt_without_the_words_that_activate_is_refused(alora):
    alora.activate("planner")
    assert alora.frozen_tokens([9, 251, 252, 9, 251, 252, 7]) == 4
    with pytest.raises(PolicyError, match=r"data\.prompts\.planner must start with words of its own"):
        alora.frozen_tokens([1, 251, 2, 252])
