"""Further plans in training: whose they are, where they begin, what they earn, and what stays as it was."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from cahl_pl.engines.base import Completion, Engine
from cahl_pl.environments import ExecutableEnvironment, RecordedEnvironment
from cahl_pl.environments.base import Environment, Session
from cahl_pl.errors import ConfigError
from cahl_pl.parsing import format_answer, format_call, format_plan
from cahl_pl.prompts import PromptBuilder, PromptConfig
from cahl_pl.rewards.executor import ExecutorReward
from cahl_pl.rewards.outcome import OutcomeExecutorReward, OutcomePlannerReward
from cahl_pl.rewards.planner import PlannerReward
from cahl_pl.rollout.config import RolloutConfig
from cahl_pl.rollout.evaluation import greedy
from cahl_pl.rollout.two_level import Rollout
from cahl_pl.types import Feedback, GoldCall, Message, Outcome, SubTask, Task, ToolCall, ToolSpec

TOOLS = tuple(
    ToolSpec(name, name, {"type": "object", "properties": {"item": {"type": "string"}}, "required": ["item"]})
    for name in ("take", "find")
)
TAKE, FIND, OTHER = (
    ToolCall("take", {"item": "nut"}),
    ToolCall("find", {"item": "nut"}),
    ToolCall("take", {"item": "fig"}),
)


class Shop:
    """`take` works on what has been found; counts the calls of all sessions."""

    def __init__(self):
        self.calls = []

    def __call__(self, state):
        def find(item):
            self.calls.append(("find", item))
            state["found"][item] = True
            return "shelf"

        def take(item):
            self.calls.append(("take", item))
            if not state["found"].get(item):
                raise ValueError(f"seek {item}")
            return "taken"

        return {"find": find, "take": take}


def task(request="first", gold=(TAKE, FIND), foreseen=1):
    results = {"take": {"error": "seek nut"}, "find": "shelf"}
    calls = tuple(GoldCall(call.name, call.arguments, results[call.name]) for call in gold)
    state = {"found": {}}
    return Task(request, (Message("user", request),), TOOLS, calls, ordered=True, foreseen=foreseen, state=state)


def plan(*calls):
    return format_plan(
        [SubTask("do it", call.name, call.arguments) if call else SubTask("say so", None) for call in calls]
    )


class Scripted(Engine):
    """Writes the plans of each request in their order; the executor's outputs are what its sub-task says, or noise."""

    def __init__(self, builder, plans, noise=()):
        self.builder, self.plans = builder, {request: list(texts) for request, texts in plans.items()}
        self.noise = list(noise)
        self.read, self.executor_read = [], []

    def generate(self, policy, role, prompts, num_samples, sampling, generator):
        texts = [self.builder.tokenizer.decode(prompt, skip_special_tokens=True) for prompt in prompts]
        if role == "planner":
            self.read += texts
            mine = [self.plans[next(r for r in self.plans if r in text)] for text in texts]
            return [[self._write(own.pop(0)) for _ in range(num_samples)] for own in mine]
        self.executor_read += texts
        subtasks = [json.loads(text[text.rindex("Do ") + 3 :].split("\n")[0]) for text in texts]
        return [[self._write(self._output(z)) for _ in range(num_samples)] for z in subtasks]

    def _output(self, subtask):
        if self.noise:
            return self.noise.pop(0)
        return (
            format_call(ToolCall(subtask["tool"], subtask["parameters"])) if subtask["tool"] else format_answer("Done.")
        )

    def _write(self, text):
        ids = torch.tensor(self.builder.completion(text))
        return Completion(ids, torch.zeros(len(ids)), ended=True)


@pytest.fixture(scope="module")
def builder(tiny_model):
    prompts = PromptConfig(system="", planner="Plan", executor="Do {subtask}", feedback="Result: {feedback}")
    return PromptBuilder(PreTrainedTokenizerFast.from_pretrained(tiny_model), prompts)


@pytest.fixture
def play(builder):
    """Plays a round with these plans: its result, the engine, the calls made and the generator as it is left."""

    def roll(plans, tasks=None, environment=None, noise=(), **config):
        plans = plans if isinstance(plans, dict) else {"first": plans}
        shop, engine = Shop(), Scripted(builder, plans, noise)
        limits = RolloutConfig(**({"planner_group_size": 2, "executor_group_size": 2, "replans": 1} | config))
        environment = environment or ExecutableEnvironment(shop)
        rollout = Rollout(engine, environment, PlannerReward(0.3, 0.7), ExecutorReward(), limits)
        generator = torch.Generator().manual_seed(0)
        result = rollout.run(None, builder, tasks or [task(r) for r in plans], generator)
        return result, engine, shop.calls, generator

    return roll


