"""Sampling through a server against sampling in this process: same adapters, same tokens; answers are not trusted."""

from __future__ import annotations

import copy

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything

from cahl_pl.callbacks import Checkpoints
from cahl_pl.datamodule import RolloutDataModule
from cahl_pl.engines import Sampling, ServerEngine, TransformersEngine
from cahl_pl.environments import ExecutableEnvironment
from cahl_pl.errors import ConfigError
from cahl_pl.grpo.config import GRPOConfig
from cahl_pl.module import CAHLModule
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.policy.logprobs import micro_batches, score
from cahl_pl.policy.policy import Policy
from cahl_pl.prompts import PromptBuilder, PromptConfig
from cahl_pl.rewards.base import BaseExecutorReward, BasePlannerReward
from cahl_pl.rollout import thinking
from cahl_pl.rollout.config import RolloutConfig
from cahl_pl.rollout.episode import make_group
from cahl_pl.toolworld import ToolWorld, toolkit
from cahl_pl.toolworld.prompts import PROMPTS as PROMPTS_OF_TOOLWORLD
from cahl_pl.types import ROLES, Plan, SubTask

PROMPTS = [list(range(10, 30)), list(range(40, 47)), list(range(10, 30))]
GREEDY = Sampling(0.0, 1.0, 12)


@pytest.fixture
def engine(fake, tmp_path, waits):
    """An engine for training, with the fake server."""
    return ServerEngine(fake.url, str(tmp_path / "adapters"))


def generate(engine, policy, sampling=GREEDY, num_samples=1, role="planner", seed=0):
    return engine.generate(policy, role, PROMPTS, num_samples, sampling, torch.Generator().manual_seed(seed))


def ids(samples):
    return [[completion.ids.tolist() for completion in group] for group in samples]


def paths(fake):
    return [path.removeprefix("/v1/") for path, _ in fake.requests]


def bodies(fake, path):
    return [body for asked, body in fake.requests if asked == f"/v1/{path}"]


def move(policy, role):
    """What an optimiser step does."""
    with torch.no_grad():
        for parameter in policy.parameters_of(role):
            parameter.add_(torch.randn_like(parameter) * 0.1)
    policy.version[role] += 1


def test_both_adapters_reach_the_server(engine, policy):
    for role in ROLES:
        assert ids(generate(engine, policy, role=role)) == ids(generate(TransformersEngine(), policy, role=role))
    assert ids(generate(engine, policy, role="planner")) != ids(generate(engine, policy, role="executor"))


def test_a_thought_is_limited_on_a_server_as_it_is_here(engine, fake, policy):
    """A first request ends at the limit of the thought; a second one goes on behind the words that close it."""
    template = policy.tokenizer.chat_template.replace("assistant\n{%", "assistant\n<think>\n{%")
    builder = PromptBuilder(policy.tokenizer, PromptConfig(chat_template=template))
    policy.end_of_turn = builder.end_of_turn
    sampling = Sampling(0.0, 1.0, 24, max_thinking_tokens=4)
    here, there = (
        thinking.generate(e, policy, builder, "planner", PROMPTS, 1, sampling, torch.Generator())
        for e in (TransformersEngine(), engine)
    )
    assert ids(there) == ids(here)
    for (mine,), (theirs,) in zip(here, there, strict=True):
        assert theirs.thinking_tokens == mine.thinking_tokens <= 4
        assert (theirs.sampled is None) == (mine.sampled is None)
    asked = bodies(fake, "completions")
    assert {body["max_tokens"] for body in asked[:3]} == {4}
    for body in asked[3:]:  # in any order
        assert any(body["prompt"][: len(prompt)] == list(prompt) for prompt in PROMPTS)
        assert body["prompt"][-len(builder.end_of_thought) :] == builder.end_of_thought
    assert len(asked) == 6


