"""Tokens within a grammar: by the engine, a step at a time and from drafts; one sample of a prompt, or several."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch

pytest.importorskip("llguidance", reason="grammars need llguidance: pip install 'cahl-pl[constrained]'")

from cahl_pl.engines import TransformersEngine
from cahl_pl.engines.base import Sampling
from cahl_pl.errors import ConfigError
from cahl_pl.grammars import Grammars
from cahl_pl.parsing import parse_action, parse_plan
from cahl_pl.prompts import PromptBuilder
from cahl_pl.schema import find_problems
from cahl_pl.toolworld import ToolWorld
from cahl_pl.types import SubTask

VOWELS = 'start: /[aeiou]{2,5}/ "." '
HELLO = 'start: "hello"'


def sample(policy, prompts, grammars, sampling, drafts=None, seed=0):
    PromptBuilder(policy.tokenizer)
    policy.end_of_turn = policy.tokenizer.eos_token_id
    generator = torch.Generator().manual_seed(seed)
    drafts = drafts or [()] * len(prompts)
    made = TransformersEngine(batch_size=3).generate_within(
        policy, "executor", prompts, drafts, grammars, sampling, generator
    )
    return [completion for (completion,) in made]


def texts(policy, completions):
    return [policy.tokenizer.decode(c.ids.tolist()) for c in completions]


def test_each_prompt_has_its_grammar_whatever_leaves_the_batch_first(policy):
    prompts = [[5, 6, 7 + i] for i in range(5)]
    grammars = [HELLO, VOWELS, HELLO, VOWELS, 'start: "a"']
    for temperature in (0.0, 1.0):
        made = sample(policy, prompts, grammars, Sampling(temperature, max_new_tokens=12))
        for text, grammar in zip(texts(policy, made), grammars, strict=True):
            assert text.endswith("<|im_end|>")
            text = text.removesuffix("<|im_end|>")
            if grammar is VOWELS:
                assert set(text[:-1]) <= set("aeiou")
                assert 3 <= len(text) <= 6
                assert text[-1] == "."
            else:
                assert text == ("hello" if grammar is HELLO else "a")
        assert all(c.ended for c in made)
        assert all(torch.isfinite(c.logprobs).all() for c in made)


def test_the_samples_of_a_prompt_move_on_each_by_itself(policy):
    policy.end_of_turn = policy.tokenizer.eos_token_id
    asked = [[5, 6, 7], [9]], [(), ()], [VOWELS, 'start: "a" | "bcd"'], Sampling(1.0, max_new_tokens=12)
    made = TransformersEngine().generate_within(policy, "executor", *asked, torch.Generator().manual_seed(1), 6)
    first, second = (texts(policy, group) for group in made)
    assert all(set(text.removesuffix("<|im_end|>")[:-1]) <= set("aeiou") for text in first)
    assert len(set(first)) > 1
    assert set(second) <= {"a<|im_end|>", "bcd<|im_end|>"}


def test_a_completion_at_the_limit_is_cut_off_within_its_grammar(policy):
    (made,) = sample(policy, [[5, 6]], [HELLO], Sampling(1.0, max_new_tokens=3))
    assert texts(policy, [made]) == ["hel"]
    assert not made.ended


@pytest.mark.parametrize("draft", ["", "x", "ae", "aeiou.", "aeiou.aeiou", "aexou.", "own", "own and end"])
def test_from_drafts_comes_what_comes_without(policy, draft):
    sampling = Sampling(0.0, max_new_tokens=9)
    prompts, grammars = [[5, 6], [9, 8, 7]], [VOWELS, VOWELS]
    expected = sample(policy, prompts, grammars, sampling)
    ids = policy.tokenizer(draft)["input_ids"]
    if draft.startswith("own"):
        ids = expected[0].ids.tolist()[: None if draft.endswith("end") else -2]
    made = sample(policy, prompts, grammars, sampling, [ids, ids])
    assert texts(policy, made) == texts(policy, expected)
    assert [c.ended for c in made] == [c.ended for c in expected]


def test_an_untrained_model_writes_plans_and_valid_calls_alone(make_policy):
    policy = make_policy()
    builder, grammars = PromptBuilder(policy.tokenizer), Grammars(3)
    policy.end_of_turn = builder.end_of_turn
    source = ToolWorld("test", 16)
    tasks = [source[i] for i in range(16)]
    engine, sampling = TransformersEngine(), Sampling(1.0, max_new_tokens=700)
    generator = torch.Generator().manual_seed(3)
    for output, role in (("plan", "planner"), ("action", "executor")):
        prompts = [builder.planner(t) if output == "plan" else builder.executor(t, SubTask("do", None)) for t in tasks]
        made = engine.generate_within(
            policy, role, prompts, [()] * 16, [grammars.of(output, builder, t) for t in tasks], sampling, generator
        )
        ended = [(c, t) for (c,), t in zip(made, tasks, strict=True) if c.ended]
        assert ended, "none has ended: raise max_new_tokens"
        for completion, task in ended:
            text = builder.decode(completion.ids.tolist())
            if output == "plan":
                assert parse_plan(text).error is None, text
            else:
                action = parse_action(text)
                assert action.error is None, text
                assert action.call is None or find_problems(action.call, task.tools) == []


def test_a_grammar_that_cannot_be_compiled_and_a_missing_library_are_one_sentence_each(policy, monkeypatch):
    with pytest.raises(ConfigError, match=r"no grammar can be made of the tools of a task \(.*\): simplify their"):
        sample(policy, [[5]], ["start: nothing"], Sampling(0.0, max_new_tokens=3))
    monkeypatch.setitem(sys.modules, "llguidance", None)
    policy.compiler = None
    with pytest.raises(
        ConfigError, match=r"grammars need the package llguidance: pip install 'cahl-pl\[constrained\]'"
    ):
        sample(policy, [[5]], [HELLO], Sampling(0.0, max_new_tokens=3))


def test_a_server_gets_each_prompts_grammar(fake, policy):
    from cahl_pl.engines import ServerEngine

    engine = ServerEngine(fake.url, retries=0, planner="base")
    fake.adapters["base"] = {}
    fake.script = [(200, {"choices": [{"token_ids": [5, 2], "finish_reason": "stop"}]}) for _ in range(2)]
    engine.generate_within(
        policy,
        "planner",
        [[5], [6]],
        [(), ()],
        ['start: "a"', 'start: "b"'],
        Sampling(0.0, max_new_tokens=4),
        torch.Generator(),
    )
    asked = {
        tuple(body["prompt"]): body["structured_outputs"] for path, body in fake.requests if path == "/v1/completions"
    }
    assert asked == {(5,): {"grammar": 'start: "a"'}, (6,): {"grammar": 'start: "b"'}}
    assert replace(Sampling(), temperature=0.0).temperature == 0