def shown(builder, group):
    return [builder.decode(ids) for ids in group.completion_ids]


def test_a_failed_call_is_planned_again_in_a_group_of_its_own(play, builder):
    plans = [plan(TAKE), plan(TAKE), plan(FIND), plan(TAKE)]
    result, engine, *_ = play(plans)
    first, again = result.groups["planner"]
    assert shown(builder, first) == plans[:2]
    assert shown(builder, again) == plans[2:]
    assert [g.comparison_id for g in result.groups["planner"]] == [0, 1]
    assert engine.read[1].index("first") < engine.read[1].index(format_call(TAKE)) < engine.read[1].index("seek nut")
    assert again.prompt_ids.tolist() != first.prompt_ids.tolist()
    assert first.rewards.tolist() == [1.0, 1.0]  # of what could be foreseen all is done
    assert again.rewards.tolist() == [1.0, 0.0]  # `find` is left; `take` is neither the tool nor the value's place
    assert (result.metrics["replan/groups"], result.metrics["replan/success"]) == (1.0, 0.5)
    assert result.metrics["replan/left_out"] == 0.0


def test_a_further_plan_that_does_a_part_earns_a_part(play):
    """Left are find(nut) and find(fig). Of find(nut), find(pear): param 1/2, exe (1 + 2/3) / 2; of find(nut): 1/2 and 1/2."""
    fig, pear = ToolCall("find", {"item": "fig"}), ToolCall("find", {"item": "pear"})
    plans = [plan(TAKE)] * 2 + [plan(FIND, pear), plan(FIND)]
    result, *_ = play(plans, [task(gold=(TAKE, FIND, fig))])
    again = result.groups["planner"][1]
    assert again.components["param"].tolist() == [0.5, 0.5]
    assert again.components["exe"].tolist() == pytest.approx([5 / 6, 1 / 2])
    assert again.rewards.tolist() == pytest.approx([0.3 / 2 + 0.7 * 5 / 6, 1 / 2])
    assert result.metrics["replan/success"] == 0.0


def test_outputs_that_were_not_carried_out_count_in_what_a_further_plan_is_paid(play):
    """Each step has two outputs, of which one is wrong: whichever is carried out, their mean is what is paid (`unbiased`)."""
    right, wrong = format_call(FIND), format_call(OTHER)
    noise = [format_call(TAKE)] * 4 + [right, wrong, wrong, right]
    result, *_ = play([plan(TAKE)] * 2 + [plan(FIND)] * 2, noise=noise)
    again = result.groups["planner"][1]
    assert again.components["exe"].tolist() == [0.5, 0.5]
    assert [g.components["sem"].tolist() for g in result.groups["executor"][2:]] == [[1.0, 0.0], [0.0, 1.0]]


def test_the_executors_groups_of_further_plans_are_comparisons_of_their_own(play):
    result, *_ = play([plan(TAKE, FIND), plan(TAKE), plan(FIND, TAKE), plan(FIND)])
    ids = [g.comparison_id for g in result.groups["executor"]]
    assert ids == [0, 6, 1, 12, 18, 13]  # plan x max_steps + step: plans 0 and 1, then 2 and 3
    assert len(set(ids)) == len(ids)


def test_episodes_that_are_reported_are_those_of_first_plans(play):
    result, *_ = play([plan(TAKE), plan(FIND), plan(FIND), plan(FIND)])
    assert [[z.tool for z in e.plan.subtasks] for e in result.trajectories] == [["take"], ["find"]]
    assert all(len(e.task.gold) == 2 and e.task.foreseen == 1 for e in result.trajectories)  # success asks for all
    assert list(result.rewards) == ["first"]
    assert result.rewards["first"] == result.groups["planner"][0].rewards.tolist()


def test_what_first_plans_are_worth_is_the_same_with_and_without_further_plans(play):
    plans = [plan(TAKE, FIND), plan(TAKE, TAKE), plan(FIND), plan(FIND)]
    with_them, without = (play(plans, replans=n)[0] for n in (1, 0))
    for role in ("planner", "executor"):
        for one, other in zip(with_them.groups[role], without.groups[role], strict=False):
            assert one.rewards.tolist() == other.rewards.tolist()
            assert one.comparison_id == other.comparison_id
            assert [ids.tolist() for ids in one.completion_ids] == [ids.tolist() for ids in other.completion_ids]
    assert with_them.trajectories == without.trajectories
    assert not any(tag.startswith("replan/") for tag in without.metrics)
    # the first plan may go past the failure: named twice, one call that could be foreseen
    assert without.groups["planner"][0].components["exe"].tolist() == [0.5, 0.5]


