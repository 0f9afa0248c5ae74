"""Thoughts that are counted and limited: what was sampled is scored, what was put there is not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import cahl_pl.rollout.two_level
from cahl_pl.engines import Completion, Sampling, TransformersEngine
from cahl_pl.engines.base import Engine
from cahl_pl.environments import RecordedEnvironment
from cahl_pl.errors import ConfigError
from cahl_pl.grpo.config import GRPOConfig
from cahl_pl.grpo.loss import Size, grpo_loss, supervised_loss
from cahl_pl.grpo.selection import select
from cahl_pl.policy.logprobs import micro_batches, score
from cahl_pl.prompts import PromptBuilder, PromptConfig
from cahl_pl.rewards.executor import ExecutorReward
from cahl_pl.rewards.planner import PlannerReward
from cahl_pl.rollout import thinking
from cahl_pl.rollout.config import InferenceConfig, RolloutConfig
from cahl_pl.rollout.episode import make_group
from cahl_pl.rollout.evaluation import greedy, make_player
from cahl_pl.rollout.scoring import round_metrics
from cahl_pl.rollout.two_level import Rollout
from cahl_pl.types import ROLES, Message, Plan, SubTask, Task, ToolSpec

PROMPTS = {"tool_format": "names", "system": "Tools:", "planner": "Plan", "executor": "Do {subtask}"}
LIMIT, CLOSING = 5, "\n</think>\n\n"
SAMPLING = Sampling(max_new_tokens=24, max_thinking_tokens=LIMIT)


@pytest.fixture
def builder_of(tiny_model):
    """Makes builders whose template ends its generation prompt with some text; a token is a byte."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny_model)

    def make(opening):
        template = tokenizer.chat_template.replace("<|im_start|>assistant\n{%", f"<|im_start|>assistant\n{opening}{{%")
        return PromptBuilder(tokenizer, PromptConfig(**PROMPTS, chat_template=template))

    return make


@pytest.fixture
def builder(builder_of):
    return builder_of("<think>\n")


class Scripted(Engine):
    """Writes what it is given: a text a call, cut at the limit; a text that is whole ends its turn."""

    def __init__(self, builder, *texts):
        self.builder, self.texts, self.asked = builder, list(texts), []

    def generate(self, policy, role, prompts, num_samples, sampling, generator):
        self.asked.append((prompts, sampling))
        return [[self._write(sampling.max_new_tokens) for _ in range(num_samples)] for _ in prompts]

    def _write(self, limit):
        ids = [*self.builder._data(self.texts.pop(0)), self.builder.end_of_turn]
        kept = torch.tensor(ids[:limit])
        return Completion(kept, torch.full((len(kept),), -0.5), len(ids) <= limit)


class _Anywhere:
    limits_length = False


def generate(builder, *texts, sampling=SAMPLING, count=1, policy=_Anywhere):
    engine = Scripted(builder, *texts)
    groups = thinking.generate(engine, policy, builder, "planner", [[1, 2]], count, sampling, torch.Generator())
    return groups[0], engine


def test_a_thought_that_reaches_its_limit_is_closed_and_answered_from(builder):
    (completion,), engine = generate(builder, "hmmmmmmm", "yes")
    assert builder.decode(completion.ids.tolist()) == f"<think>\nhmmmm{CLOSING}yes"
    assert completion.ended
    # 5 sampled bytes of thought, 11 of the closing words, 3 of the answer and its end
    assert completion.sampled.tolist() == [True] * LIMIT + [False] * len(CLOSING) + [True] * 4
    assert completion.logprobs.tolist() == [-0.5] * LIMIT + [0.0] * len(CLOSING) + [-0.5] * 4
    assert completion.thinking_tokens == LIMIT
    (_, first), (prompts, second) = engine.asked
    assert (first.max_new_tokens, second.max_new_tokens) == (LIMIT, 24 - LIMIT - len(CLOSING))
    assert first.max_thinking_tokens is second.max_thinking_tokens is None
    assert prompts == [[1, 2, *builder._data(f"hmmmm{CLOSING}")]]