def test_an_adapter_is_sent_when_it_has_changed_and_the_old_one_is_given_up(engine, fake, policy, tmp_path):
    generate(engine, policy)
    generate(engine, policy)
    assert paths(fake) == ["models", "load_lora_adapter", *["completions"] * 6]
    (old,) = fake.adapters
    move(policy, "planner")
    after = generate(engine, policy)
    assert ids(after) == ids(generate(TransformersEngine(), policy))
    assert paths(fake)[8:] == ["models", "load_lora_adapter", "unload_lora_adapter", *["completions"] * 3]
    (new,) = fake.adapters
    assert new != old
    assert bodies(fake, "load_lora_adapter")[-1] == {"lora_name": new, "lora_path": str(tmp_path / "adapters" / new)}
    assert [folder.name for folder in (tmp_path / "adapters").iterdir()] == [new]
    move(policy, "executor")  # the other role's business
    generate(engine, policy)
    assert len(bodies(fake, "load_lora_adapter")) == 2


def test_what_a_checkpoint_brings_back_is_sent_though_the_version_is_the_same(engine, policy):
    before = copy.deepcopy(policy.adapter_state())
    move(policy, "planner")
    other = copy.deepcopy(policy.adapter_state())
    second = generate(engine, policy)
    policy.load_adapter_state(before)  # and the version stays
    first = generate(engine, policy)
    assert ids(first) != ids(second)
    policy.load_adapter_state(other)
    assert ids(generate(engine, policy)) == ids(second)


def test_a_server_that_was_started_again_gets_the_adapters_again(engine, fake, policy):
    first = generate(engine, policy)
    fake.adapters.clear()
    assert ids(generate(engine, policy)) == ids(first)
    assert len(bodies(fake, "load_lora_adapter")) == 2


def test_an_adapter_that_is_there_is_not_loaded_again(engine, fake, policy, tmp_path):
    generate(engine, policy)
    other = ServerEngine(fake.url, str(tmp_path / "adapters"))  # in another process of the same run
    other.adapters.run = engine.adapters.run
    generate(other, policy)
    assert len(bodies(fake, "load_lora_adapter")) == 1


def test_samples_have_seeds_of_their_own_and_the_log_probabilities_of_the_loss(engine, fake, policy):
    sampling = Sampling(1.0, 1.0, 100)
    samples = generate(engine, policy, sampling, 3)
    assert ids(samples) == ids(generate(engine, policy, sampling, 3))
    assert ids(samples) != ids(generate(engine, policy, sampling, 3, seed=1))
    assert ids(samples)[0] != ids(samples)[2]  # the same prompt
    groups = [make_group(p, cs, [0.0] * 3, [{}] * 3, i) for i, (p, cs) in enumerate(zip(PROMPTS, samples, strict=True))]
    policy.activate("planner")
    (batch,) = micro_batches(policy, groups, 10_000)
    with torch.no_grad():
        scores = score(policy, batch, 1.0)
    torch.testing.assert_close(scores.logprobs, batch.logprobs, atol=1e-4, rtol=1e-4)
    assert {c.ended for group in samples for c in group} == {True, False}


def test_a_request_leaves_nothing_to_the_defaults_of_the_server(engine, fake, policy):
    generate(engine, policy, Sampling(1.0, 0.9, 7), 2)
    body = bodies(fake, "completions")[0]
    assert body["prompt"] in PROMPTS
    expected = {"n": 2, "temperature": 1.0, "top_p": 0.9, "max_tokens": 7, "top_k": 0, "min_p": 0.0}
    expected |= {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "logprobs": 0}
    expected |= {"stop_token_ids": [policy.tokenizer.eos_token_id], "return_token_ids": True}
    assert {key: body[key] for key in expected} == expected


def test_greedy_samples_are_made_once(engine, fake, policy):
    samples = generate(engine, policy, num_samples=2)
    assert ids(samples) == [[group[0]] * 2 for group in ids(generate(TransformersEngine(), policy))]
    assert {body["n"] for body in bodies(fake, "completions")} == {1}


def test_log_probabilities_without_the_temperature_are_no_use_for_training(engine, fake, policy):
    generate(engine, policy, Sampling(0.7, 1.0, 4))
    generate(engine, policy, Sampling(0.7, 1.0, 4))
    assert len(bodies(fake, "completions")) == 2 + 3 + 3  # asked once
    fake.raw_logprobs = True
    other = ServerEngine(fake.url, str(engine.adapters.folder))
    generate(other, policy, Sampling(1.0, 1.0, 4))
    with pytest.raises(ConfigError, match="--logprobs-mode processed_logprobs"):
        generate(other, policy, Sampling(0.7, 1.0, 4))
    fake.script = [(200, {"choices": [{"logprobs": None}]})] * 2
    other = ServerEngine(fake.url, str(engine.adapters.folder))
    other.adapters = engine.adapters
    with pytest.raises(ConfigError, match="no log-probabilities of likely tokens"):
        generate(other, policy, Sampling(0.7, 1.0, 4))


