"""Tasks whose first call may fail: that nobody can tell, that the detour works, and that no blind policy is paid more."""

from __future__ import annotations

import copy
import json
from itertools import islice

import jsonschema
import pytest

from cahl_pl.datasets.jsonl import row_to_task, task_to_row
from cahl_pl.environments import ExecutableEnvironment
from cahl_pl.metrics import is_success
from cahl_pl.parsing import format_answer, format_call, parse_action
from cahl_pl.rewards.executor import ExecutorReward
from cahl_pl.rewards.outcome import outcome_reward
from cahl_pl.rewards.planner import PlannerReward
from cahl_pl.rewards.targets import assign_gold
from cahl_pl.rollout.gold import gold_parts, gold_plan, gold_turns
from cahl_pl.rollout.left_over import left_over
from cahl_pl.toolworld import SPLITS, ToolError, ToolWorldRecover, toolkit
from cahl_pl.toolworld.generate import split_of
from cahl_pl.toolworld.recover import generate_recoveries
from cahl_pl.toolworld.tools import TOOLS
from cahl_pl.types import Action, Plan, Step, SubTask, Task, ToolCall, Trajectory

ENVIRONMENT = ExecutableEnvironment(toolkit)


def tasks_of(split, count=150, **proportions):
    return list(islice(generate_recoveries(split, 3, proportions=proportions), count))


@pytest.fixture(scope="module", params=SPLITS)
def pairs(request):
    """40 requests of a split: the task that is done at once, and the one that is not."""
    return list(zip(tasks_of(request.param, 40, direct=1), tasks_of(request.param, 40, recover=1), strict=True))


def test_nothing_tells_whether_the_first_call_will_fail(pairs):
    for direct, recover in pairs:
        assert (direct.messages, direct.tools) == (recover.messages, recover.tools)
        assert direct.gold[0].call == recover.gold[0].call
        assert gold_plan(direct) == gold_plan(recover)
        assert (direct.tags["kind"], recover.tags["kind"]) == ("direct", "recover")
        assert direct.tags["detour"] == recover.tags["detour"]


def test_half_of_the_tasks_are_done_at_once():
    kinds = [task.tags["kind"] for task in tasks_of("train", 200, recover=0.5, direct=0.5)]
    assert 75 <= kinds.count("direct") <= 125
    detours = [task.tags["detour"] for task in tasks_of("train", 150, recover=1)]
    assert all(30 <= detours.count(detour) <= 70 for detour in ("name", "tool", "number"))


def test_gold_calls_give_their_results_and_lead_to_the_outcome(pairs):
    for task in (task for pair in pairs for task in pair):
        tools = toolkit(copy.deepcopy(task.state))
        for number, call in enumerate(task.gold):
            jsonschema.validate(dict(call.arguments), dict(task.tool(call.name).parameters))
            if task.foreseen is not None and number < task.foreseen:
                with pytest.raises(ToolError) as failed:
                    tools[call.name](**call.arguments)
                assert call.result == {"error": str(failed.value)}
            else:
                assert tools[call.name](**call.arguments) == call.result
        steps = [step(task, call.call) for call in task.gold]
        assert is_success(Trajectory(task, "", Plan(), tuple(steps)))
        if task.tags["kind"] == "direct":  # of a call that failed, the outcome says that it served nothing
            assert outcome_reward(task, steps, ENVIRONMENT) == 1.0
        assert outcome_reward(task, steps[-1:], ENVIRONMENT) == 1.0


def test_what_the_detour_needs_stands_in_the_error_alone(pairs):
    for _, task in pairs:
        first, second = task.gold
        error = first.result["error"]
        new = [v for v in second.arguments.values() if v not in first.arguments.values()]
        if task.tags["detour"] == "tool":
            taking = [t for t in task.tools if taken(task, t.name) == taken(task, first.name)]
            assert len(taking) >= 4  # the first one, and three that might be meant
            assert not new
            assert error.endswith(second.name)
        else:
            assert second.name == first.name
            (value,) = new
            assert str(value) in error.split()[-1]
            assert str(value) not in task.request.split()


def taken(task, name):
    tool = TOOLS[task.state["aliases"][name]["tool"]]
    return bool(tool.asks), [(p.type, p.kind and p.kind.name) for p in tool.parameters.values()]


def test_splits_are_kept_apart():
    for split in SPLITS:
        for task in tasks_of(split, 30, recover=1, direct=1):
            assert split_of(task.request) == ("train" if split == "train" else "test")
            unseen = [TOOLS[alias["tool"]].unseen for alias in task.state["aliases"].values()]
            first = TOOLS[task.state["aliases"][task.gold[0].name]["tool"]]
            assert first.unseen == (split == "test_unseen_tools")
            assert split == "test_unseen_tools" or not any(unseen)


def test_tasks_are_the_same_again_and_can_be_written_down():
    source = ToolWorldRecover("test", size=12, seed=5)
    assert [source[i] for i in range(12)] == list(islice(generate_recoveries("test", 5), 12))
    for task in (source[i] for i in range(12)):
        assert row_to_task(json.loads(json.dumps(task_to_row(task)))) == task
    with pytest.raises(ValueError, match=r"Unknown kinds of tasks \['single'\]"):
        generate_recoveries("train", 0, proportions={"single": 1})


def test_an_executor_that_works_alone_makes_the_second_call_after_it_has_seen_the_first_one_fail(pairs):
    for direct, recover in pairs[:20]:
        assert [len(turn) for turn in gold_turns(direct)] == [1]
        assert [len(turn) for turn in gold_turns(recover)] == [1, 1]


# --- policies ---------------------------------------------------------------------------------------------------------


def step(task, call):
    text = format_call(call)
    return Step(SubTask("do it", call.name, call.arguments), text, Action(call=call, well_formed=True))