def test_an_output_is_no_longer_than_its_limit(builder):
    (completion,), _ = generate(builder, "hmmmmmmm", "y" * 50)
    assert len(completion.ids) == 24
    assert not completion.ended


def test_what_is_no_thought_or_a_short_one_goes_on_as_it_was(builder, builder_of):
    (short,), engine = generate(
        builder, "h</think>ok", "ink>ok", sampling=Sampling(max_new_tokens=60, max_thinking_tokens=12)
    )
    assert builder.decode(short.ids.tolist()) == "<think>\nh</think>ok"
    assert short.sampled is None
    assert short.thinking_tokens == len("h</think>")
    assert len(engine.asked) == 2 or short.ended
    plain = builder_of("")
    (answer,), engine = generate(plain, "hello, no thought", " and so on")
    assert plain.decode(answer.ids.tolist()) == "hello and so on"  # the limit of a thought cuts nothing else
    assert (answer.sampled, answer.thinking_tokens, len(engine.asked)) == (None, 0, 2)
    assert len(engine.asked[1][0][0]) == 2 + LIMIT
    own = Sampling(max_new_tokens=60, max_thinking_tokens=11)
    (opened,), _ = generate(plain, "<think>hmmmmmmm", "yes", sampling=own)
    assert plain.decode(opened.ids.tolist()) == f"<think>hmmm{CLOSING}yes"
    assert opened.thinking_tokens == 11


def test_an_output_that_ended_is_left_alone_and_without_a_limit_nothing_changes(builder):
    (completion,), engine = generate(builder, "hm")
    assert (completion.ended, completion.sampled, len(engine.asked)) == (True, None, 1)
    (completion,), engine = generate(builder, "hmmm</think>yes", sampling=Sampling(max_new_tokens=24))
    assert (completion.thinking_tokens, completion.sampled, len(engine.asked)) == (len("hmmm</think>"), None, 1)
    (never_closed,), _ = generate(builder, "h" * 50, sampling=Sampling(max_new_tokens=24))
    assert never_closed.thinking_tokens == 24


def test_closing_words_that_have_begun_are_finished(builder):
    (completion,), _ = generate(
        builder, "hm\n</think>", "yes", sampling=Sampling(max_new_tokens=30, max_thinking_tokens=6)
    )
    assert builder.decode(completion.ids.tolist()) == f"<think>\nhm{CLOSING}yes"
    assert completion.sampled.tolist() == [True] * 6 + [False] * (len(CLOSING) - 4) + [True] * 4


@pytest.mark.parametrize("limits_length", [False, True])
def test_closed_thoughts_and_others_go_on_side_by_side(builder, limits_length):
    class Policy:
        pass

    Policy.limits_length = limits_length
    texts = ["hmmmmmm", "a</think>b", "yes", "s"] if not limits_length else ["hmmmmmm", "x" * 9, "u", "v"]
    group, engine = generate(builder, *texts, count=2, policy=Policy)
    assert len(group) == 2
    assert all(len(c.ids) <= 24 and len(c.ids) == len(c.logprobs) for c in group)
    assert len(engine.asked) == 2


@pytest.mark.parametrize("limit", [0, -1, 24, 25])
def test_a_limit_that_leaves_no_thought_or_no_answer_is_refused(limit):
    with pytest.raises(
        ValueError, match=f"max_thinking_tokens of at least 1 and below max_new_tokens = 24.*not {limit}"
    ):
        Sampling(max_new_tokens=24, max_thinking_tokens=limit)


def test_a_limit_that_leaves_no_room_to_close_a_thought_is_refused(builder):
    sampling = Sampling(max_new_tokens=LIMIT + len(CLOSING), max_thinking_tokens=LIMIT)
    with pytest.raises(
        ConfigError, match=r"data\.rollout\.planner\.max_thinking_tokens = 5 .* takes 11 to be closed"
    ) as raised:
        generate(builder, "hm", sampling=sampling)
    assert "\n" not in str(raised.value)
    assert "shows no thoughts" not in str(raised.value)