def test_adapters_of_the_server_need_no_model_here(fake, policy, engine):
    expected = ids(generate(engine, policy))
    (state,) = fake.adapters.values()
    fake.adapters = {"my-planner": state}
    client = Policy(policy.config)
    client.tokenizer = policy.tokenizer
    theirs = ServerEngine(fake.url + "/v1/", planner="my-planner")
    assert ids(generate(theirs, client)) == expected
    with pytest.raises(ConfigError, match=r"`executor` does not exist\.\); it has the models base, my-planner"):
        generate(theirs, client, role="executor")
    with pytest.raises(ConfigError, match=r"give data\.engine\.adapter_folder"):
        theirs.check_training()
    engine.check_training()


def test_without_token_ids_text_serves_for_inference_and_nothing_else(fake, policy, engine):
    expected = generate(engine, policy, Sampling(0.0, 1.0, 60))
    fake.adapters["planner"] = next(iter(fake.adapters.values()))
    fake.without = {"token_ids", "logprobs"}
    read = generate(ServerEngine(fake.url), policy, Sampling(0.0, 1.0, 60))
    for (theirs,), (ours,) in zip(read, expected, strict=True):
        decode = policy.tokenizer.decode
        assert decode(theirs.ids, skip_special_tokens=True) == decode(ours.ids, skip_special_tokens=True)
        assert theirs.ended == ours.ended == (theirs.ids[-1].item() == policy.tokenizer.eos_token_id)
    with pytest.raises(ConfigError, match="no token ids"):
        generate(engine, policy)
    policy.thinks_in_tokens = True
    with pytest.raises(ConfigError, match="the thoughts of this base cannot be told from its answers"):
        generate(ServerEngine(fake.url), policy)


def test_text_never_becomes_a_control_token(fake, policy):
    fake.script = [(200, {"choices": [{"text": "<|im_end|>", "finish_reason": "length"}]})] * 3
    (completion,), *_ = generate(ServerEngine(fake.url), policy)
    assert policy.tokenizer.eos_token_id not in completion.ids.tolist()
    assert policy.tokenizer.decode(completion.ids) == "<|im_end|>"


GOOD = {"token_ids": [5, 2], "logprobs": {"token_logprobs": [-1.0, -2.0]}, "finish_reason": "stop"}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ([], "no choices"),
        ({"choices": 3}, "no choices"),
        ({"choices": [3]}, "no choices"),
        ({"choices": []}, "0 choices in place of 1"),
        ({"choices": [{**GOOD, "finish_reason": None}]}, "finish_reason"),
        ({"choices": [{**GOOD, "token_ids": [5, 10**9]}]}, "token ids that this model does not have"),
        ({"choices": [{**GOOD, "token_ids": [True, 2]}]}, "token ids that this model does not have"),
        ({"choices": [{**GOOD, "token_ids": "52"}]}, "token ids that this model does not have"),
        ({"choices": [{**GOOD, "token_ids": []}]}, "0 tokens in place of 1 to 12"),
        ({"choices": [{**GOOD, "token_ids": [5] * 13}]}, "13 tokens in place of 1 to 12"),
        ({"choices": [{**GOOD, "token_ids": [5, 6]}]}, "ends with token 6"),
        ({"choices": [{**GOOD, "logprobs": None}]}, "not one log-probability a token"),
        ({"choices": [{**GOOD, "logprobs": {"token_logprobs": [-1.0]}}]}, "not one log-probability a token"),
        ({"choices": [{**GOOD, "logprobs": {"token_logprobs": [-1.0, float("nan")]}}]}, "not one log-probability"),
        ({"choices": [{**GOOD, "logprobs": {"token_logprobs": [-1.0, None]}}]}, "not one log-probability a token"),
    ],
)
def test_answers_that_are_none_are_named(engine, fake, policy, answer, words):
    generate(engine, policy)
    fake.script = [(200, answer)] * 3
    with pytest.raises(ConfigError, match=rf"the server's answer has .*{words}.*data\.engine\.base_url"):
        generate(engine, policy)


