"""Sampling against transformers' own generate, and its log-probabilities against those of the loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cahl_pl.engines.base import Sampling
from cahl_pl.engines.drawing import NOT_A_NUMBER, draw, draw_places
from cahl_pl.engines.local import TransformersEngine
from cahl_pl.errors import ConfigError
from cahl_pl.policy.logprobs import micro_batches, score
from cahl_pl.types import Group

# the first and the last share what they start with: they are read in one row
PROMPTS = [list(range(10, 30)), list(range(40, 47)), list(range(100, 133)), [*range(10, 27), *range(60, 70)]]


def generate(policy, sampling, num_samples=3, batch_size=64, seed=0, role="planner"):
    generator = torch.Generator().manual_seed(seed)
    return TransformersEngine(batch_size).generate(policy, role, PROMPTS, num_samples, sampling, generator)


def test_greedy_tokens_equal_generate(policy):
    policy.activate("planner")
    for prompt, (completion,) in zip(PROMPTS, generate(policy, Sampling(0.0, 1.0, 12), 1), strict=True):
        ids = torch.tensor([prompt])
        expected = policy.lm.generate(input_ids=ids, do_sample=False, max_new_tokens=12)[0, len(prompt) :]
        assert completion.ids.tolist() == expected.tolist()


@pytest.mark.parametrize("role", ["planner", "executor"])
def test_sampling_logprobs_are_those_of_the_loss(policy, role):
    samples = generate(policy, Sampling(0.7, 1.0, 40), role=role)
    groups = [
        Group(torch.tensor(p), [c.ids for c in cs], torch.zeros(3), {}, torch.zeros(3), torch.zeros(3), i)
        for i, (p, cs) in enumerate(zip(PROMPTS, samples, strict=True))
    ]
    policy.activate(role)
    (batch,) = micro_batches(policy, groups, 10_000)
    with torch.no_grad():
        scores = score(policy, batch, 0.7)
    for row, sample in enumerate(batch.samples):
        logprobs = samples[sample.group.comparison_id][sample.index].logprobs
        torch.testing.assert_close(scores.logprobs[row, : len(logprobs)], logprobs, atol=1e-4, rtol=1e-4)


def test_same_seed_same_tokens_and_batches_do_not_mix_prompts(policy):
    one = generate(policy, Sampling(1.0, 1.0, 20))
    two = generate(policy, Sampling(1.0, 1.0, 20))
    assert [[c.ids.tolist() for c in cs] for cs in one] == [[c.ids.tolist() for c in cs] for cs in two]
    assert len({tuple(c.ids.tolist()) for cs in one for c in cs}) > 1
    greedy = generate(policy, Sampling(0.0, 1.0, 12), 1, batch_size=64)
    in_turns = generate(policy, Sampling(0.0, 1.0, 12), 1, batch_size=1)
    assert [c[0].ids.tolist() for c in greedy] == [c[0].ids.tolist() for c in in_turns]


def test_prompts_read_in_several_passes_are_continued_together(policy, monkeypatch):
    import cahl_pl.engines.local as engine

    passes, decoded = [], []
    run, decode = engine.run, engine._decode
    monkeypatch.setattr(engine, "run", lambda *a, **k: passes.append(len(a[1])) or run(*a, **k))
    monkeypatch.setattr(engine, "_decode", lambda *a: decoded.append(len(a[1].logits)) or decode(*a))
    sampling = Sampling(0.0, 1.0, 12)
    whole = generate(policy, sampling, 2)
    passes.clear(), decoded.clear()
    small = TransformersEngine(64, max_prefill_tokens=20)  # the shortest prompt has 7 tokens, the longest row 40
    parts = small.generate(policy, "planner", PROMPTS, 2, sampling, torch.Generator().manual_seed(0))
    assert len(passes) > 1
    assert decoded == [len(PROMPTS)]
    assert [[c.ids.tolist() for c in cs] for cs in parts] == [[c.ids.tolist() for c in cs] for cs in whole]


@pytest.mark.parametrize("adapter", ["lora", "alora"])
def test_drafts_never_change_what_is_sampled(make_policy, monkeypatch, adapter):
    import cahl_pl.engines.local as engine

    policy = make_policy(adapter=adapter)
    policy.invocation = {"planner": [251, 252], "executor": [253, 252]}
    prompts = [[*prompt, 251, 252, 7] for prompt in PROMPTS]
    sampling, generator = Sampling(0.0, 1.0, 12), torch.Generator()
    plain = [c for (c,) in TransformersEngine().generate(policy, "planner", prompts, 1, sampling, generator)]
    decoded = []
    decode = engine._decode
    monkeypatch.setattr(engine, "_decode", lambda *a: decoded.append(len(a[1].logits)) or decode(*a))
    own = [c.ids.tolist() for c in plain]
    assert [len(ids) for ids in own] == [12, 12, 12, 4]  # the last one ends by itself
    wrong = [*own[1][:4], (own[1][4] + 1) % 250, *own[1][5:]]
    for drafts, left in (
        (own, []),  # all as drafted
        ([[*ids, 9, 9] for ids in own], []),  # longer than the limit
        ([own[0], wrong, [], own[3][:2]], [3]),  # one wrong in its middle, one without, one too short
        ([[], [], [], []], [4]),
    ):
        decoded.clear()
        found = TransformersEngine().generate_from_drafts(policy, "planner", prompts, drafts, sampling, generator)
        assert decoded == left
        for (completion,), expected in zip(found, plain, strict=True):
            assert completion.ids.tolist() == expected.ids.tolist()
            assert completion.ended == expected.ended
            torch.testing.assert_close(completion.logprobs, expected.logprobs, atol=1e-5, rtol=1e-5)


def test_a_draft_ends_where_the_model_ends(policy, monkeypatch):
    import cahl_pl.engines.local as engine

    policy.activate("planner")
    sampling, generator = Sampling(0.0, 1.0, 12), torch.Generator()
    ((plain,),) = TransformersEngine().generate(policy, "planner", PROMPTS[:1], 1, sampling, generator)
    own = plain.ids.tolist()
    monkeypatch.setattr(engine, "stop_ids", lambda policy: {own[4]})  # the fifth token would have ended it
    first = own.index(own[4])
    for draft in (own, own[: first + 1], own[:first], own[:2], [own[0] + 1]):
        ((found,),) = TransformersEngine().generate_from_drafts(
            policy, "planner", PROMPTS[:1], [draft], sampling, generator
        )
        assert found.ids.tolist() == own[: first + 1]
        assert found.ended
        assert len(found.logprobs) == first + 1


def test_with_a_temperature_drafts_are_not_looked_at(policy):
    sampling = Sampling(1.0, 1.0, 12)
    expected = TransformersEngine().generate(policy, "planner", PROMPTS, 1, sampling, torch.Generator().manual_seed(1))
    drafts = [[5, 6]] * len(PROMPTS)
    found = TransformersEngine().generate_from_drafts(
        policy, "planner", PROMPTS, drafts, sampling, torch.Generator().manual_seed(1)
    )
    assert [c.ids.tolist() for (c,) in found] == [c.ids.tolist() for (c,) in expected]


def test_a_completion_ends_with_its_stop_token_or_at_the_limit(policy):
    stop = policy.tokenizer.eos_token_id
    # at a high temperature the stop token turns up early in some samples and not at all in others
    completions = [c for cs in generate(policy, Sampling(3.0, 1.0, 120), 8) for c in cs]
    assert {c.ended for c in completions} == {True, False}
    for c in completions:
        assert len(c.ids) == len(c.logprobs)
        assert stop not in c.ids[:-1].tolist()
        assert c.ended == (c.ids[-1].item() == stop)
        assert c.ended or len(c.ids) == 120


def test_top_p_keeps_only_likely_tokens(policy):
    completions = [c for cs in generate(policy, Sampling(1.0, 1e-6, 8), 2) for c in cs]
    greedy = [c for cs in generate(policy, Sampling(0.0, 1.0, 8), 1) for c in cs]
    assert [c.ids.tolist() for c in completions[::2]] == [c.ids.tolist() for c in greedy]


def test_tokens_are_drawn_as_often_as_their_probabilities_say():
    logits = torch.tensor([0.5, 0.0, 0.3, 0.2]).log().expand(20_000, 4)
    token, logprob = draw(logits, Sampling(1.0, 1.0, 1), torch.Generator().manual_seed(0))
    shares = token.bincount(minlength=4) / len(token)
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.0, 0.3, 0.2]), atol=0.015, rtol=0)
    assert shares[1] == 0
    torch.testing.assert_close(logprob, logits[0][token])
    squared, _ = draw(logits, Sampling(0.5, 1.0, 1), torch.Generator().manual_seed(0))  # p^2, of which the sum is 0.38
    assert (squared == 0).float().mean() == pytest.approx(0.25 / 0.38, abs=0.015)
    likely, _ = draw(logits, Sampling(1.0, 0.6, 1), torch.Generator().manual_seed(0))  # 0.5 is not enough, 0.8 is
    assert set(likely.tolist()) == {0, 2}


def test_logits_that_are_not_numbers_are_reported(policy, monkeypatch):
    token, _ = draw(torch.tensor([[0.0, float("nan")], [0.0, -99.0]]), Sampling(1.0, 1.0, 1), torch.Generator())
    assert token.tolist() == [NOT_A_NUMBER, 0]
    logits = policy.logits
    monkeypatch.setattr(policy, "logits", lambda hidden: logits(hidden).index_fill(-1, torch.tensor([7]), float("nan")))
    with pytest.raises(ConfigError, match="no token can be drawn"):
        generate(policy, Sampling(1.0, 1.0, 3))


def test_places_without_a_completion_take_no_random_numbers():
    logits = torch.randn(3, 2, 50, generator=torch.Generator().manual_seed(0))
    busy = np.array([[True, False], [False, False], [True, True]])
    token, logprob = draw_places(logits, busy, Sampling(0.9, 0.8, 1), torch.Generator().manual_seed(1))
    alone = draw(logits[torch.from_numpy(busy)], Sampling(0.9, 0.8, 1), torch.Generator().manual_seed(1))
    assert token[torch.from_numpy(busy)].tolist() == alone[0].tolist()
    torch.testing.assert_close(logprob[torch.from_numpy(busy)], alone[1])


def test_bad_sampling_is_refused():
    with pytest.raises(ValueError, match="temperature"):
        Sampling(temperature=-1.0)
    with pytest.raises(ValueError, match="temperature"):
        Sampling(temperature=float("nan"))