def test_where_the_template_has_no_thoughts_the_refusal_says_so(builder_of):
    sampling = Sampling(max_new_tokens=LIMIT + len(CLOSING), max_thinking_tokens=LIMIT)
    with pytest.raises(
        ConfigError, match=r"the chat template shows no thoughts; without them, leave max_thinking_tokens out"
    ):
        generate(builder_of(""), "hm", sampling=sampling)


def test_a_limit_on_thoughts_in_marks_that_are_not_known_is_refused(builder_of):
    builder = builder_of("")
    builder.template.hides_thoughts = True
    with pytest.raises(
        ConfigError, match=r"data\.rollout\.planner\.max_thinking_tokens is 5, but .* not known here.*leave it out"
    ):
        generate(builder, "hm")


def test_evaluation_keeps_the_limit(builder):
    config = greedy(RolloutConfig(planner=SAMPLING, executor=replace(SAMPLING, max_thinking_tokens=3)))
    assert (config.planner.max_thinking_tokens, config.executor.max_thinking_tokens) == (LIMIT, 3)
    assert (config.planner.temperature, config.executor.max_new_tokens) == (0.0, 24)
    rollout = Rollout(Scripted(builder), None, PlannerReward(), ExecutorReward(), RolloutConfig(planner=SAMPLING))
    assert make_player(rollout, InferenceConfig(plans=3), False).config.planner.max_thinking_tokens == LIMIT


# --- the road of training ------------------------------------------------------------------------------------------


@pytest.fixture
def played(builder, make_policy, monkeypatch):
    """Plays a round of a random model, every output of which is a thought that has to be closed."""

    def plan(text):
        return Plan((SubTask("one", "tool"), SubTask("two", None)))

    monkeypatch.setattr(cahl_pl.rollout.two_level, "parse_plan", plan)

    def play(adapter="lora"):
        policy = make_policy(adapter=adapter)
        policy.invocation = {role: builder.invocation(role) for role in ROLES}
        policy.end_of_turn = builder.end_of_turn
        config = RolloutConfig(2, 3, max_steps=2, planner=SAMPLING, executor=SAMPLING)
        rollout = Rollout(TransformersEngine(), RecordedEnvironment(), PlannerReward(), ExecutorReward(), config)
        tool = ToolSpec("tool", "Use it.", {"type": "object", "properties": {}})
        tasks = [Task(name, (Message("user", f"Go {name}"),), (tool,)) for name in ("a", "b")]
        return policy, rollout.run(policy, builder, tasks, torch.Generator().manual_seed(1))

    return play


@pytest.mark.parametrize("adapter", ["lora", "alora"])
def test_what_was_sampled_is_scored_as_it_was_sampled_and_nothing_else(played, builder, adapter):
    policy, result = played(adapter)
    closing = list(builder.end_of_thought)
    closed = 0
    for role in ROLES:
        policy.activate(role)
        groups = result.groups[role]
        assert groups
        for batch in micro_batches(policy, groups, 100_000):
            scored = score(policy, batch)
            for i, sample in enumerate(batch.samples):
                length = len(sample.ids)
                own = sample.group.logprobs[sample.index]
                mask = scored.mask[i, :length]
                assert torch.equal(mask, sample.sampled)
                torch.testing.assert_close(scored.logprobs[i, :length][mask], own[mask], atol=1e-4, rtol=0)
                assert (own[~mask] == 0).all()
                put = sample.ids[~mask].tolist()
                assert put == closing[len(closing) - len(put) :]  # a part of it may have been sampled
                closed += int((~mask).any())
                assert int(mask.sum()) + int((~mask).sum()) <= SAMPLING.max_new_tokens
        selected = select(groups, {g.comparison_id for g in groups}, GRPOConfig())
        assert selected.size.tokens == sum(int(m.sum()) for g in groups for m in (g.sampled or []))
    assert closed > 5
    metrics = round_metrics(result)
    for role in ROLES:
        assert 0 < metrics[f"{role}/length/thinking"] <= LIMIT
    episode = result.trajectories[0]
    assert 0 < episode.plan_thinking_tokens <= LIMIT
    assert all(0 < step.thinking_tokens <= LIMIT for step in episode.steps)


