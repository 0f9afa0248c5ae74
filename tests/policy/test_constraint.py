"""What is learnt from outputs within grammars: log-probabilities among the tokens that could come, found again from the ids."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("llguidance", reason="grammars need llguidance: pip install 'cahl-pl[constrained]'")

from cahl_pl.engines import TransformersEngine
from cahl_pl.engines.base import Sampling
from cahl_pl.errors import ConfigError
from cahl_pl.grpo.config import GRPOConfig
from cahl_pl.grpo.loss import Size, grpo_loss
from cahl_pl.policy.constraint import FORBIDDEN, Replay, compiler_of, forbid, forbidden
from cahl_pl.policy.endings import stop_ids
from cahl_pl.policy.logprobs import micro_batches, score
from cahl_pl.policy.reference import as_reference, keep_reference
from cahl_pl.types import Group

VOWELS = 'start: /[aeiou]{2,5}/ "." '
WORDS = 'start: ("yes" | "no" | /[0-9]{1,6}/) ("," ("yes" | "no"))*'
LIMIT = 9


def sampled_groups(policy, role="executor", temperature=1.0, samples=4):
    """Groups that the engine has sampled, each prompt within its own grammar; the first and the last have none."""
    policy.end_of_turn = policy.tokenizer.eos_token_id
    engine, sampling = TransformersEngine(batch_size=6), Sampling(temperature, max_new_tokens=LIMIT)
    prompts, grammars = [[5, 6, 7], [5, 6, 7, 8, 9], [60, 61]], [VOWELS, WORDS, WORDS]
    generator = torch.Generator().manual_seed(2)
    drafts = [()] * len(prompts)
    made = engine.generate_within(policy, role, prompts, drafts, grammars, sampling, generator, samples)
    assert [len(group) for group in made] == [samples] * 3
    free = engine.generate(policy, role, [[5, 6]], samples, sampling, generator)
    groups = []
    for i, (prompt, grammar, group) in enumerate(
        zip([*prompts, [5, 6]], [*grammars, None], [*made, *free], strict=True)
    ):
        advantages = torch.tensor([1.0, -0.5, 0.25, -0.75])[:samples]
        cut = torch.tensor([not c.ended for c in group])
        ids, logprobs = [c.ids for c in group], [c.logprobs for c in group]
        groups.append(Group(torch.tensor(prompt), ids, advantages, {}, advantages, cut, i, logprobs, grammar=grammar))
    return groups


def naive(policy, group, ids, temperature=1.0):
    """Log-probabilities [C] and entropies [C], by one plain pass and one matcher: logits of what may not come are left out."""
    sequence = torch.cat([group.prompt_ids, ids])[None]
    logits = policy.lm(input_ids=sequence, use_cache=False).logits[0, len(group.prompt_ids) - 1 : -1] / temperature
    matcher = None if group.grammar is None else compiler_of(policy).matcher(group.grammar)
    logprobs, entropies = [], []
    for row, token in zip(logits, ids.tolist(), strict=True):
        allowed = list(range(len(row)))
        if matcher is not None:
            if matcher.is_stopped():  # nothing can follow but the end
                allowed = sorted(stop_ids(policy))
            else:
                allowed = [i for i in allowed if matcher.deep_copy().try_consume_tokens([i])]
                matcher.try_consume_tokens([token])
        own = torch.log_softmax(row[allowed], -1)
        logprobs.append(own[allowed.index(token)])
        entropies.append(-(own.exp() * own).sum())
    return torch.stack(logprobs), torch.stack(entropies)


def gradients(policy, role):
    result = [p.grad.clone() for p in policy.parameters_of(role)]
    policy.lm.zero_grad(set_to_none=True)
    return result


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_ratio_is_1_on_policy_and_without_the_mask_it_is_not(policy, temperature):
    groups = sampled_groups(policy, temperature=temperature)
    policy.activate("executor")
    assert any(group.truncated.any() for group in groups)
    assert any(not group.truncated.all() for group in groups[:3])
    gaps, freely = [], []
    for part in micro_batches(policy, groups, 40):
        scored = score(policy, part, temperature)
        size = Size(len(part.samples), int(scored.mask.sum()))
        # as a later update of a batch sees it, which compares with what the engine noted
        _, stats = grpo_loss(
            scored.logprobs, part.logprobs, None, part.advantages, scored.mask, GRPOConfig(loss="grpo"), size
        )
        assert stats.ratio / stats.tokens == pytest.approx(1.0, abs=1e-5)
        gaps.append(((scored.logprobs - part.logprobs).exp() - 1).abs()[scored.mask].max().item())
        for sample in part.samples:
            sample.group.grammar, kept = None, sample.group.grammar
            (alone,) = micro_batches(policy, [sample.group], 10_000)
            if kept is not None:
                values = score(policy, alone, temperature)
                freely.append(((values.logprobs - alone.logprobs).exp())[values.mask].mean().item())
            sample.group.grammar = kept
    assert max(gaps) < 1e-5
    assert np.mean(freely) < 0.5  # what training on all tokens would have made of it


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")  # matters to merging, which nobody does here
@pytest.mark.parametrize(
    "config",
    [{}, {"gradient_checkpointing": True}, {"lora_targets": ["q_proj", "lm_head"]}, {"quantization": "nf4"}],
    ids=["plain", "checkpointing", "adapted output layer", "4 bits"],
)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_values_and_gradients_equal_a_naive_reference(make_policy, monkeypatch, config, temperature):
    monkeypatch.setattr("cahl_pl.policy.logprobs.LOGITS_AT_A_TIME", 5)
    monkeypatch.setattr("cahl_pl.policy.constraint.ROWS_AT_A_TIME", 2)
    monkeypatch.setattr("cahl_pl.policy.forward.SHORTEST_TRUNK", 2)
    policy = make_policy(**config)
    groups = sampled_groups(policy, temperature=temperature)
    policy.activate("executor")
    wanted = torch.zeros(())
    for group in groups:
        for ids, advantage in zip(group.completion_ids, group.advantages, strict=True):
            logprobs, entropies = naive(policy, group, ids, temperature)
            wanted = wanted + advantage * logprobs.sum() + 0.3 * entropies.sum()
    wanted.backward()
    expected = gradients(policy, "executor")
    found = 0.0
    with policy.training_mode():
        for part in micro_batches(policy, groups, 30):
            scored = score(policy, part, temperature, entropy_gradient=True)
            share = (scored.logprobs * part.advantages[:, None] + 0.3 * scored.entropy).mul(scored.mask).sum()
            share.backward()
            found += share.item()
    assert found == pytest.approx(wanted.item(), rel=1e-4, abs=1e-4)
    for own, other in zip(gradients(policy, "executor"), expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-3, atol=2e-5)


def test_a_base_that_caps_its_logits_is_masked_behind_the_cap(policy):
    policy.causal_lm.config.final_logit_softcapping = 2.0  # as Gemma 2 does
    groups = sampled_groups(policy)[:1]
    policy.activate("executor")
    (batch,) = micro_batches(policy, groups, 1000)
    scored = score(policy, batch)
    torch.testing.assert_close(scored.logprobs, batch.logprobs, atol=1e-5, rtol=0)
    (scored.logprobs * scored.mask).sum().backward()
    assert all(torch.isfinite(gradient).all() for gradient in gradients(policy, "executor"))


def test_the_reference_of_the_kl_divergence_is_masked_too(policy):
    """Two equal policies have a divergence of 0; a reference over all tokens would be far from one over few."""
    groups = sampled_groups(policy)
    keep_reference(policy, "executor")
    policy.activate("executor")
    (batch,) = micro_batches(policy, groups, 1000)
    with torch.no_grad(), as_reference(policy, "executor"):
        reference = score(policy, batch).logprobs
    scored = score(policy, batch)
    size = Size(len(batch.samples), int(scored.mask.sum()))
    _, stats = grpo_loss(
        scored.logprobs, None, reference, batch.advantages, scored.mask, GRPOConfig(loss="grpo", kl=1.0), size
    )
    assert stats.kl == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("name", ["Gemma 2", "Mamba 2", "Granite"])
def test_other_bases_are_scored_as_they_were_sampled(on_base, name):
    policy = on_base(name)
    groups = sampled_groups(policy, samples=2)
    policy.activate("executor")
    for batch in micro_batches(policy, groups, 1000):
        scored = score(policy, batch)
        torch.testing.assert_close(scored.logprobs, batch.logprobs, atol=2e-4, rtol=0)


def test_tokens_that_no_grammar_knows_may_not_come():
    logits = torch.zeros(2, 11)
    bits = np.array([[0b00000101], [0b11111111]], np.uint8)
    assert forbidden(bits, logits).int().tolist() == [[0, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1], [0] * 11]
    forbid(logits, bits)
    assert (logits == FORBIDDEN).int().tolist() == [[0, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1], [0] * 11]
    assert forbidden(bits, torch.zeros(2, 3)).int().tolist() == [[0, 1, 0], [0, 0, 0]]


def test_what_a_grammar_does_not_allow_is_one_sentence(policy):
    policy.end_of_turn = policy.tokenizer.eos_token_id
    replay = Replay(compiler_of(policy), [(torch.tensor([5, 6]), None), (torch.tensor([7]), VOWELS)])
    assert (replay.next(2) == 255).all()
    with pytest.raises(ConfigError, match="token 7 was sampled, but its grammar does not allow it where it stands"):
        replay.next(1)


def test_a_compiler_is_made_once_for_a_policy_and_again_for_another_end(policy):
    policy.end_of_turn = policy.tokenizer.eos_token_id
    first = compiler_of(policy)
    assert compiler_of(policy) is first
    policy.end_of_turn = 1
    assert compiler_of(policy) is not first