def test_an_answer_that_was_broken_off_is_asked_for_again(engine, fake, policy, capsys):
    expected = generate(engine, policy)
    fake.script = [(200, {"choices": [{**GOOD, "finish_reason": "abort"}]})]
    assert ids(generate(engine, policy)) == ids(expected)
    assert "an answer that was broken off; try 2 of 9 in 1 s" in capsys.readouterr().out


def test_a_server_that_takes_no_adapters_is_named(engine, fake, policy):
    fake.script = [(200, {"data": []}), (404, {"detail": "Not Found"})]
    with pytest.raises(ConfigError, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"):
        generate(engine, policy)
    fake.script = [(200, {"models": []})]
    with pytest.raises(ConfigError, match="no list of models"):
        generate(engine, policy)


def test_activated_adapters_are_refused(engine, make_policy):
    with pytest.raises(ConfigError, match=r"--model\.policy\.adapter lora"):
        generate(engine, make_policy(adapter="alora"))


def test_a_folder_that_cannot_be_written_is_named(fake, policy, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot be written to data\.engine\.adapter_folder"):
        generate(ServerEngine(fake.url, str(tmp_path / "file")), policy)


class Length(BasePlannerReward, BaseExecutorReward):
    """Pays for short texts: a random model writes no plan, but some of its texts are shorter than others."""

    def components(self, *args):
        return {"length": 1 / (1 + len(args[1][0].plan_text if len(args) == 2 else args[0].text))}

    def total(self, components):
        return components["length"]


def fit(engine, model, folder, monkeypatch, checkpoint=None):
    """Four steps, of both roles in turn, with a checkpoint every two."""
    monkeypatch.setattr("cahl_pl.rollout.two_level.parse_plan", lambda text: Plan((SubTask("do it", "tool"),)))
    seed_everything(3, verbose=False)
    module = CAHLModule(
        PolicyConfig(model=str(model), lora_rank=4, lora_alpha=8),
        GRPOConfig(importance_cap=2.0, pool_equal_plans=False),
    )
    sampling = Sampling(max_new_tokens=6)
    data = RolloutDataModule(
        ToolWorld(size=6),
        ExecutableEnvironment(toolkit),
        engine=engine,
        prompts=PROMPTS_OF_TOOLWORLD,
        planner_reward=Length(),
        executor_reward=Length(),
        rollout=RolloutConfig(8, 4, planner=sampling, executor=sampling),
        tasks_per_round=2,
    )
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_steps=4,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Checkpoints(every_n_steps=2)],
    )
    trainer.fit(module, data, ckpt_path=checkpoint)
    return trainer


def test_a_run_that_lost_its_server_goes_on_from_its_checkpoint(fake, tiny_model, tmp_path, monkeypatch):
    engine = ServerEngine(fake.url, str(tmp_path / "adapters"), retries=0)
    answer, loads = fake.answer, []

    def dies(path, body):
        loads.extend([path] if path == "/v1/load_lora_adapter" else [])
        return (503, b"") if len(loads) > 2 else answer(path, body)  # both adapters once, then the second round's

    fake.answer = dies
    with pytest.raises(ConfigError, match=r"HTTP status 503, 1 times: .* --ckpt_path last"):
        fit(engine, tiny_model, tmp_path, monkeypatch)
    (checkpoint,) = (tmp_path / "checkpoints").iterdir()
    assert checkpoint.name == "step-000002.ckpt"
    fake.answer = answer
    fake.adapters.clear()
    trainer = fit(ServerEngine(fake.url, str(tmp_path / "adapters")), tiny_model, tmp_path, monkeypatch, checkpoint)
    assert trainer.global_step == 4
    metrics = trainer.callback_metrics
    for role in ROLES:
        assert metrics[f"{role}/engine_gap/max"] < 1e-3
        assert metrics[f"{role}/engine_gap/capped"] == 0