def test_prompts_of_later_steps_hold_the_very_tokens_of_earlier_ones(played, builder):
    _, result = played()
    groups = result.groups["executor"]
    first, second = ([g for g in groups if g.comparison_id % 2 == step] for step in (0, 1))
    assert len(first) == len(second) == 4
    for group in second:
        prompt = group.prompt_ids.tolist()
        (before,) = [g for g in first if g.comparison_id == group.comparison_id - 1]
        start = before.prompt_ids.tolist()
        assert any(prompt[: len(start) + len(ids)] == [*start, *ids.tolist()] for ids in before.completion_ids)


def test_put_tokens_move_nothing(make_policy, builder):
    """The gradient is that of the sampled tokens alone, worked out one by one."""
    policy = make_policy()
    policy.activate("planner")
    prompt = builder._data("a prompt")
    ids = torch.tensor([*builder._data("hm"), *builder.end_of_thought, *builder._data("yes"), builder.end_of_turn])
    sampled = torch.ones(len(ids), dtype=torch.bool)
    sampled[2 : 2 + len(CLOSING)] = False
    logprobs = torch.where(sampled, -1.0, 0.0)
    group = make_group(prompt, [Completion(ids, logprobs, True, sampled)], [1.0], [{}], 0)
    group.advantages = torch.tensor([2.0])
    (batch,) = micro_batches(policy, [group], 1000)

    def gradient(loss):
        policy.lm.zero_grad()
        loss.backward()
        return torch.cat([p.grad.flatten() for p in policy.parameters_of("planner")])

    scored = score(policy, batch)
    loss, stats = grpo_loss(
        scored.logprobs, None, None, batch.advantages, scored.mask, GRPOConfig(loss="grpo"), Size(1, 6)
    )
    assert stats.tokens == 6
    own = gradient(loss)
    whole = policy.causal_lm(torch.tensor([[*prompt, *ids.tolist()]])).logits[0].float().log_softmax(-1)
    terms = [whole[len(prompt) + i - 1, token] for i, token in enumerate(ids.tolist()) if sampled[i]]
    naive = gradient(-2.0 * torch.stack(terms).mean())
    torch.testing.assert_close(own, naive, atol=1e-5, rtol=1e-3)
    scored = score(policy, batch)
    torch.testing.assert_close(
        gradient(supervised_loss(scored.logprobs, scored.mask, 6)[0]), naive / 2, atol=1e-5, rtol=1e-3
    )


def test_an_activated_adapter_acts_from_its_prompt_though_a_thought_quotes_the_words(make_policy, builder):
    policy = make_policy(adapter="alora")
    policy.invocation = {role: builder.invocation(role) for role in ROLES}
    policy.end_of_turn = builder.end_of_turn
    prompt = [*builder._data("request\n\n"), *builder.invocation("planner"), *builder._data(" it")]
    begun = [*builder.invocation("planner"), *builder._data("again")]
    sampling = Sampling(0.0, 1.0, 4)
    (rest,) = TransformersEngine().go_on(policy, "planner", [prompt], [begun], sampling, torch.Generator())
    ids = torch.cat([torch.tensor(begun), rest.ids])
    group = make_group(prompt, [Completion(ids, torch.zeros(len(ids)), True)], [1.0], [{}], 0)
    (batch,) = micro_batches(policy, [group], 1000)
    scored = score(policy, batch).logprobs[0, len(begun) :]
    torch.testing.assert_close(scored.detach(), rest.logprobs, atol=1e-4, rtol=0)
