"""Whatever follows a grammar is read as a plan, or as a call that its schema allows; and gold outputs follow it."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("llguidance", reason="grammars need llguidance: pip install 'cahl-pl[constrained]'")

from cahl_pl.datasets import RllaDataset
from cahl_pl.parsing import format_answer, format_call, format_plan, format_turn, parse_action, parse_plan, parse_turn
from cahl_pl.prompts import PromptBuilder, PromptConfig
from cahl_pl.rollout.gold import gold_plan
from cahl_pl.schema import find_problems
from cahl_pl.schema.references import references_in
from cahl_pl.toolworld import ToolWorld
from cahl_pl.types import SubTask, Task, ToolCall

from .conftest import Bench


def check_plan(text, task):
    """The faults of a plan: one that cannot be read, or a line that names another tool, other parameters or a later line."""
    plan = parse_plan(text)
    assert plan.error is None, (plan.error, text)
    for k, subtask in enumerate(plan.subtasks):
        if subtask.tool is None:
            assert subtask.parameters == {}
            continue
        tool = task.tool(subtask.tool)
        assert tool is not None
        assert all(reference.call <= k for reference in references_in(subtask.parameters)), text
        if not any(True for _ in references_in(subtask.parameters)):  # a reference has no type yet
            assert find_problems(ToolCall(subtask.tool, subtask.parameters), task.tools) == []
        assert set(tool.parameters.get("required", ())) <= subtask.parameters.keys()
        assert subtask.parameters.keys() <= tool.parameters["properties"].keys()


def check_action(text, task):
    action = parse_action(text)
    assert action.error is None, (action.error, text)
    assert action.well_formed
    if action.call is not None:
        assert find_problems(action.call, task.tools) == [], text


@pytest.mark.parametrize("seed", range(12))
def test_what_is_drawn_at_random_is_a_plan_or_a_valid_call(bench, seed):
    task = ToolWorld("test", 12)[seed]
    check_plan(bench.draw("plan", task, seed), task)
    check_action(bench.draw("action", task, seed), task)
    turn = parse_turn(bench.draw("turn", task, seed))
    assert turn.error is None
    assert [find_problems(call, task.tools) for call in turn.calls] == [[]] * len(turn.calls)


def test_gold_plans_and_calls_are_taken(bench):
    tasks = ToolWorld("train", 24)
    for task in (tasks[i] for i in range(len(tasks))):
        assert bench.takes("plan", task, format_plan(gold_plan(task))), gold_plan(task)
        for gold in task.gold:
            assert bench.takes("action", task, format_call(gold.call))
        if task.gold:
            assert bench.takes("turn", task, format_turn([gold.call for gold in task.gold]))
        assert bench.takes("action", task, format_answer("Hello! How can I help?"))


@pytest.mark.parametrize("seed", range(8))
def test_rows_of_rlla_too(words, data_dir, seed):
    rows = RllaDataset(str(data_dir / "rlla" / "rlla_4k_test.parquet"))
    task = rows[seed * 97 % len(rows)]
    check_action(words.draw("action", task, seed), task)
    check_plan_of_rlla(words.draw("plan", task, seed), task)


def check_plan_of_rlla(text, task):
    plan = parse_plan(text)
    assert plan.error is None, (plan.error, text)
    assert all(subtask.tool is None or task.tool(subtask.tool) is not None for subtask in plan.subtasks)


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "use", "parameters": {"a": "x"}}</tool_call>',  # c is missing
        '<tool_call>{"name": "use", "parameters": {"a": "x", "b": 1, "c": true, "d": 1}}</tool_call>',  # undeclared
        '<tool_call>{"name": "use", "parameters": {"a": 1, "c": true}}</tool_call>',  # a type
        '<tool_call>{"name": "use", "parameters": {"a": "z", "c": true}}</tool_call>',  # not in the enum
        '<tool_call>{"name": "using", "parameters": {"a": "x", "c": true}}</tool_call>',  # no such tool
        '<tool_call>{"name": "use",  "parameters": {"a": "x", "c": true}}</tool_call>',  # free white space
        '<tool_call>{"name": "use", "parameters": {"a": "x", "c": true}}',  # no end
        "<answer> </answer>",
        "<answer>a</think></answer>",
        "<think>so</think><answer>a</answer>",  # nobody has asked for a thought
    ],
)
def test_outputs_that_are_none_are_not_taken(bench, task_of, text):
    task = task_of({"a": {"enum": ["x", "y"]}, "b": {"type": "integer"}, "c": {"type": "boolean"}}, ["a", "c"])
    assert bench.takes("action", task, '<tool_call>{"name": "use", "parameters": {"a": "x", "c": true}}</tool_call>')
    assert bench.takes(
        "action", task, '<tool_call>{"name": "use", "parameters": {"a": "y", "b": -3, "c": false}}</tool_call>'
    )
    assert not bench.takes("action", task, text)


def test_a_reference_stands_for_a_value_of_any_type_and_is_to_an_earlier_sub_task(bench, task_of):
    task = task_of({"n": {"type": "integer"}, "list": {"type": "array", "items": {"type": "number"}}}, ["n"])

    def plan(*parameters):
        return format_plan([SubTask("do", "use", values) for values in parameters])

    assert bench.takes("plan", task, plan({"n": 1}, {"n": "$1"}, {"n": "$2.items[0].id", "list": ["$1", 2.5]}))
    assert bench.takes("plan", task, plan({"n": 1}, {"n": 2, "list": "$1"}))
    for wrong in ([{"n": "$1"}], [{"n": 1}, {"n": "$2"}], [{"n": 1}, {"n": "one"}], [{"n": 1}] * 5):
        assert not bench.takes("plan", task, plan(*wrong)), wrong
    text = task_of({"s": {"type": "string"}})
    assert bench.takes("plan", text, plan({"s": "costs $1"}, {"s": "$1"}))
    assert not bench.takes("plan", text, plan({"s": "$1"}))
    assert not bench.takes("action", task, '<tool_call>{"name": "use", "parameters": {"n": "$1"}}</tool_call>')


def test_without_tools_there_is_an_answer(bench):
    task = Task("t", ToolWorld("test", 1)[0].messages, ())
    assert bench.takes("plan", task, format_plan([SubTask("Answer the user", None)]))
    assert bench.takes("action", task, format_answer("1 < 2"))
    assert not bench.takes("action", task, format_call(ToolCall("use", {})))


def test_a_tag_within_a_text_is_escaped_or_not_written(bench, task_of):
    task = task_of({"s": {"type": "string"}, "t": {"enum": ["<plan>"]}}, ["s"])
    for text, is_plain in (("a <b> </i> c", True), ("<plan>", False), ("</answer>", False)):
        written = format_call(ToolCall("use", {"s": text}))
        assert bench.takes("action", task, written), written
        assert bench.takes("action", task, written.replace("\\u003c", "<")) == is_plain
    assert bench.takes("action", task, format_call(ToolCall("use", {"s": "", "t": "<plan>"})))


@pytest.mark.parametrize("asked", ["Think first: <think>why</think>.", "Plan"])
def test_a_thought_comes_first_where_the_words_ask_for_one(tiny_model, letters, asked):
    bench = Bench(letters.tokenizer, PromptConfig(planner=asked))
    text = "<think>two < three</think>\n" + format_plan([SubTask("Answer the user", None)])
    assert bench.takes("plan", ToolWorld("test", 1)[0], text) == ("<think>" in asked)


def test_a_thought_that_the_template_has_opened_is_gone_on_with(letters):
    template = letters.tokenizer.chat_template.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
    bench = Bench(letters.tokenizer, PromptConfig(chat_template=template))
    assert isinstance(bench.builder, PromptBuilder)
    plan = format_plan([SubTask("Answer the user", None)])
    assert bench.takes("plan", ToolWorld("test", 1)[0], f"so</think>\n\n{plan}")
    assert not bench.takes("plan", ToolWorld("test", 1)[0], plan)


def test_grammars_are_made_once_for_the_same_tools(words):
    task = ToolWorld("test", 2)[1]
    assert words.grammars.of("plan", words.builder, task) is words.grammars.of("plan", words.builder, task)
    assert json.dumps("use") not in words.grammars.of("plan", words.builder, task)
