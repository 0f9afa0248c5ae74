"""Episodes of an executor without a planner, with an engine that writes what the test says; one fit of the real thing."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from transformers import PreTrainedTokenizerFast

from cahl_pl.cli import main
from cahl_pl.engines.base import Completion, Engine
from cahl_pl.environments import ExecutableEnvironment
from cahl_pl.errors import ConfigError
from cahl_pl.prompts import PromptBuilder
from cahl_pl.rewards.base import BaseTurnReward
from cahl_pl.rewards.turn import TurnReward
from cahl_pl.rollout.config import RolloutConfig
from cahl_pl.rollout.single_level import SingleLevelRollout
from cahl_pl.types import GoldCall, Message, Outcome, Plan, Task, ToolCall, ToolSpec

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


class Scripted(Engine):
    """Answers the n-th request for samples with the n-th list of texts, one list per prompt.

    A text stands for itself and its end of turn, a list of ids for a completion that hit the length limit.
    """

    def __init__(self, builder, *script):
        self.builder, self.script, self.requests = builder, list(script), []

    def generate(self, policy, role, prompts, num_samples, sampling, generator):
        self.requests.append((role, [list(prompt) for prompt in prompts], sampling))
        texts = self.script.pop(0)
        assert [len(group) for group in texts] == [num_samples] * len(prompts)
        return [[self._completion(text) for text in group] for group in texts]

    def _completion(self, text):
        ids = torch.tensor(self.builder.completion(text) if isinstance(text, str) else text)
        return Completion(ids, torch.zeros(len(ids)), ended=isinstance(text, str))


class Expected(BaseTurnReward):
    """Pays nothing and keeps what each output was expected to be."""

    def __init__(self):
        self.seen = []

    def components(self, turn, gold, task):
        self.seen.append((task.id, [one.call for one in gold]))
        return {"nothing": 0.0}

    def total(self, components):
        return 0.0


class Alternating(BaseTurnReward):
    """Pays every second output: a random model writes nothing that a true reward could tell apart."""

    count = 0

    def components(self, turn, gold, task):
        self.count += 1
        return {"paid": float(self.count % 2)}

    def total(self, components):
        return components["paid"]


def spec(name, **types):
    properties = {key: {"type": value} for key, value in types.items()}
    return ToolSpec(name, f"{name} it", {"type": "object", "properties": properties, "required": list(types)})


def toolkit(state):
    """`add` and `double`; where there is a state, its `log` says which of them ran, in order."""

    def note(name, value):
        if state is not None:
            state["log"].append(f"{name} {value}")
        return value

    return {"add": lambda a, b: note("add", a + b), "double": lambda x: note("double", 2 * x)}


TOOLS = (spec("add", a="integer", b="integer"), spec("double", x="integer"))
NESTED = Task(
    "nested",
    (Message("user", "What is 2 plus 3, doubled?"),),
    TOOLS,
    (GoldCall("add", {"a": 2, "b": 3}, 5), GoldCall("double", {"x": 5}, 10, {"x": "$1"})),
    ordered=True,
)
PARALLEL = Task(
    "parallel",
    (Message("user", "What are 1 plus 1 and 2 doubled?"),),
    TOOLS,
    (GoldCall("add", {"a": 1, "b": 1}, 2), GoldCall("double", {"x": 2}, 4)),
)
ENVIRONMENT = ExecutableEnvironment(toolkit)
ADD = '<tool_call>{"name": "add", "parameters": {"a": 2, "b": 3}}</tool_call>'
DOUBLE = '<tool_call>{"name": "double", "parameters": {"x": 5}}</tool_call>'
BOTH = (
    '<tool_call>{"name": "double", "parameters": {"x": 2}}</tool_call>\n'
    '<tool_call>{"name": "add", "parameters": {"a": 1, "b": 1}}</tool_call>'
)
ANSWER = "<answer>It is done.</answer>"


@pytest.fixture(scope="module")
def builder(tiny_model):
    return PromptBuilder(PreTrainedTokenizerFast.from_pretrained(tiny_model))


def run(builder, tasks, *script, reward=None, seed=0, **config):
    engine = Scripted(builder, *script)
    rollout = SingleLevelRollout(engine, ENVIRONMENT, reward or TurnReward(), RolloutConfig(**config))
    return rollout.run(None, builder, tasks, torch.Generator().manual_seed(seed)), engine


def test_a_gold_episode_has_full_reward_and_ends_with_its_answer(builder):
    result, engine = run(builder, [NESTED], [[ADD]], [[DOUBLE]], [[ANSWER]], executor_group_size=1)
    assert [role for role, *_ in engine.requests] == ["executor"] * 3  # and no fourth: the answer ends it
    assert result.groups["planner"] == []
    assert [group.rewards.tolist() for group in result.groups["executor"]] == [[1.0]] * 3
    assert result.rewards == {"nested": [1.0, 1.0, 1.0]}
    (episode,) = result.trajectories
    assert (episode.plan, episode.plan_text) == (Plan(), "")
    assert [step.text for step in episode.steps] == [ADD, DOUBLE, ANSWER]
    assert [step.feedback.text for step in episode.steps[:2]] == ["5", "10"]
    assert episode.steps[2].feedback is None
    assert episode.steps[2].action.answer == "It is done."


def test_a_prompt_is_the_one_before_what_was_sampled_and_what_follows(builder):
    """Ids that no text gives stand in the sample: a prompt made anew from its text would lose them."""
    odd = [*builder.completion(ADD)[:-1], builder.tokenizer.pad_token_id, 200]
    result, engine = run(builder, [NESTED], [[odd]], [[DOUBLE]], [[ANSWER]], executor_group_size=1)
    first, second, third = (prompts[0] for _, prompts, _ in engine.requests)
    assert first == builder.single(NESTED)
    assert second == [*first, *odd, *builder.next_turn(False, ["5"])]
    assert third == [*second, *builder.completion(DOUBLE), *builder.next_turn(True, ["10"])]
    assert "Result: 5\n\n" in builder.decode(second[len(first) + len(odd) :])
    groups = result.groups["executor"]
    assert [group.prompt_ids.tolist() for group in groups] == [first, second, third]
    assert groups[0].completion_ids[0].tolist() == odd
    assert [group.truncated.tolist() for group in groups] == [[True], [False], [False]]


def test_several_calls_of_an_output_are_answered_in_their_order(builder):
    task = replace(PARALLEL, state={"log": []})
    result, engine = run(builder, [task], [[BOTH]], [[ANSWER]], executor_group_size=1)
    first, second = (prompts[0] for _, prompts, _ in engine.requests)
    follow = builder.decode(second[len(first) + len(builder.completion(BOTH)) :])
    assert "Result: 4\nResult: 2\n\n" in follow
    (episode,) = result.trajectories
    assert [call.name for call in episode.calls] == ["double", "add"]
    assert [step.text for step in episode.steps] == [BOTH, "", ANSWER]  # the text of an output stands once
    assert [step.subtask.instruction for step in episode.steps] == ["turn 1", "turn 1", "turn 2"]
    assert result.rewards == {"parallel": [1.0, 1.0]}


def test_an_unreadable_output_is_told_so_and_the_episode_goes_on(builder):
    script = [["}{"]], [["<tool_call>x</tool_call>"]], [[ADD]]
    result, engine = run(builder, [NESTED], *script, executor_group_size=1, max_steps=3, after_error="train")
    errors = [step.feedback.error for step in result.trajectories[0].steps]
    assert errors == ["parse", "parse", None]
    assert 'Result: {"error": "there must be <tool_call>' in builder.decode(engine.requests[1][1][0])
    assert 'Result: {"error": "not JSON' in builder.decode(engine.requests[2][1][0])
    # the second has its tags: w_form is all that it earns
    assert result.rewards["nested"] == pytest.approx([0.0, 0.1, 1.0])


def test_who_watches_is_told_of_each_call_before_its_answer(builder):
    engine = Scripted(builder, [[BOTH]], [["<tool_call>?</tool_call>"]], [[ANSWER]])
    rollout = SingleLevelRollout(engine, ENVIRONMENT, TurnReward(), RolloutConfig(1, 1, after_error="train"))
    told = []
    rollout.watch = lambda task, event: told.append((task.id, event))
    result = rollout.run(None, builder, [PARALLEL], torch.Generator().manual_seed(0))
    events = [event for _, event in told]
    assert {task for task, _ in told} == {"parallel"}
    assert [type(event).__name__ for event in events] == ["Action", "Feedback"] * 3 + ["Action"]
    assert [event.call.name for event in (events[0], events[2])] == ["double", "add"]
    assert [event.text for event in (events[1], events[3])] == ["4", "2"]
    assert events[5].error == "parse"
    assert events[6].answer == "It is done."
    assert [s.action for s in result.trajectories[0].steps] == events[::2]


def test_an_error_of_the_environment_is_feedback_too(builder):
    unknown = '<tool_call>{"name": "fly", "parameters": {}}</tool_call>'
    result, engine = run(builder, [NESTED], [[unknown]], [[ANSWER]], executor_group_size=1, after_error="train")
    assert result.trajectories[0].steps[0].feedback.error == "unknown_tool"
    assert "Result: {" in builder.decode(engine.requests[1][1][0])


def test_rewards_are_those_of_the_calls_that_come_next(builder):
    wrong = ADD.replace("2", "7")
    result, _ = run(builder, [NESTED], [[ADD, wrong, ANSWER, DOUBLE]], executor_group_size=4, max_steps=1)
    (group,) = result.groups["executor"]
    # one of two values is wrong: 0.1 + 0.2 + 0.7 (1 + 1 + 1/2) / 3; another tool keeps form and syntax alone
    torch.testing.assert_close(group.rewards, torch.tensor([1.0, 0.3 + 0.7 * 2.5 / 3, 0.0, 0.3]))
    assert group.components["values"].tolist() == [1.0, 0.5, 0.0, 0.0]
    assert result.rewards["nested"] == group.rewards.tolist()


def test_what_is_expected_next_is_what_has_not_been_made(builder):
    reward, wrong = Expected(), ADD.replace("2", "7")
    add, double = (gold.call for gold in NESTED.gold)
    script = [[[wrong]], [[ADD]], [[ADD]], [[DOUBLE]], [[ANSWER]]]
    run(builder, [NESTED], *script, reward=reward, executor_group_size=1, after_error="train")
    assert reward.seen == [("nested", gold) for gold in ([add], [add], [double], [double], [])]
    assert reward.environment is ENVIRONMENT


@pytest.mark.parametrize("wrong", [ADD.replace("2", "7"), "}{", ADD + ADD, BOTH, "<answer> </answer>"])
def test_what_follows_a_wrong_or_unreadable_output_is_not_trained_on(builder, wrong):
    """The gold call stays due though success is out of reach: each answer would earn 0."""
    result, engine = run(builder, [NESTED, PARALLEL], [[wrong], [BOTH]], [[ANSWER]], executor_group_size=1)
    assert [len(prompts) for _, prompts, _ in engine.requests] == [2, 1]
    assert len(result.rewards["nested"]) == 1
    assert result.rewards["nested"][0] < 1
    assert result.rewards["parallel"] == [1.0, 1.0]
    assert len(result.groups["executor"]) == 3
    script = [[wrong]], [[ANSWER]]
    result, _ = run(builder, [NESTED], *script, executor_group_size=1, after_error="train")
    assert result.rewards["nested"][1] == 0


def test_what_follows_the_first_of_several_right_calls_is_trained_on(builder):
    """Calls that wait for nothing may come one at a time; text around a call leaves success within reach too."""
    add, double = reversed(BOTH.split("\n"))
    result, _ = run(builder, [PARALLEL], [[f"so {add}"]], [[double]], [[ANSWER]], executor_group_size=1)
    assert result.rewards["parallel"] == pytest.approx([0.9, 1.0, 1.0])  # w_form 0.1


def test_the_error_that_ends_an_episode_is_the_one_that_was_carried_out(builder):
    calls = [ADD.replace("2", str(number)) for number in range(4)]
    ended = []
    for seed in range(6):
        script = [calls], [[DOUBLE] * 4], [[ANSWER] * 4]
        result, engine = run(builder, [NESTED], *script, seed=seed)
        right = result.trajectories[0].calls[0].arguments["a"] == 2
        assert len(engine.requests) == (3 if right else 1)
        ended.append(not right)
    assert {True, False} == set(ended)


def test_independent_calls_are_expected_together(builder):
    reward, one = Expected(), '<tool_call>{"name": "double", "parameters": {"x": "2"}}</tool_call>'
    run(builder, [PARALLEL], [[one]], [[ANSWER]], reward=reward, executor_group_size=1)
    assert [gold for _, gold in reward.seen] == [
        [ToolCall("add", {"a": 1, "b": 1}), ToolCall("double", {"x": 2})],
        [ToolCall("add", {"a": 1, "b": 1})],
    ]


def test_a_reward_that_is_no_number_is_named(builder):
    class Broken(Expected):
        def total(self, components):
            return float("nan")

    with pytest.raises(
        ConfigError, match=r"the reward [\w.<>]*Broken gives nan as its total for an output of task 'nested'"
    ):
        run(builder, [NESTED], [[ADD]], reward=Broken(), executor_group_size=1)


def test_tasks_run_side_by_side_and_each_ends_by_itself(builder):
    chat = Task("chat", (Message("user", "Thanks!"),), TOOLS)
    result, engine = run(
        builder,
        [chat, NESTED],
        [[ANSWER] * 2, [ADD] * 2],
        [[DOUBLE] * 2],
        [[ANSWER, DOUBLE]],
        executor_group_size=2,
        max_steps=3,
    )
    assert [len(prompts) for _, prompts, _ in engine.requests] == [2, 1, 1]
    assert result.rewards == {"chat": [1.0, 1.0], "nested": [1.0, 1.0, 1.0, 1.0, 1.0, 0.0]}
    assert [episode.task.id for episode in result.trajectories] == ["chat", "nested"]
    groups = result.groups["executor"]
    assert [group.comparison_id for group in groups] == [0, 1, 2, 3]  # each compared with itself alone
    assert groups[1].prompt_ids.tolist() == builder.single(NESTED)
    assert groups[2].prompt_ids.tolist()[: len(groups[1].prompt_ids)] == groups[1].prompt_ids.tolist()
    assert result.metrics["rollout/tokens"] == sum(len(ids) for group in groups for ids in group.completion_ids)


def test_turns_and_prompts_have_their_limits(builder):
    result, engine = run(builder, [NESTED], *[[[ADD]]] * 2, executor_group_size=1, max_steps=2)
    assert len(engine.requests) == 2
    assert not result.trajectories[0].cut
    length = len(builder.single(NESTED))
    result, engine = run(builder, [NESTED], [[ADD]], executor_group_size=1, max_prompt_tokens=length)
    assert len(engine.requests) == 1  # the second prompt would be too long
    assert result.trajectories[0].cut
    assert [step.text for step in result.trajectories[0].steps] == [ADD]
    chat = Task("chat", (Message("user", "Hi"),), ())
    result, _ = run(builder, [NESTED, chat], [[ANSWER]], executor_group_size=1, max_prompt_tokens=length - 1)
    assert [episode.task.id for episode in result.trajectories] == ["chat"]
    assert result.rewards == {"chat": [1.0]}
    assert (result.metrics["rollout/tasks"], result.metrics["rollout/tasks_too_long"]) == (2, 1)
    result, engine = run(builder, [NESTED], max_prompt_tokens=length - 1)
    assert (result.groups, result.trajectories, result.rewards) == ({"planner": [], "executor": []}, [], {})
    assert engine.requests == []


def test_one_output_drawn_uniformly_is_carried_out(builder):
    """Of 240 draws from four outputs 60 are expected of each; 35 and 85 are 3.7 standard deviations away."""
    calls = [ADD.replace("2", str(number)) for number in range(4)]
    tasks = [replace(NESTED, id=str(i)) for i in range(240)]
    first, again, other = (
        run(builder, tasks, [calls] * 240, reward=Expected(), max_steps=1, seed=seed)[0] for seed in (0, 0, 1)
    )
    made = [[episode.calls[0].arguments["a"] for episode in result.trajectories] for result in (first, again, other)]
    assert made[0] == made[1] != made[2]
    counts = Counter(made[0])
    assert set(counts) == {0, 1, 2, 3}
    assert all(35 < count < 85 for count in counts.values())


def test_the_output_that_was_carried_out_is_the_one_that_is_continued_from(builder):
    calls = [ADD.replace("2", str(number)) for number in range(4)]
    for seed in range(4):
        result, engine = run(builder, [NESTED], [calls], [[ANSWER] * 4], seed=seed, after_error="train")
        number = result.trajectories[0].calls[0].arguments["a"]
        first, second = (prompts[0] for _, prompts, _ in engine.requests)
        follow = builder.next_turn(True, [str(number + 3)])
        assert second == [*first, *builder.completion(calls[number]), *follow]


def test_a_task_without_gold_calls_is_judged_by_its_outcome(builder):
    task = Task("o", NESTED.messages, TOOLS, outcome=Outcome((10,)))
    for script, outcome in (([[ADD]], [[DOUBLE]], [[ANSWER]]), 1.0), (([[ADD]], [[ANSWER]]), 0.0):
        result, _ = run(builder, [task], *script, reward=Expected(), executor_group_size=1)
        assert result.trajectories[0].outcome == outcome
    result, _ = run(builder, [NESTED], [[ANSWER]], executor_group_size=1)
    assert result.trajectories[0].outcome is None


@pytest.mark.parametrize("warm_start_rounds", [0, 2])
def test_the_overlay_trains_the_executor_alone(tiny_model, tmp_path, monkeypatch, warm_start_rounds):
    monkeypatch.setattr(sys, "argv", ["cahl_pl"])
    monkeypatch.setitem(sys.modules, "alternating", sys.modules[__name__])
    monkeypatch.chdir(tmp_path)  # runs/ is written there

    class Start(Callback):
        def on_train_start(self, trainer, pl_module):
            self.state = {name: tensor.clone() for name, tensor in pl_module.policy.adapter_state().items()}

    values = {
        "trainer.max_steps": 2,
        "trainer.callbacks": "[]",
        "trainer.logger": "false",
        "trainer.enable_checkpointing": "false",
        "model.policy.model": tiny_model,
        "data.tasks_per_round": 2,
        "data.warm_start_rounds": warm_start_rounds,
        "data.rollout.executor.max_new_tokens": 6,
        "data.turn_reward": "alternating.Alternating",
    }
    cli = main(
        [
            *("-c", str(CONFIGS / "quickstart.yaml"), "-c", str(CONFIGS / "ablations" / "single_level.yaml")),
            *(f"--{key}={value}" for key, value in values.items()),
        ],
        run=False,
    )
    start = Start()
    cli.trainer.callbacks.append(start)
    cli.trainer.fit(cli.model, cli.datamodule)
    assert cli.model.policy.version == {"planner": 0, "executor": 2}
    after = cli.model.policy.adapter_state()
    changed = {name for name in after if not torch.equal(after[name], start.state[name])}
    assert changed
    assert all(".executor." in name for name in changed)
    assert any(".planner." in name for name in after)
