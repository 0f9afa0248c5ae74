"""Outcome rewards on the embedded world: the gold earns all there is, and is not read."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cahl_pl.environments import ExecutableEnvironment
from cahl_pl.parsing import format_answer, format_call, format_plan, parse_action, parse_plan
from cahl_pl.rewards import OutcomeExecutorReward, OutcomePlannerReward, Target
from cahl_pl.toolworld.dataset import ToolWorld
from cahl_pl.types import Step, SubTask, Trajectory

ANSWER, BROKEN = format_answer("Done."), "<tool_call>broken</tool_call>"


def episode(task, *texts):
    """An execution whose sub-tasks name the tools that the texts call; the rewards carry the calls out themselves."""
    actions = [parse_action(text) for text in texts]
    subtasks = [SubTask("do it", action.call.name if action.call else None, {}) for action in actions]
    text = format_plan(subtasks)
    return Trajectory(task, text, parse_plan(text), tuple(map(Step, subtasks, texts, actions)))


def gold_texts(task):
    return [format_call(gold.call) for gold in task.gold] or [format_answer(task.answer or "ok")]


@pytest.mark.parametrize("split", ["train", "test", "test_unseen_tools"])
def test_the_gold_of_toolworld_earns_one_and_is_not_read(split):
    environment = ExecutableEnvironment("cahl_pl.toolworld.toolkit")
    planner, executor = OutcomePlannerReward(), OutcomeExecutorReward()
    planner.environment = executor.environment = environment
    for number, task in enumerate(ToolWorld(split, 100)):
        right, blind = episode(task, *gold_texts(task)), replace(task, gold=())
        assert planner.total(planner.components(right.plan, [right])) == 1
        for i, step in enumerate(right.steps):
            for target in (Target("call"), Target("answer")):
                scored = executor.components(step, target, right, i)
                assert scored == {"form": 1, "syn": 1, "outcome": 1}
                assert executor.total(scored) == pytest.approx(1)
        if number % 4:  # the rest for a part of them
            continue
        texts = gold_texts(task)
        for bad in (texts * 2, texts[:-1] or [ANSWER], [*texts, BROKEN], [ANSWER], [BROKEN], texts[::-1]):
            ran = episode(task, *bad)
            told = replace(ran, task=blind)
            assert planner.components(ran.plan, [ran, right]) == planner.components(
                ran.plan, [told, replace(right, task=blind)]
            )
            target = Target("call", task.gold[0]) if task.gold else Target("answer")
            for i, step in enumerate(ran.steps):
                found = executor.components(step, target, ran, i)
                assert found == executor.components(step, Target("answer"), told, i)
