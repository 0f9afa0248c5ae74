"""The plan-execute loop with an engine that writes what the test says: no model involved."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import torch

from cahl_pl.engines.base import Completion, Engine, Sampling
from cahl_pl.environments import ExecutableEnvironment
from cahl_pl.errors import ConfigError
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.policy.policy import Policy
from cahl_pl.prompts import PromptBuilder
from cahl_pl.rewards.base import BaseExecutorReward, BasePlannerReward
from cahl_pl.rewards.executor import ExecutorReward
from cahl_pl.rewards.planner import PlannerReward
from cahl_pl.rollout.config import RolloutConfig
from cahl_pl.rollout.scoring import with_outcome
from cahl_pl.rollout.two_level import Rollout
from cahl_pl.types import GoldCall, Message, Outcome, Plan, SubTask, Task, ToolSpec, Trajectory


class Scripted(Engine):
    """Answers the n-th request for samples with the n-th list of texts, one list per prompt."""

    def __init__(self, builder, *script):
        self.builder, self.script, self.prompts = builder, list(script), []

    def generate(self, policy, role, prompts, num_samples, sampling, generator):
        self.prompts.append((role, [self.builder.decode(p) for p in prompts]))
        texts = self.script.pop(0)
        assert [len(group) for group in texts] == [num_samples] * len(prompts)
        return [[self._completion(text) for text in group] for group in texts]

    def _completion(self, text):
        ids = torch.tensor(self.builder.completion(text))
        return Completion(ids, torch.zeros(len(ids)), ended=True)


def spec(name, **types):
    properties = {key: {"type": value} for key, value in types.items()}
    return ToolSpec(name, f"{name} it", {"type": "object", "properties": properties, "required": list(types)})


TASK = Task(
    "t",
    (Message("user", "What is 2 plus 3, doubled?"),),
    (spec("add", a="integer", b="integer"), spec("double", x="integer")),
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


@pytest.fixture(scope="module")
def builder(tiny_model):
    policy = Policy(PolicyConfig(model=str(tiny_model), lora_rank=1))
    policy.load()
    return PromptBuilder(policy.tokenizer)


class Drafted(Scripted):
    """Keeps the drafts that it is given."""

    def __init__(self, builder, *script):
        super().__init__(builder, *script)
        self.drafts = []

    def generate_from_drafts(self, policy, role, prompts, drafts, sampling, generator):
        self.drafts.append([self.builder.decode(draft) for draft in drafts])
        return self.generate(policy, role, prompts, 1, sampling, generator)


class Hindsight(BaseExecutorReward):
    """Pays by the length of what was written, and keeps what it was shown."""

    def __init__(self):
        self.seen = []

    def components(self, step, target, episode, index):
        self.seen.append((step, index, episode))
        return {"length": float(len(step.text))}

    def total(self, components):
        return components["length"]


def run(builder, tasks, *script, reward=None, **config):
    engine = Scripted(builder, *script)
    rollout = Rollout(engine, ENVIRONMENT, PlannerReward(), reward or ExecutorReward(), RolloutConfig(**config))
    return rollout.run(None, builder, tasks, torch.Generator().manual_seed(0)), engine


def test_a_gold_episode_has_full_reward_and_feedback_reaches_the_next_prompt(builder):
    result, engine = run(
        builder, [TASK], [[GOOD_PLAN, "no plan"]], [[ADD, ADD]], [[DOUBLE, DOUBLE]], executor_group_size=2
    )
    (planner,) = result.groups["planner"]
    assert planner.rewards.tolist() == [1.0, 0.0]
    first, second = result.groups["executor"]
    assert first.rewards.tolist() == second.rewards.tolist() == [1.0, 1.0]
    good, bad = result.trajectories
    assert [json.loads(step.feedback.text) for step in good.steps] == [5, 10]
    assert bad.plan.error
    assert bad.steps == ()
    roles = [role for role, _ in engine.prompts]
    assert roles == ["planner", "executor", "executor"]
    assert "Result: 5" in engine.prompts[2][1][0]


def test_prompts_only_grow_and_hold_the_very_ids_that_were_sampled(builder):
    result, _ = run(builder, [TASK], [[GOOD_PLAN] * 2], [[ADD] * 2] * 2, [[DOUBLE] * 2] * 2, executor_group_size=2)
    steps = result.groups["executor"]
    first, later = steps[0], steps[2]
    start = first.prompt_ids.tolist() + first.completion_ids[0].tolist()
    assert later.prompt_ids.tolist()[: len(start)] == start
    shared = builder.shared(TASK)
    for group in (*result.groups["planner"], *steps):
        assert group.prompt_ids.tolist()[: len(shared)] == shared


def test_failing_outputs_are_outcomes(builder):
    unknown = '<tool_call>{"name": "fly", "parameters": {}}</tool_call>'
    plan = GOOD_PLAN.replace('"tool": "add"', '"tool": "fly"')
    result, _ = run(builder, [TASK], [[plan] * 2], [[unknown, unknown]] * 2, [["}{", "}{"]] * 2, executor_group_size=2)
    errors = [step.feedback.error for step in result.trajectories[0].steps]
    assert errors == ["unknown_tool", "parse"]
    assert result.groups["planner"][0].rewards.max() < 0.6
    assert all(0 <= r < 1 for group in result.groups["executor"] for r in group.rewards.tolist())


def test_the_planner_is_paid_for_all_samples_of_its_executor(builder):
    wrong = ADD.replace("2", "7")
    result, _ = run(
        builder,
        [TASK],
        [[GOOD_PLAN, GOOD_PLAN]],
        [[ADD, ADD], [ADD, wrong]],
        [[DOUBLE, DOUBLE], [DOUBLE, DOUBLE]],
        executor_group_size=2,
    )
    exe = result.groups["planner"][0].components["exe"]
    # one of two executions of the second plan has one of two values of one of two calls wrong:
    # that call's similarity is (1 + 1 + 1/2) / 3, so R_exe = (1 + (1 + 5/6) / 2) / 2
    torch.testing.assert_close(exe, torch.tensor([1.0, (1 + (1 + 5 / 6) / 2) / 2]))


def test_credit_is_that_of_the_configuration(builder):
    """Both outputs of step 2 repeat the first gold call, whichever of step 1 was carried out."""
    wrong = ADD.replace("2", "7")
    script = [[GOOD_PLAN, "no plan"]], [[ADD, wrong]], [[ADD, ADD]]
    result, _ = run(builder, [TASK], *script, executor_group_size=2)
    exe = result.groups["planner"][0].components["exe"][0].item()
    # R(ADD) = 1/2, R(wrong) = (1 + 1 + 1/2) / 3 / 2 = 5/12, their mean 11/24; R(ADD, ADD) = R(wrong, ADD) = 1/2
    carried_out = 1 / 2 if result.trajectories[0].steps[0].text == ADD else 5 / 12
    assert exe == pytest.approx(1 / 2 + 11 / 24 - carried_out)
    result, _ = run(builder, [TASK], *script, executor_group_size=2, credit="sampled_mean")
    assert result.groups["planner"][0].components["exe"][0].item() == pytest.approx(1 / 2)


class Pays(BasePlannerReward):
    """Gives a component and a total, whatever they are."""

    def __init__(self, component, total):
        self.given = component, total

    def components(self, *_):
        return {"mine": self.given[0]}

    def total(self, components):
        return self.given[1]


class PaysExecutor(Pays, BaseExecutorReward):
    """The same for outputs of the executor."""


@pytest.mark.parametrize(
    ("component", "total", "what"),
    [
        (1.0, float("nan"), "nan as its total"),
        (1.0, None, "None as its total"),
        (1.0, float("-inf"), "-inf as its total"),
        (1.0, "1", "'1' as its total"),
        (float("nan"), 1.0, "nan as its component 'mine'"),
        ("high", 1.0, "'high' as its component 'mine'"),
    ],
)
def test_a_reward_that_is_no_number_is_named(builder, component, total, what):
    script = [[GOOD_PLAN] * 2], [[ADD] * 2] * 2, [[DOUBLE] * 2] * 2
    message = rf"the reward [\w.]*{{}} gives {re.escape(what)} for an output of task 't': let it give a finite number"
    for kind in (PaysExecutor, Pays):
        rewards = [PlannerReward(), kind(component, total)] if kind is PaysExecutor else [kind(component, total)]
        engine = Scripted(builder, *script)
        rollout = Rollout(engine, ENVIRONMENT, rewards[0], (*rewards, ExecutorReward())[1], RolloutConfig(2, 2))
        with pytest.raises(ConfigError, match=message.format(kind.__name__)):
            rollout.run(None, builder, [TASK], torch.Generator().manual_seed(0))


def test_a_component_may_be_undefined(builder):
    engine = Scripted(builder, [[GOOD_PLAN] * 2], [[ADD] * 2] * 2, [[DOUBLE] * 2] * 2)
    rollout = Rollout(engine, ENVIRONMENT, Pays(None, 1), ExecutorReward(), RolloutConfig(2, 2))
    result = rollout.run(None, builder, [TASK], torch.Generator().manual_seed(0))
    assert result.groups["planner"][0].rewards.tolist() == [1.0, 1.0]
    assert result.groups["planner"][0].components["mine"].isnan().all()


def test_trajectory_branching_compares_executions_step_by_step(builder):
    wrong = ADD.replace("2", "7")
    result, _ = run(
        builder,
        [TASK],
        [[GOOD_PLAN, "x"]],
        [[ADD], [wrong]],
        [[DOUBLE], [DOUBLE]],
        executor_group_size=2,
        branching="trajectory",
    )
    groups = result.groups["executor"]
    assert [len(g.rewards) for g in groups] == [1, 1, 1, 1]
    assert groups[0].comparison_id == groups[1].comparison_id != groups[2].comparison_id == groups[3].comparison_id
    assert len(result.trajectories) == 4


def test_plans_longer_than_the_limit_and_prompts_too_long_are_cut_off(builder):
    result, _ = run(builder, [TASK], [[GOOD_PLAN] * 2], [[ADD] * 2] * 2, executor_group_size=2, max_steps=1)
    assert [len(t.steps) for t in result.trajectories] == [1, 1]
    result, engine = run(builder, [TASK], max_prompt_tokens=10)
    assert result.groups["planner"] == []
    assert result.metrics["rollout/tasks_too_long"] == 1
    assert engine.prompts == []


def test_an_episode_that_a_long_result_ends_is_marked(builder, monkeypatch):
    script = [[GOOD_PLAN] * 2], [[ADD] * 2] * 2, [[DOUBLE] * 2] * 2
    result, _ = run(builder, [TASK], *script, executor_group_size=2)
    assert [(len(t.steps), t.cut) for t in result.trajectories] == [(2, False)] * 2
    talking = {"add": lambda a, b: "long " * 300, "double": lambda x: "long " * 300}
    monkeypatch.setattr(f"{__name__}.ENVIRONMENT", ExecutableEnvironment(lambda state: talking))
    limit = 100 + max(len(builder.planner(TASK)), len(builder.executor(TASK, SubTask("add", "add", {"a": 2, "b": 3}))))
    result, _ = run(builder, [TASK], *script, executor_group_size=2, max_prompt_tokens=limit)
    assert [(len(t.steps), t.cut) for t in result.trajectories] == [(1, True)] * 2
    result, _ = run(builder, [TASK], *script, executor_group_size=2, max_prompt_tokens=limit, max_steps=1)
    assert [t.cut for t in result.trajectories] == [False] * 2  # it would have ended there


def test_an_executors_reward_sees_how_the_episode_ended(builder):
    reward, wrong = Hindsight(), ADD.replace("2", "70")
    result, _ = run(
        builder,
        [TASK],
        [[GOOD_PLAN, "no plan"]],
        [[ADD, wrong]],
        [[DOUBLE, "}{"]],
        reward=reward,
        executor_group_size=2,
    )
    assert [(step.text, index) for step, index, _ in reward.seen] == [(ADD, 0), (wrong, 0), (DOUBLE, 1), ("}{", 1)]
    good, _ = result.trajectories
    assert len(good.steps) == 2
    for _, _, episode in reward.seen:  # from its first step on
        assert episode == good
    assert good.steps[0].text in (ADD, wrong)
    assert good.steps[0].feedback.text in ("5", "73")
    assert [g.rewards.tolist() for g in result.groups["executor"]] == [[len(ADD), len(wrong)], [len(DOUBLE), 2]]


def test_an_executors_reward_sees_the_end_of_its_own_execution(builder):
    reward, wrong = Hindsight(), ADD.replace("2", "70")
    result, _ = run(
        builder,
        [TASK],
        [[GOOD_PLAN, "no plan"]],
        [[ADD], [wrong]],
        [[DOUBLE], ["}{"]],
        reward=reward,
        executor_group_size=2,
        branching="trajectory",
    )
    first, second = result.trajectories[:2]
    assert [[step.text for step in episode.steps] for episode in (first, second)] == [[ADD, DOUBLE], [wrong, "}{"]]
    assert [(step.text, index) for step, index, _ in reward.seen] == [(ADD, 0), (wrong, 0), (DOUBLE, 1), ("}{", 1)]
    assert [episode for *_, episode in reward.seen] == [first, second, first, second]
    assert [step.feedback.error for step in second.steps] == [None, "parse"]


def test_a_rounds_rewards_are_those_of_its_plans(builder):
    other, long = replace(TASK, id="other"), replace(TASK, id="long", messages=(Message("user", "x" * 5000),))
    result, _ = run(
        builder,
        [other, long, TASK],
        [["no plan", GOOD_PLAN], ["no plan"] * 2],
        [[ADD] * 2],
        [[DOUBLE] * 2],
        executor_group_size=2,
    )
    assert result.rewards == {"other": [0.0, 1.0], "t": [0.0, 0.0]}


def test_an_episode_without_gold_calls_is_judged_by_its_outcome(builder):
    task = replace(TASK, gold=(), outcome=Outcome((10,)))
    result, _ = run(
        builder,
        [task],
        [[GOOD_PLAN] * 2],
        [[ADD], [ADD]],
        [[DOUBLE], [ADD]],
        planner_group_size=2,
        executor_group_size=1,
    )
    assert [t.outcome for t in result.trajectories] == [1.0, 0.0]
    result, _ = run(builder, [task], [["no plan"]], planner_group_size=1, executor_group_size=1)
    assert result.trajectories[0].outcome == 0.0


@pytest.mark.parametrize(
    "task",
    [
        TASK,
        replace(TASK, outcome=Outcome((10,))),  # its gold calls say it
        replace(TASK, gold=()),
        replace(TASK, gold=(), outcome=Outcome()),  # no tool is needed: nothing to check
    ],
    ids=["gold", "gold and outcome", "neither", "empty outcome"],
)
def test_what_is_no_matter_of_its_outcome_stays_unjudged(task):
    trajectory = Trajectory(task, "", Plan())
    assert with_outcome(trajectory, ENVIRONMENT) is trajectory


def test_a_greedy_executor_is_given_the_calls_of_the_plan_as_drafts(builder):
    third = GOOD_PLAN.replace("</plan>", '{"task": "say it", "tool": null, "parameters": {}}\n</plan>')
    engine = Drafted(builder, [[third]], [[ADD]], [[DOUBLE]], [["<answer>10</answer>"]])
    greedy = Sampling(0.0, 1.0, 64)
    config = RolloutConfig(planner_group_size=1, executor_group_size=1, planner=greedy, executor=greedy)
    Rollout(engine, ENVIRONMENT, PlannerReward(), ExecutorReward(), config).run(
        None, builder, [TASK], torch.Generator().manual_seed(0)
    )
    assert engine.drafts == [[ADD], [DOUBLE], [""]]  # "$1" is 5 by then; an answer in text cannot be guessed


def test_a_sampled_executor_is_given_no_drafts(builder):
    engine = Drafted(builder, [[GOOD_PLAN]], [[ADD]], [[DOUBLE]])
    config = RolloutConfig(planner_group_size=1, executor_group_size=1)
    Rollout(engine, ENVIRONMENT, PlannerReward(), ExecutorReward(), config).run(
        None, builder, [TASK], torch.Generator().manual_seed(0)
    )
    assert engine.drafts == []