def test_a_call_that_could_not_be_foreseen_is_not_paid_before_it_was_seen(play):
    """A plan that makes the detour blindly: its second call is surplus, for planner and executor."""
    result, *_ = play([plan(TAKE, FIND), plan(TAKE), plan(FIND), plan(FIND)])
    assert result.groups["planner"][0].components["exe"].tolist() == [0.5, 1.0]
    surplus = next(g for g in result.groups["executor"] if g.comparison_id == 1)
    assert surplus.rewards.tolist() == [0.0, 0.0]
    right = next(g for g in result.groups["executor"] if g.comparison_id == 12)
    assert right.rewards.tolist() == [1.0, 1.0]


def test_a_further_plan_begins_at_the_first_failure_of_its_episode(play):
    """Two plans fail at their second call and go on; in each session the two calls are made again, and none behind them."""
    result, engine, calls, _ = play(
        [plan(FIND, OTHER, TAKE)] * 2 + [plan(TAKE)] * 2, [task(gold=(FIND, TAKE), foreseen=None)]
    )
    assert format_call(TAKE) not in engine.read[1]
    assert calls[6:] == [("find", "nut"), ("take", "fig")] * 2 + [("take", "nut")] * 2
    assert result.groups["planner"][1].rewards.tolist() == [
        1.0,
        1.0,
    ]  # of find and take, take is left, in the same state
    assert result.metrics["replan/success"] == 1.0


def test_where_nothing_is_left_to_do_the_right_plan_answers(play):
    gold = task(gold=(TAKE,), foreseen=None)
    result, *_ = play([plan(TAKE)] * 2 + [plan(None), plan(FIND)], [gold])
    assert result.groups["planner"][1].rewards.tolist() == [1.0, 0.0]
    assert result.metrics["replan/success"] == 0.5


@pytest.mark.parametrize(("replans", "asked"), [(1, 2), (2, 3), (3, 3)])
def test_a_request_is_planned_again_no_more_often_than_allowed(play, replans, asked):
    """The second plans fail too; the third do not."""
    plans = [plan(TAKE)] * 2 + [plan(OTHER)] * 2 + [plan(FIND)] * 2
    result, engine, calls, _ = play(plans, replans=replans)
    assert len(engine.read) == asked
    assert len(result.groups["planner"]) == asked
    assert [g.comparison_id for g in result.groups["planner"]] == list(range(asked))
    if asked == 3:
        assert engine.read[2].count("seek nut") == engine.read[2].count("seek fig") == 1
        assert calls[-6:-2] == [("take", "nut"), ("take", "fig")] * 2  # all calls since the beginning, in each session
        assert result.metrics["replan/success"] == 0.5


def test_of_several_requests_those_that_failed_are_planned_again_once_each(play, builder):
    plans = {
        "first": [plan(FIND)] * 2,
        "second": [plan(FIND), plan(TAKE), plan(FIND), plan(FIND)],
        "third": [plan(TAKE)] * 2 + [plan(FIND)] * 2,
    }
    result, engine, *_ = play(plans)
    assert [next(r for r in plans if r in text) for text in engine.read] == [
        "first",
        "second",
        "third",
        "second",
        "third",
    ]
    assert [g.comparison_id for g in result.groups["planner"]] == [0, 1, 2, 3, 4]
    assert list(result.rewards) == ["first", "second", "third"]


def test_which_failed_episode_goes_on_is_drawn_alike(builder):
    """Of two that failed differently, each is drawn in about half of the rounds; the one that did not fail never."""
    drawn = []
    for seed in range(60):
        engine = Scripted(builder, {"first": [plan(TAKE), plan(OTHER), plan(FIND)] + [plan(FIND)] * 3})
        limits = RolloutConfig(3, 2, replans=1)
        rollout = Rollout(engine, ExecutableEnvironment(Shop()), PlannerReward(), ExecutorReward(), limits)
        rollout.run(None, builder, [task()], torch.Generator().manual_seed(seed))
        drawn.append("seek nut" in engine.read[1])
    assert 18 <= sum(drawn) <= 42


def test_outputs_without_a_call_are_no_failure(play):
    result, engine, *_ = play([plan(TAKE)] * 2, noise=["hm"] * 4)
    assert len(engine.read) == 1
    assert (result.metrics["replan/groups"], "replan/success" in result.metrics) == (0.0, False)


