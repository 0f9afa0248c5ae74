"""Shared-prefix log-probabilities and their gradients against one plain forward pass per sample."""

from __future__ import annotations

import weakref

import pytest
import torch

from cahl_pl.grpo.advantages import advantages
from cahl_pl.grpo.config import GRPOConfig
from cahl_pl.grpo.loss import Size, grpo_loss
from cahl_pl.policy.logprobs import micro_batches, score
from cahl_pl.types import Group


def make_groups(sizes=((7, (3, 5, 1)), (12, (4, 4)), (3, (6, 2, 9, 1)))):
    generator = torch.Generator().manual_seed(0)
    return [
        Group(
            prompt_ids=torch.randint(3, 250, (prompt,), generator=generator),
            completion_ids=[torch.randint(3, 250, (n,), generator=generator) for n in lengths],
            rewards=(rewards := torch.rand(len(lengths), generator=generator)),
            components={},
            advantages=advantages([rewards])[0],
            truncated=torch.zeros(len(lengths), dtype=torch.bool),
            comparison_id=i,
        )
        for i, (prompt, lengths) in enumerate(sizes)
    ]


def make_related_groups():
    """Prompts that extend one another, as a task's steps do; completions that start alike, repeat or hold one another."""
    generator = torch.Generator().manual_seed(3)
    text = torch.randint(3, 250, (60,), generator=generator)
    other = torch.randint(3, 250, (60,), generator=generator)
    prompts = [text[:20], torch.cat([text[:20], other[:6]]), torch.cat([text[:20], other[:6], text[30:33]]), other[:9]]
    endings = [other[:4], other[:4], other[:2], torch.cat([other[:3], text[40:47]]), text[50:51]]
    groups = []
    for i, prompt in enumerate(prompts):
        completions = [torch.cat([text[20:22], ending]) for ending in endings[: 5 - i]]
        rewards = torch.rand(len(completions), generator=generator)
        zeros = torch.zeros(len(completions))
        groups.append(Group(prompt, completions, rewards, {}, advantages([rewards])[0], zeros.bool(), i))
    return groups


@pytest.mark.parametrize("pad", ["<|im_end|>", "<|endoftext|>"])
def test_the_end_of_a_turn_counts_though_padding_may_have_its_id(policy, pad):
    policy.tokenizer.pad_token = pad
    end = policy.tokenizer.convert_tokens_to_ids("<|im_end|>")
    groups = make_groups()
    for group in groups:
        group.completion_ids = [torch.cat([ids, torch.tensor([end])]) for ids in group.completion_ids]
    policy.activate("planner")
    for batch in micro_batches(policy, groups, 1000):
        scored = score(policy, batch)
        for i, sample in enumerate(batch.samples):
            assert scored.mask[i].sum() == len(sample.ids)
            expected = naive_logprobs(policy, sample.group, sample.ids)
            torch.testing.assert_close(scored.logprobs[i, : len(sample.ids)], expected, atol=1e-4, rtol=0)


def naive_logprobs(policy, group, ids, temperature=1.0):
    """One sample, one forward pass, no cache, no padding."""
    sequence = torch.cat([group.prompt_ids, ids])[None]
    logits = policy.lm(input_ids=sequence, use_cache=False).logits[0, len(group.prompt_ids) - 1 : -1]
    return torch.log_softmax(logits / temperature, -1).gather(-1, ids[:, None])[:, 0]


def gradients(policy, role):
    result = [p.grad.clone() for p in policy.parameters_of(role)]
    policy.lm.zero_grad(set_to_none=True)
    return result


