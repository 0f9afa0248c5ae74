"""A task that needs two calls, the second with the first one's result, and one that needs none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from cahl_pl.parsing import format_answer, format_call, format_plan, parse_action, parse_plan
from cahl_pl.types import GoldCall, Message, Step, SubTask, Task, ToolSpec, Trajectory

WEATHER = ToolSpec(
    "get_weather",
    "Weather of a city.",
    {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city", "days"],
    },
)
SEND = ToolSpec(
    "send_text",
    "Send a text.",
    {
        "type": "object",
        "properties": {"to": {"type": "string"}, "message": {"type": "string"}},
        "required": ["to", "message"],
    },
)
NEWS = ToolSpec(
    "get_news",
    "News of a city.",
    {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
)
REQUEST = "Please send Bero the weather in Talomi for the next 3 days as a text"


@pytest.fixture
def task() -> Task:
    return Task(
        id="nested",
        messages=(Message("user", REQUEST),),
        tools=(NEWS, WEATHER, SEND),
        gold=(
            GoldCall("get_weather", {"city": "Talomi", "days": 3}, result="rain"),
            GoldCall("send_text", {"to": "Bero", "message": "rain"}, result=True, references={"message": "$1"}),
        ),
        ordered=True,
    )


@pytest.fixture
def parallel(task: Task) -> Task:
    """Two calls whose order means nothing."""
    gold = (
        GoldCall("get_weather", {"city": "Talomi", "days": 3}),
        GoldCall("send_text", {"to": "Bero", "message": "hi"}),
    )
    return replace(task, id="parallel", gold=gold, ordered=False)


@pytest.fixture
def chat(task: Task) -> Task:
    """A request that needs no tool."""
    return replace(task, id="chat", messages=(Message("user", "Thank you!"),), gold=(), answer="You are welcome.")


@pytest.fixture
def run() -> Callable[..., Trajectory]:
    """Makes a trajectory of a task from the texts of its plan and of its steps' outputs."""

    def make(task: Task, plan_text: str, *outputs: str) -> Trajectory:
        plan = parse_plan(plan_text)
        subtasks = plan.subtasks + (SubTask("", None),) * len(outputs)
        steps = tuple(
            Step(subtask, output, parse_action(output)) for subtask, output in zip(subtasks, outputs, strict=False)
        )
        return Trajectory(task, plan_text, plan, steps)

    return make


@pytest.fixture
def gold_plan() -> Callable[[Task], str]:
    """The plan of a task's gold calls, or of an answer in text."""

    def make(task: Task) -> str:
        subtasks = [SubTask("do it", gold.name, gold.planned.arguments) for gold in task.gold]
        return format_plan(subtasks or [SubTask("answer", None)])

    return make


@pytest.fixture
def gold_run(run: Callable[..., Trajectory], gold_plan: Callable[[Task], str]) -> Callable[[Task], Trajectory]:
    """The trajectory of a task's gold calls, or of its answer in text."""

    def make(task: Task) -> Trajectory:
        outputs = [format_call(gold.call) for gold in task.gold] or [format_answer(task.answer or "ok")]
        return run(task, gold_plan(task), *outputs)

    return make