def test_a_further_prompt_that_is_too_long_is_not_run(play, builder):
    limit = len(builder.executor(task(), SubTask("do it", "take", TAKE.arguments)))
    result, engine, *_ = play([plan(TAKE)] * 2, max_prompt_tokens=limit)
    assert len(engine.read) == 1
    assert result.metrics["replan/groups"] == 0.0


@pytest.mark.parametrize("branching", ["step", "trajectory"])
def test_each_execution_of_a_further_plan_has_a_session_of_its_own(play, branching):
    again = [plan(FIND, TAKE), plan(TAKE, TAKE)]  # in one session, the second plan would find what the first one has
    result, engine, calls, _ = play([plan(TAKE)] * 2 + again, [task(gold=(TAKE, FIND, TAKE))], branching=branching)
    copies = 2 if branching == "trajectory" else 1
    assert (
        calls.count(("take", "nut")) == 2 * copies + 2 * copies + 3 * copies
    )  # first plans, made again, further plans
    last = engine.executor_read[-2 * copies :]  # the second steps, each behind the answer to the first one
    assert ['"shelf"' in text for text in last] == [True] * copies + [False] * copies
    assert [text.count("seek nut") for text in last] == [1] * copies + [2] * copies
    exe = result.groups["planner"][1].components["exe"].tolist()
    assert exe == [1.0, 0.5]
    ids = [g.comparison_id for g in result.groups["executor"]]
    assert len(set(ids)) == 2 + 4


class Moody(Environment):
    """Answers each session's calls with its number."""

    def __init__(self):
        self.started = 0

    def start(self, task):
        self.started += 1
        number = self.started

        class Numbered(Session):
            def call(self, call):
                return Feedback(json.dumps({"error": f"no {number}"}), "tool")

        return Numbered()


def test_where_calls_are_answered_otherwise_when_they_are_made_again_the_episode_is_left_out(play):
    result, engine, *_ = play([plan(TAKE)] * 2, environment=Moody())
    assert len(engine.read) == 1
    assert (result.metrics["replan/left_out"], result.metrics["replan/groups"]) == (1.0, 0.0)


def test_recorded_failures_are_planned_again(play):
    result, *_ = play([plan(TAKE)] * 2 + [plan(FIND)] * 2, environment=RecordedEnvironment())
    assert result.groups["planner"][1].rewards.tolist() == [1.0, 1.0]
    assert result.metrics["replan/success"] == 1.0


def test_a_task_that_is_judged_by_its_outcome_is_not_planned_again(play):
    judged = replace(task(gold=(), foreseen=None), outcome=Outcome(("taken",)))
    result, engine, *_ = play([plan(TAKE)] * 2, [judged])
    assert len(engine.read) == 1
    assert result.metrics["replan/groups"] == 0.0


def test_equal_further_plans_are_marked_for_pooling(play):
    result, *_ = play([plan(TAKE), plan(TAKE), plan(FIND), plan(TAKE)])
    assert [g.alike.tolist() for g in result.groups["planner"]] == [[0, 0], [0, 1]]


def test_the_same_generator_plays_the_same_round(play):
    plans = [plan(TAKE), plan(OTHER), plan(FIND), plan(FIND)]
    (one, *_, left), (other, *_, again) = play(plans), play(plans)
    assert one.groups["planner"][1].prompt_ids.tolist() == other.groups["planner"][1].prompt_ids.tolist()
    assert left.get_state().equal(again.get_state())


def test_evaluations_have_their_own_key():
    assert greedy(RolloutConfig(replans=3)).replans == 0


def test_what_cannot_be_planned_again_is_refused():
    with pytest.raises(ValueError, match=r"data\.rollout\.replans must be at least 0, not -1"):
        RolloutConfig(replans=-1)
    rewards = [PlannerReward(), ExecutorReward()]
    RolloutConfig(replans=1).check_replans(False, rewards)
    RolloutConfig().check_replans(True, [OutcomePlannerReward(), OutcomeExecutorReward()])
    with pytest.raises(ConfigError, match=r"data\.single_level trains without plans"):
        RolloutConfig(replans=1).check_replans(True, rewards)
    for reward in (OutcomePlannerReward(), OutcomeExecutorReward()):
        with pytest.raises(ConfigError, match=rf"{type(reward).__name__} judges whole episodes by their outcome"):
            RolloutConfig(replans=1).check_replans(False, [PlannerReward(), reward])