def planned(gold):
    return SubTask("do it", gold.name, gold.planned.arguments)


def carried_out(task: Task, subtasks, session) -> Trajectory:
    """An executor that makes the calls that it is told to."""
    steps = []
    for z in subtasks:
        if z.tool is None:
            steps.append(Step(z, format_answer("Done."), Action(answer="Done.", well_formed=True)))
        else:
            call = planned_call(z)
            action = Action(call=call, well_formed=True)
            steps.append(Step(z, format_call(call), action, session.call(call)))
    return Trajectory(task, "", Plan(tuple(subtasks)), tuple(steps))


def planned_call(z):
    return ToolCall(z.tool, z.parameters)


ANSWER = SubTask("say so", None)


def guess(task):
    """A detour that is planned without having seen the error: other tools that take the same, or the same one, other values."""
    first = task.gold[0]
    others = [t for t in task.tools if t.name != first.name and taken(task, t.name) == taken(task, first.name)]
    if task.tags["detour"] == "tool":
        values = first.arguments.values()
        names = {t.name: task.tool(t.name).parameters["properties"] for t in others}
        return [SubTask("do it", name, dict(zip(own, values, strict=True))) for name, own in names.items()]
    return [SubTask("do it", first.name, {k: "Zuzu" if isinstance(v, str) else 7 for k, v in first.arguments.items()})]


def first_call(task):
    return [planned(task.gold[0])]


def rest(left):
    return [planned(gold) for gold in left.gold] or [ANSWER]


def answer(left):
    return [ANSWER]


POLICIES = {  # what is planned at first, and what after a failure
    "right": (first_call, rest),
    "repeat the failed call": (first_call, lambda left: [failed_call(left)]),
    "repeat it at once": (lambda task: first_call(task) * 2, lambda left: [failed_call(left)] * 2),
    "plan all detours blindly": (lambda task: [*first_call(task), *guess(task)], answer),
    "plan one detour blindly": (lambda task: [*first_call(task), *guess(task)[:1]], answer),
    "plan nothing": (answer, answer),
    "plan no sub-task": (lambda task: [], lambda left: []),
    "give up after a failure": (first_call, answer),
    "fail for the sake of a further plan": (lambda task: [SubTask("fail", "nothing", {})], rest),
}


def failed_call(left):
    """The call that failed, as the dialogue says it."""
    texts = [m.content for m in left.messages if m.role == "assistant"]
    call = parse_action(texts[-1]).call
    return SubTask("again", call.name, call.arguments)


def paid(policy, task):
    """R_h of the first plan and of the further one (None where nothing failed), and the success of the whole episode."""
    first_plan, further = POLICIES[policy]
    reward = PlannerReward(0.3, 0.7)
    session = ENVIRONMENT.start(task)
    whole = carried_out(task, first_plan(task), session)
    scored = Trajectory(task.foreseeable, "", whole.plan, whole.steps)
    first = reward.total(reward.components(whole.plan, [scored]))
    at = next((k for k, s in enumerate(whole.steps, start=1) if s.feedback is not None and s.feedback.error), 0)
    if not at:
        return first, None, is_success(whole)
    session = ENVIRONMENT.start(task)
    for made in whole.steps[:at]:
        session.call(made.action.call)
    left = left_over(task, whole.steps[:at])
    second = carried_out(left, further(left), session)
    joined = Trajectory(task, "", Plan(), (*whole.steps[:at], *second.steps))
    return first, reward.total(reward.components(second.plan, [second])), is_success(joined)


def mean(values):
    values = [value for value in values if value is not None]
    return sum(values) / len(values) if values else None


def test_the_right_policy_is_paid_in_full(pairs):
    for direct, recover in pairs:
        assert paid("right", direct) == (1.0, None, True)
        assert paid("right", recover) == (1.0, 1.0, True)


@pytest.mark.parametrize("policy", [name for name in POLICIES if name != "right"])
def test_no_degenerate_policy_is_paid_more(pairs, policy):
    """On either kind of task, by R_h of the first plan and of further ones, and less by one of these or by success."""
    less = False
    for kind in zip(*pairs, strict=True):
        own, right = (tuple(map(mean, zip(*(paid(name, t) for t in kind), strict=True))) for name in (policy, "right"))
        for mine, best in zip(own, right, strict=True):
            if best is not None and mine is not None:
                assert mine <= best
                less |= mine < best - 0.1
        if policy.startswith("plan") and policy != "plan nothing":
            assert own[0] < 0.6  # the further plan that it spares is no bargain
    assert less


def test_a_plan_that_foresees_too_much_loses_on_both(pairs):
    for pair in pairs[:30]:
        for task in pair:
            blind, _, success = paid("plan all detours blindly", task)
            assert blind <= 0.3 + 0.7 / 2
            assert success is False or task.tags["detour"] == "tool"


def test_an_executor_that_repairs_the_call_silently_is_not_paid_for_it(pairs):
    """The plan names the call twice; at its second step the executor has seen the error, and makes the right call."""
    reward = ExecutorReward()
    for _, task in pairs:
        twice = Plan((planned(task.gold[0]),) * 2)
        _, target = assign_gold(twice, task.foreseeable)
        made = step(task, task.gold[1].call)
        found = reward.components(made, target, Trajectory(task.foreseeable, "", twice), 1)
        assert reward.total(found) == 0.0


def test_gold_of_the_warm_start_is_right_in_both_parts(pairs):
    for direct, recover in pairs:
        assert gold_parts(direct) == [direct]
        first, further = gold_parts(recover)
        assert (first.gold, further.gold) == (recover.gold[:1], recover.gold[1:])
        assert further.messages[-1].content == json.dumps(recover.gold[0].result)
        assert further.messages[:-2] == recover.messages
