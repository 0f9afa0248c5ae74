from __future__ import annotations

from cahl_pl.rewards import PlannerReward
from cahl_pl.rewards.ways import way_of_calls, way_of_plan
from cahl_pl.types import Action, GoldCall, Message, Plan, Step, SubTask, Task, ToolCall, ToolSpec, Trajectory

TEXT = {"type": "string"}


def tool(name, *parameters):
    return ToolSpec(name, name, {"type": "object", "properties": dict.fromkeys(parameters, TEXT)})


TOOLS = (tool("city", "name"), tool("weather", "city"), tool("weather_of", "name"))
FINE = (GoldCall("city", {"name": "Bero"}, "Rome"), GoldCall("weather", {"city": "Rome"}, "dry", {"city": "$1"}))
COARSE = (GoldCall("weather_of", {"name": "Bero"}, "dry"),)
TASK = Task("t", (Message("user", "?"),), TOOLS, FINE, alternatives=(COARSE,))


def plan_of(*names):
    return Plan(tuple(SubTask("do", name) for name in names))


def executed(task, *calls):
    """The calls, made under sub-tasks of the same tools."""
    plan = plan_of(*(call.name for call in calls))
    steps = tuple(Step(s, "", Action(call=c, well_formed=True)) for s, c in zip(plan.subtasks, calls, strict=True))
    return Trajectory(way_of_plan(task, plan), "", plan, steps)


def test_a_plan_is_scored_against_the_way_that_it_takes():
    assert way_of_plan(TASK, plan_of("weather_of")).gold == COARSE
    assert way_of_plan(TASK, plan_of("city", "weather")).gold == FINE
    assert way_of_plan(TASK, plan_of("weather", "city", None)).gold == FINE
    assert way_of_plan(TASK, plan_of("city", "weather", "weather_of")).gold == FINE  # 2 of 3 against 1 of 3
    assert way_of_plan(TASK, Plan(error="unreadable")).gold == FINE  # none: the first
    assert way_of_plan(TASK, plan_of("weather_of")).alternatives == ()


def test_among_ways_with_the_same_tools_the_arguments_decide():
    rome, bern = ((GoldCall("weather", {"city": city}),) for city in ("Rome", "Bern"))
    task = Task("t", (Message("user", "?"),), TOOLS, rome, alternatives=(bern,))
    assert way_of_plan(task, Plan((SubTask("", "weather", {"city": "Bern"}),))).gold == bern


def test_a_task_with_one_way_is_the_same_object():
    task = Task("t", (Message("user", "?"),), TOOLS, FINE)
    assert way_of_plan(task, plan_of("weather_of")) is task
    assert way_of_calls(task, [ToolCall("weather_of", {"name": "Bero"})]) is task


def test_calls_without_a_plan_find_their_way():
    assert way_of_calls(TASK, []).gold == COARSE  # nothing is made yet: the shortest
    assert way_of_calls(TASK, [ToolCall("city", {"name": "Bero"})]).gold == FINE
    assert way_of_calls(TASK, [ToolCall("city", {"name": "Nena"})]).gold == FINE
    assert way_of_calls(TASK, [ToolCall("weather_of", {"name": "Bero"})]).gold == COARSE


def test_each_way_earns_one_and_both_at_once_do_not_pay():
    reward = PlannerReward(w_param=0.0, w_exe=1.0)

    def earned(*calls):
        trajectory = executed(TASK, *calls)
        return reward.total(reward.components(trajectory.plan, [trajectory]))

    fine, coarse = [gold.call for gold in FINE], [gold.call for gold in COARSE]
    assert earned(*fine) == 1.0
    assert earned(*coarse) == 1.0
    assert earned(*fine, *coarse) == 2 / 3
    assert earned(fine[0], *coarse) == 0.5
    assert earned(fine[1]) == 0.5