@pytest.mark.parametrize("shortest_trunk", [2, 1000], ids=["trunks", "no trunks"])
@pytest.mark.parametrize("make", [make_groups, make_related_groups])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("role", ["planner", "executor"])
@pytest.mark.parametrize("loss_name", ["grpo", "dr_grpo", "dapo", "gspo"])
def test_loss_and_gradients_equal_the_naive_reference(
    make_policy, monkeypatch, role, loss_name, checkpointing, make, shortest_trunk
):
    monkeypatch.setattr("cahl_pl.policy.forward.SHORTEST_TRUNK", shortest_trunk)
    policy = make_policy(gradient_checkpointing=checkpointing)
    groups, config = make(), GRPOConfig(loss=loss_name, max_completion_length=9)
    count = sum(len(g.completion_ids) for g in groups)
    tokens = sum(len(ids) for g in groups for ids in g.completion_ids)
    policy.activate(role)

    total = 0.0
    with policy.training_mode():
        for part in micro_batches(policy, groups, 60):
            scores = score(policy, part, 0.8)
            share, _ = grpo_loss(scores.logprobs, None, None, part.advantages, scores.mask, config, Size(count, tokens))
            share.backward()
            total += share.item()
    fast = gradients(policy, role)

    naive = 0.0
    for group in groups:
        for ids, advantage in zip(group.completion_ids, group.advantages, strict=True):
            logprobs = naive_logprobs(policy, group, ids, 0.8)
            ratio = (logprobs - logprobs.detach()).exp()
            if loss_name == "gspo":
                ratio = (logprobs.mean() - logprobs.mean().detach()).exp()[None]
            value = {
                "grpo": ratio.mean() / count,
                "gspo": ratio.mean() / count,
                "dr_grpo": ratio.sum() / (count * 9),
                "dapo": ratio.sum() / tokens,
            }[loss_name]
            naive = naive - advantage * value
    naive.backward()
    assert total == pytest.approx(naive.item(), abs=1e-5)
    for a, b in zip(fast, gradients(policy, role), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("make", [make_groups, make_related_groups])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_on_a_4_bit_base_equal_the_naive_reference(make_policy, monkeypatch, checkpointing, make):
    monkeypatch.setattr("cahl_pl.policy.forward.SHORTEST_TRUNK", 2)
    policy, groups = make_policy(gradient_checkpointing=checkpointing, quantization="nf4"), make()
    policy.activate("executor")
    with policy.training_mode():
        for part in micro_batches(policy, groups, 60):
            scores = score(policy, part)
            (scores.logprobs * part.advantages[:, None] * scores.mask).sum().backward()
    fast = gradients(policy, "executor")
    for group in groups:
        for ids, advantage in zip(group.completion_ids, group.advantages, strict=True):
            (advantage * naive_logprobs(policy, group, ids).sum()).backward()
    for a, b in zip(fast, gradients(policy, "executor"), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shortest_trunk", [2, 1000], ids=["trunks", "no trunks"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("make", [make_groups, make_related_groups])
def test_values_and_mask(make_policy, monkeypatch, make, attention, shortest_trunk):
    monkeypatch.setattr("cahl_pl.policy.forward.SHORTEST_TRUNK", shortest_trunk)
    policy, groups = make_policy(attention=attention), make()
    (batch,) = micro_batches(policy, groups, 1_000)
    scores = score(policy, batch)
    assert len(batch.samples) == sum(len(group.completion_ids) for group in groups)
    for i, sample in enumerate(batch.samples):
        n = len(sample.ids)
        assert scores.mask[i].sum() == n
        expected = naive_logprobs(policy, sample.group, sample.ids)
        torch.testing.assert_close(scores.logprobs[i, :n], expected, atol=1e-5, rtol=1e-5)
        assert (scores.logprobs[i, n:] == 0).all()
        assert (scores.entropy[i, :n] > 0).all()


def test_micro_batches_keep_every_sample_once_within_the_budget(policy):
    groups = make_groups()
    batches = list(micro_batches(policy, groups, 24))
    assert len(batches) > 1
    samples = [(sample.group.comparison_id, sample.index) for batch in batches for sample in batch.samples]
    assert sorted(samples) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2), (2, 3)]
    assert all(len(batch.rows) * max(len(row.ids) for row in batch.rows) <= 24 for batch in batches)
    assert len(list(micro_batches(policy, groups, 1_000_000))) == 1


def test_a_long_prompt_is_run_first_and_without_a_mask(policy, monkeypatch):
    def shape(intervals):
        return (*intervals.queries.shape, intervals.keys.shape[1])

    seen = []
    mask = policy.attention_mask
    monkeypatch.setattr(
        policy, "attention_mask", lambda seen_by, *at: seen.append(shape(seen_by)) or mask(seen_by, *at)
    )
    (batch,) = micro_batches(policy, make_groups(((80, (3, 4)), (70, (6, 2)), (90, (5,)))), 1_000)
    score(policy, batch)
    longest, trunk = 90 + 5 - 1, 70 - 1  # a prompt's last token predicts, so that it is not of the trunk
    assert seen == [(3, longest - trunk, longest)]


