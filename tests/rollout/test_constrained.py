"""Who samples within grammars: evaluations that ask for it, in all their kinds, and training where it is told to."""

from __future__ import annotations

import pytest
import torch

from cahl_pl.engines import TransformersEngine
from cahl_pl.engines.base import Completion, Engine, Sampling
from cahl_pl.environments import ExecutableEnvironment
from cahl_pl.errors import ConfigError
from cahl_pl.grammars import Grammars
from cahl_pl.prompts import PromptBuilder
from cahl_pl.rewards.executor import ExecutorReward
from cahl_pl.rewards.planner import PlannerReward
from cahl_pl.rewards.turn import TurnReward
from cahl_pl.rollout.asking import ask
from cahl_pl.rollout.config import InferenceConfig, RolloutConfig
from cahl_pl.rollout.evaluation import evaluate, make_player
from cahl_pl.rollout.single_level import SingleLevelRollout
from cahl_pl.rollout.two_level import Rollout
from cahl_pl.toolworld import ToolWorld


class Noting(Engine):
    """Writes nothing but the end of a turn, and notes by which way it was asked."""

    def __init__(self):
        self.asked = []

    def generate(self, policy, role, prompts, num_samples, sampling, generator):
        self.asked.append((role, None))
        return [[Completion(torch.tensor([2]), torch.zeros(1), True)] * num_samples for _ in prompts]

    def generate_within(self, policy, role, prompts, drafts, grammars, sampling, generator, num_samples=1):
        made = self.generate(policy, role, prompts, num_samples, sampling, generator)
        self.asked[-1] = role, list(grammars)
        return made


@pytest.fixture
def training():
    environment = ExecutableEnvironment("cahl_pl.toolworld.toolkit")
    return Rollout(Noting(), environment, PlannerReward(), ExecutorReward(), RolloutConfig(max_steps=2))


@pytest.mark.parametrize(
    ("inference", "role", "word"),
    [
        ({}, "planner", '"{\\"task\\": "'),
        ({"plans": 2}, "planner", '"{\\"task\\": "'),
        ({"replans": 1}, "planner", '"{\\"task\\": "'),
        ({"single_level": True}, "executor", '"{\\"name\\": "'),
    ],
)
def test_every_kind_of_episode_is_written_within_the_grammar_of_its_tools(training, policy, inference, role, word):
    player = make_player(training, InferenceConfig(constrained=True, **inference), False)
    tasks = [ToolWorld("test", 3)[i] for i in range(3)]
    evaluate(player, policy, PromptBuilder(policy.tokenizer), tasks, 0)
    asked, grammars = training.engine.asked[0]
    assert asked == role
    assert [word in grammar for grammar in grammars] == [True] * 3
    for task, grammar in zip(tasks, grammars, strict=True):
        assert all(f'"\\"{tool.name}\\""' in grammar for tool in task.tools)


def test_training_and_unconstrained_evaluations_have_none(training, policy):
    make_player(training, InferenceConfig(constrained=True, constrained_in_fit=True), False)
    builder, tasks = PromptBuilder(policy.tokenizer), [ToolWorld("test", 1)[0]]
    training.run(policy, builder, tasks, torch.Generator())
    evaluate(make_player(training, InferenceConfig(), False), policy, builder, tasks, 0)
    assert {grammars for _, grammars in training.engine.asked} == {None}


@pytest.mark.parametrize("single_level", [False, True])
def test_training_within_grammars_notes_them_with_its_groups(policy, single_level):
    config, environment = (
        RolloutConfig(2, 3, max_steps=2, constrained=True),
        ExecutableEnvironment("cahl_pl.toolworld.toolkit"),
    )
    engine = Noting()
    rollout = Rollout(engine, environment, PlannerReward(), ExecutorReward(), config)
    if single_level:
        rollout = SingleLevelRollout(engine, environment, TurnReward(), config)
    builder, tasks = PromptBuilder(policy.tokenizer), [ToolWorld("test", 2)[i] for i in range(2)]
    groups = rollout.run(policy, builder, tasks, torch.Generator()).groups["executor" if single_level else "planner"]
    output = "turn" if single_level else "plan"
    assert [group.grammar for group in groups] == [Grammars(2).of(output, builder, task) for task in tasks]
    assert [len(group.completion_ids) for group in groups] == [3 if single_level else 2] * 2


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("asked", [None, False, True])
def test_evaluations_follow_grammars_as_training_does_unless_they_are_told(policy, trained, asked):
    environment = ExecutableEnvironment("cahl_pl.toolworld.toolkit")
    config = RolloutConfig(max_steps=2, constrained=trained)
    training = Rollout(Noting(), environment, PlannerReward(), ExecutorReward(), config)
    player = make_player(training, InferenceConfig(constrained=asked), False)
    assert (player.grammars is not None) == (trained if asked is None else asked)
    assert (training.grammars is not None) == trained


def test_a_server_is_refused_where_training_is_to_follow_grammars():
    with pytest.raises(
        ConfigError, match=r"data\.rollout\.constrained is true, but data\.engine is a Noting, whose log-"
    ):
        Noting().check_constrained_training()
    TransformersEngine().check_constrained_training()


def test_limits_of_thoughts_within_grammars_are_refused_before_training():
    config = RolloutConfig(constrained=True, planner=Sampling(max_thinking_tokens=5))
    with pytest.raises(
        ConfigError, match=r"grammars do not limit thoughts: leave out it or data\.rollout\.planner\.max_th"
    ):
        config.check_sampling()


def test_an_engine_that_cannot_is_named(policy):
    class Other(Engine):
        def generate(self, *args):
            raise AssertionError

    with pytest.raises(ConfigError, match=r"data\.inference\.constrained is true, but data\.engine, a Other, cannot"):
        Other().generate_within(policy, "planner", [[1]], [()], ["start: "], Sampling(), torch.Generator())


def test_fit_refuses_what_holds_at_inference_alone():
    with pytest.raises(
        ConfigError, match=r"data\.inference\.constrained holds at inference alone, .*constrained_in_fit true"
    ):
        InferenceConfig(constrained=True).check_training(RolloutConfig())
    InferenceConfig(constrained=True, constrained_in_fit=True).check_training(RolloutConfig())
    InferenceConfig(constrained=True).check_training(RolloutConfig(constrained=True))
    InferenceConfig().check_training(RolloutConfig(constrained=True))
    with pytest.raises(ValueError, match="says where constrained holds too, which is false"):
        InferenceConfig(constrained_in_fit=True)


@pytest.mark.parametrize("role", ["planner", "executor"])
def test_sampling_of_a_part_of_the_distribution_is_refused_in_training(role):
    config = RolloutConfig(**{role: Sampling(top_p=0.95)})
    with pytest.raises(ConfigError, match=rf"data\.rollout\.{role}\.top_p is 0\.95: training needs tokens sampled"):
        config.check_sampling()
    RolloutConfig().check_sampling()


def test_thoughts_of_outputs_within_grammars_are_counted(policy):
    builder = PromptBuilder(policy.tokenizer)
    written = builder._data("<think>hm</think>\nno plan")

    class Thinking(Noting):
        def generate_within(self, policy, role, prompts, drafts, grammars, sampling, generator, num_samples=1):
            return [[Completion(torch.tensor(written), torch.zeros(len(written)), True)] for _ in prompts]

    task = ToolWorld("test", 1)[0]
    asked = [task], [builder.planner(task)], 1, Sampling(0.0), torch.Generator()
    ((found,),) = ask(Thinking(), Grammars(2), "plan", policy, builder, *asked)
    assert found.thinking_tokens == builder.thinking_tokens(written) > 0
