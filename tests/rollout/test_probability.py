"""How likely the executor is to make a call, against a plain pass token by token, and what a plan is paid for it."""

from __future__ import annotations

import pytest
import torch

from cahl_pl.engines.base import Completion, Engine, Sampling
from cahl_pl.environments import ExecutableEnvironment
from cahl_pl.parsing import format_call
from cahl_pl.prompts import PromptBuilder
from cahl_pl.rewards.executor import ExecutorReward
from cahl_pl.rewards.planner import PlannerReward, probability_reward
from cahl_pl.rollout.config import RolloutConfig
from cahl_pl.rollout.probability import Due, call_probabilities
from cahl_pl.rollout.two_level import Rollout
from cahl_pl.types import GoldCall, Message, Plan, SubTask, Task, ToolCall, ToolSpec, Trajectory

TASK = Task(
    "t",
    (Message("user", "What is 2 plus 3, doubled?"),),
    tuple(
        ToolSpec(name, name, {"type": "object", "properties": {key: {"type": "integer"} for key in keys}})
        for name, keys in (("add", "ab"), ("double", "x"))
    ),
    (GoldCall("add", {"a": 2, "b": 3}, 5), GoldCall("double", {"x": 5}, 10, {"x": "$1"})),
    ordered=True,
)
ENVIRONMENT = ExecutableEnvironment(lambda state: {"add": lambda a, b: a + b, "double": lambda x: 2 * x})
GOOD_PLAN = (
    '<plan>\n{"task": "add", "tool": "add", "parameters": {"a": 2, "b": 3}}\n'
    '{"task": "double", "tool": "double", "parameters": {"x": "$1"}}\n</plan>'
)
ADD = '<tool_call>{"name": "add", "parameters": {"a": 2, "b": 3}}</tool_call>'
DOUBLE = '<tool_call>{"name": "double", "parameters": {"x": 5}}</tool_call>'


class Scripted(Engine):
    """Answers the n-th request for samples with the n-th list of texts, one list per prompt."""

    def __init__(self, builder, *script):
        self.builder, self.script = builder, list(script)

    def generate(self, policy, role, prompts, num_samples, sampling, generator):
        written = [[torch.tensor(self.builder.completion(text)) for text in group] for group in self.script.pop(0)]
        return [[Completion(ids, torch.zeros(len(ids)), True) for ids in group] for group in written]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_product_of_all_tokens(policy, temperature):
    builder = PromptBuilder(policy.tokenizer)
    prompts = [builder.executor(TASK, SubTask("add", "add")), builder.executor(TASK, SubTask("double it", "double"))]
    calls = [ToolCall("add", {"a": 2, "b": 3}), ToolCall("double", {"x": 5})]
    found = call_probabilities(policy, builder, [Due(*pair) for pair in zip(prompts, calls, strict=True)], temperature)
    policy.activate("executor")
    for prompt, call, probability in zip(prompts, calls, found, strict=True):
        ids = [*prompt, *builder.completion(format_call(call))]
        with torch.no_grad():
            logits = policy.lm(input_ids=torch.tensor([ids])).logits[0, len(prompt) - 1 : -1] / temperature
        logprobs = torch.log_softmax(logits, -1).gather(1, torch.tensor(ids[len(prompt) :])[:, None])
        assert probability == pytest.approx(logprobs.sum().exp().item(), rel=1e-4)
    assert call_probabilities(policy, builder, [], 1.0) == []


@pytest.fixture
def asked(monkeypatch):
    """What the executor was asked for; each call has the probability 0.25."""
    found = []

    def quarter(policy, builder, due, temperature):
        found.append(([(builder.decode(one.prompt), one.call) for one in due], temperature))
        return [0.25] * len(due)

    monkeypatch.setattr("cahl_pl.rollout.two_level.call_probabilities", quarter)
    return found


def play(builder, reward, *script, **config):
    engine = Scripted(builder, *script)
    rollout = Rollout(engine, ENVIRONMENT, reward, ExecutorReward(), RolloutConfig(**config))
    return rollout.run(None, builder, [TASK], torch.Generator().manual_seed(0))


@pytest.mark.parametrize("branching", ["step", "trajectory"])
def test_the_calls_that_are_due_at_the_prompts_that_the_executor_has_read(policy, asked, branching):
    builder = PromptBuilder(policy.tokenizer)
    copies = 2 if branching == "trajectory" else 1
    result = play(
        builder,
        PlannerReward(0, 0, w_prob=1.0),
        [[GOOD_PLAN, "no plan"]],
        [[ADD] * (2 // copies)] * copies,
        [[DOUBLE] * (2 // copies)] * copies,
        branching=branching,
        executor_group_size=2,
        executor=Sampling(0.5),
    )
    ((due, temperature),) = asked
    assert temperature == 0.5
    assert [call.name for _, call in due] == ["add"] * copies + ["double"] * copies
    assert all("Result: 5" in prompt for prompt, call in due if call.name == "double")
    (group,) = result.groups["planner"]
    assert group.components["prob"].tolist() == [0.25, 0.0]
    assert group.rewards.tolist() == [0.25, 0.0]


def test_without_the_weight_nobody_is_asked(policy, asked):
    builder = PromptBuilder(policy.tokenizer)
    result = play(
        builder, PlannerReward(), [[GOOD_PLAN]], [[ADD]], [[DOUBLE]], planner_group_size=1, executor_group_size=1
    )
    assert asked == []
    assert set(result.groups["planner"][0].components) == {"param", "exe"}


def test_weights_and_what_it_costs_to_ask_twice():
    subtasks = (SubTask("add", "add"), SubTask("double", "double"))
    sure = {0: 1.0, 1: 1.0}
    assert probability_reward(Trajectory(TASK, "", Plan(subtasks), call_probabilities=sure)) == 1.0
    assert probability_reward(Trajectory(TASK, "", Plan((*subtasks, *subtasks)), call_probabilities=sure)) == 0.5
    assert probability_reward(Trajectory(TASK, "", Plan(subtasks[:1]), call_probabilities={0: 0.5})) == 0.25
    assert probability_reward(Trajectory(TASK, "", Plan(error="x"))) == 0.0
    reward = PlannerReward(w_param=0.1, w_exe=0.4, w_prob=0.5)
    assert reward.total({"param": 1.0, "exe": 0.5, "prob": 0.2}) == pytest.approx(0.4)
    assert reward.total({"param": 1.0, "exe": 0.5, "prob": None}) == pytest.approx(0.6)
    with pytest.raises(ValueError, match="prob=-1"):
        PlannerReward(w_prob=-1)


def test_an_executor_that_needs_no_plan_is_not_to_be_bought_with_empty_sub_tasks():
    """All gold calls likely whatever is said: more sub-tasks than calls cost, and a sub-task in text is due no call."""
    only_text = Plan((SubTask("do all of it", None),))
    assert probability_reward(Trajectory(TASK, "", only_text, call_probabilities={})) == 0.0
    many = Plan(tuple(SubTask("do it", name) for name in ("add", "double") * 4))
    assert probability_reward(Trajectory(TASK, "", many, call_probabilities={0: 1.0, 1: 1.0})) == 0.25