@pytest.mark.parametrize("adapter", ["lora", "alora"])
def test_of_a_prompt_the_last_layer_makes_keys_and_values_only(make_policy, adapter):
    policy = make_policy(adapter=adapter)
    policy.invocation = {"planner": [251, 252], "executor": [251, 252]}
    policy.activate("planner")
    groups = make_groups(((80, (3, 4)), (80, (6, 2))))
    for group in groups:
        group.prompt_ids[-4:-2] = torch.tensor([251, 252])
    tokens = {}
    for i in (0, -1):
        layer = policy.causal_lm.base_model.layers[i].mlp
        layer.register_forward_pre_hook(
            lambda _, args, i=i: tokens.update({i: tokens.get(i, 0) + args[0][..., 0].numel()})
        )
    (batch,) = micro_batches(policy, groups, 1_000)
    score(policy, batch)
    trunk = 79 if adapter == "lora" else 76
    rest = 80 - trunk + 2 + 3, 80 - trunk + 5 + 1  # the last token of a completion predicts nothing
    assert tokens == {0: 2 * (trunk + max(rest)), -1: 2 * max(rest)}


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")  # matters to merging, which nobody does here
def test_log_probabilities_of_an_adapted_output_layer_train_it_too(make_policy, monkeypatch):
    monkeypatch.setattr("cahl_pl.policy.logprobs.LOGITS_AT_A_TIME", 5)
    policy, groups = make_policy(lora_targets=["q_proj", "lm_head"]), make_groups()
    policy.activate("planner")
    (batch,) = micro_batches(policy, groups, 1_000)
    (score(policy, batch).logprobs * batch.advantages[:, None]).sum().backward()
    fast = gradients(policy, "planner")
    for group in groups:
        for ids, advantage in zip(group.completion_ids, group.advantages, strict=True):
            (advantage * naive_logprobs(policy, group, ids).sum()).backward()
    for a, b in zip(fast, gradients(policy, "planner"), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("temperature", [0, 0.8, 1])
def test_a_few_logits_at_a_time_give_the_same_and_none_are_left_when_the_next_are_made(
    make_policy, monkeypatch, temperature
):
    policy, groups = make_policy(), make_groups()
    policy.activate("planner")
    (batch,) = micro_batches(policy, groups, 1_000)
    seen, logits = [], policy.logits
    results = []

    def watched(hidden):
        assert not any(ref() is not None for ref in seen)
        made = logits(hidden)
        seen.append(weakref.ref(made))
        return made

    monkeypatch.setattr(policy, "logits", watched)
    for at_a_time in (1_000, 3):
        monkeypatch.setattr("cahl_pl.policy.logprobs.LOGITS_AT_A_TIME", at_a_time)
        seen.clear()
        scores = score(policy, batch, temperature)
        (scores.logprobs * batch.advantages[:, None]).sum().backward()
        results.append([scores.logprobs.detach(), scores.entropy, *gradients(policy, "planner")])
    assert len(seen) == -(-sum(len(sample.ids) for sample in batch.samples) // 3)
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_scores_without_gradient_are_those_with(policy):
    (batch,) = micro_batches(policy, make_groups(), 1_000)
    scores = score(policy, batch, 0.7)
    with torch.no_grad():
        plain = score(policy, batch, 0.7)
    assert scores.logprobs.requires_grad
    assert not plain.logprobs.requires_grad
    assert not scores.entropy.requires_grad
    torch.testing.assert_close(scores.logprobs.detach(), plain.logprobs, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(scores.entropy, plain.entropy, atol=1e-6, rtol=1e-6)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")  # as above
@pytest.mark.parametrize("adapted_output", [False, True], ids=["frozen output layer", "adapted output layer"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_gradient_of_the_entropy_equals_the_naive_reference(make_policy, monkeypatch, adapted_output, temperature):
    monkeypatch.setattr("cahl_pl.policy.logprobs.LOGITS_AT_A_TIME", 3)
    targets = ["q_proj", "lm_head"] if adapted_output else "all-linear"
    policy = make_policy(lora_targets=targets)
    policy.activate("planner")
    groups = make_groups()
    factors = torch.rand(30, generator=torch.Generator().manual_seed(1))  # another for each token

    def total(values, number):
        return (values * factors[: len(values)]).sum() * (number + 1)

    wanted = torch.zeros(())
    for number, group in enumerate(groups):
        for ids in group.completion_ids:
            sequence = torch.cat([group.prompt_ids, ids])[None]
            logits = policy.lm(input_ids=sequence, use_cache=False).logits[0, len(group.prompt_ids) - 1 : -1]
            logprobs = torch.log_softmax(logits / temperature, -1)
            chosen = logprobs.gather(-1, ids[:, None])[:, 0]
            wanted = wanted + total(-(logprobs.exp() * logprobs).sum(-1), number) + 0.3 * total(chosen, number)
    wanted.backward()
    expected = gradients(policy, "planner")
    found = 0.0
    for part in micro_batches(policy, groups, 40):
        scored = score(policy, part, temperature, entropy_gradient=True)
        share = torch.zeros(())
        for sample, entropy, logprobs in zip(part.samples, scored.entropy, scored.logprobs, strict=True):
            length, number = len(sample.ids), sample.group.comparison_id
            share = share + total(entropy[:length], number) + 0.3 * total(logprobs[:length], number)
        share.backward()
        found += share.item()
    assert found == pytest.approx(wanted.item(), rel=1e-5)
    for own, other in zip(gradients(policy, "planner"), expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)
