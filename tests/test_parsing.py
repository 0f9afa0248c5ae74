from __future__ import annotations

import json
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cahl_pl.parsing import (
    MAX_DEPTH,
    format_answer,
    format_call,
    format_plan,
    parse_action,
    parse_plan,
)
from cahl_pl.types import Action, Plan, SubTask, ToolCall

CALL = '<tool_call>{"name": "f", "parameters": {"a": 1}}</tool_call>'
LINE = '{"task": "look", "tool": "f", "parameters": {"a": 1}}'
PLAN = f"<plan>\n{LINE}\n</plan>"

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

texts = st.text(st.characters(exclude_categories=["Cs"]))
tagged = st.sampled_from(["</tool_call>", "<answer>", "</plan>\n<plan>", "</think>", "a\u2028b", "\\<plan>"])
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    scalars | texts | tagged,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
names = texts.filter(str.strip) | tagged
arguments = st.dictionaries(texts | tagged, values, max_size=3)


@unhurried
@given(st.lists(st.builds(SubTask, names, st.none() | names, arguments), min_size=1, max_size=4))
def test_plan_round_trip(subtasks):
    assert parse_plan(format_plan(subtasks)) == Plan(tuple(subtasks))


@unhurried
@given(st.builds(ToolCall, names, arguments))
def test_call_round_trip(call):
    assert parse_action(format_call(call)) == Action(call=call, well_formed=True)


@unhurried
@given(texts.filter(str.strip).filter(lambda text: "<" not in text) | st.just("1 < 2 <b>bold</b>"))
def test_answer_round_trip(text):
    assert parse_action(format_answer(text)) == Action(answer=text.strip(), well_formed=True)


def test_answer_with_tags_stays_well_formed():
    assert parse_action(format_answer("close with </answer>, <b>then</b>")).answer == (
        "close with &lt;/answer>, <b>then</b>"
    )


def test_formats_are_the_written_grammar():
    subtasks = [SubTask("look", "f", {"a": "$1"}), SubTask("say it", None)]
    assert format_plan(subtasks) == (
        '<plan>\n{"task": "look", "tool": "f", "parameters": {"a": "$1"}}\n'
        '{"task": "say it", "tool": null, "parameters": {}}\n</plan>'
    )
    assert format_call(ToolCall("f", {"a": 1})) == CALL
    assert format_answer("yes") == "<answer>yes</answer>"


@unhurried
@given(
    st.lists(
        st.sampled_from(["<plan>", "</plan>", "<think>", "</think>", "<answer>", "</answer>", "<tool_call>"])
        | st.sampled_from(["</tool_call>", LINE, "\n", '{"name":', "[[[[", "\ud800", '"\\ud800"', "1e999", "NaN"])
        | st.text(),
        max_size=8,
    ).map("".join)
)
def test_any_text_gives_a_value_that_can_be_encoded(text):
    repr(parse_plan(text)).encode()
    action = parse_action(text)
    repr(action).encode()
    assert (action.call is not None) + (action.answer is not None) + (action.error is not None) == 1


@pytest.mark.parametrize(
    "text",
    [
        CALL,
        f"  \n{CALL}\n ",
        '<tool_call>\n{"name": "f",\n "arguments": {"a": 1.0}}\n</tool_call>',
        f"<think>{CALL} or <answer>no</answer>?</think>{CALL}",
    ],
)
def test_well_formed_calls(text):
    assert parse_action(text) == Action(call=ToolCall("f", {"a": 1}), well_formed=True)


@pytest.mark.parametrize(
    "text",
    [
        f"Sure! {CALL}",
        f"{CALL} done",
        f"{CALL}</plan>",
        f"a</think>{CALL}",
        f"note <think>a</think>{CALL}",
        f"<think>a</think><think>b</think>{CALL}",
        f"<think>a</think>b</think>{CALL}",
        f"<think>a</think>{CALL}</think>{CALL}",
        f"<think>never closed {CALL}",
    ],
)
def test_calls_that_can_be_read_but_are_not_well_formed(text):
    assert parse_action(text) == Action(call=ToolCall("f", {"a": 1}), well_formed=False)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "f(a=1)",
        CALL + CALL,
        f"<tool_call>{CALL}</tool_call>",
        f"<answer>{CALL}</answer>",
        f"{CALL}<answer>done</answer>",
        f"<think>{CALL}</think>",
        "<tool_call>{}",
        "</tool_call>{}<tool_call>",
        "<answer>a</tool_call>",
        "<answer> \n</answer>",
        "<answer></answer>",
    ],
)
def test_tags_without_a_single_reading(text):
    action = parse_action(text)
    assert (action.call, action.answer, action.well_formed) == (None, None, False)
    assert action.error


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        ("", "not JSON"),
        ("{'name': 'f'}", "not JSON"),
        ('{"name": "f", "parameters": {}} {"name": "f", "parameters": {}}', "not JSON"),
        ('[{"name": "f", "parameters": {}}]', "not a JSON object"),
        ('{"parameters": {}}', "name"),
        ('{"name": "", "parameters": {}}', "name"),
        ('{"name": null, "parameters": {}}', "name"),
        ('{"name": "f", "parameters": null}', "must be an object"),
        ('{"name": "f", "parameters": "{}"}', "must be an object"),
        ('{"name": "f", "parameters": {}, "arguments": {}}', "both"),
        ('{"name": "f", "name": "g", "parameters": {}}', "twice"),
        ('{"name": "f", "parameters": {"a": {"b": 1, "b": 1}}}', "twice"),
        ('{"name": "f", "parameters": {"\\ud800": 1, "\\ud801": 1}}', "twice"),
        ('{"name": "f", "parameters": {"a": NaN}}', "NaN"),
        ('{"name": "f", "parameters": {"a": -Infinity}}', "Infinity"),
        ('{"name": "f", "parameters": {"a": 1e999}}', "too large"),
        ('{"name": "f", "parameters": {"a": ' + "9" * 5000 + "}}", "too long"),
        ('{"name": "f", "parameters": {"a": ' + "[" * 100_000 + "]" * 100_000 + "}}", "nested too deeply"),
        (
            '{"name": "f", "parameters": {"a": ' + "[" * MAX_DEPTH + "]" * MAX_DEPTH + "}}",
            "nested too deeply",
        ),
    ],
)
def test_payloads_that_cannot_be_read(payload, error):
    action = parse_action(f"<tool_call>{payload}</tool_call>")
    assert (action.call, action.answer, action.well_formed) == (None, None, True)
    assert error in (action.error or "")


def test_nesting_up_to_the_limit_is_read():
    nested = "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)
    action = parse_action(f'<tool_call>{{"name": "f", "parameters": {{"a": {nested}}}}}</tool_call>')
    assert action.call is not None
    assert json.dumps(action.call.arguments["a"]) == nested


def test_lone_surrogates_are_replaced():
    action = parse_action('<tool_call>{"name": "f", "parameters": {"a": ["\\ud83d", "\\ud83d\\ude00"]}}</tool_call>')
    assert action.call == ToolCall("f", {"a": ["?", "\U0001f600"]})
    assert parse_action("<answer>a\udc80b</answer>").answer == "a?b"


def test_missing_parameters_are_none():
    assert parse_action('<tool_call>{"name": "f"}</tool_call>').call == ToolCall("f", {})
    assert parse_plan('<plan>{"task": "t", "tool": null}</plan>') == Plan((SubTask("t", None, {}),))


@pytest.mark.parametrize("text", [PLAN, f"<think><plan></think>\n{PLAN}\n", f"<plan>\r\n\n{LINE}\r\n \n</plan>"])
def test_plans(text):
    assert parse_plan(text) == Plan((SubTask("look", "f", {"a": 1}),))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "one <plan>"),
        (LINE, "one <plan>"),
        (f"<plan>\n{LINE}", "one <plan>"),
        (PLAN + PLAN, "one <plan>"),
        (f"<plan>{PLAN}</plan>", "one <plan>"),
        (f"Plan: {PLAN}", "text outside"),
        (f"{PLAN} go", "text outside"),
        (f"<think>hm {PLAN}", "text outside"),
        ("<plan>\n\n</plan>", "empty plan"),
        ("<plan></plan>", "empty plan"),
        (f"<plan>\n{LINE}\nthen\n</plan>", "line 2: not JSON"),
        (f"<plan>\n{LINE}{LINE}\n</plan>", "line 1: not JSON"),
        (f"<plan>\n[{LINE}]\n</plan>", "line 1: not a JSON object"),
        ('<plan>\n{"tool": "f", "parameters": {}}\n</plan>', 'line 1: "task"'),
        ('<plan>\n{"task": " ", "tool": "f", "parameters": {}}\n</plan>', 'line 1: "task"'),
        ('<plan>\n{"task": "t", "parameters": {}}\n</plan>', 'line 1: "tool" is missing'),
        ('<plan>\n{"task": "t", "tool": "", "parameters": {}}\n</plan>', 'line 1: "tool"'),
        ('<plan>\n{"task": "t", "tool": 3, "parameters": {}}\n</plan>', 'line 1: "tool"'),
        ('<plan>\n{"task": "t", "tool": "f", "parameters": [1]}\n</plan>', 'line 1: "parameters"'),
        (
            '<plan>\n{"task": "t", "tool": "f", "tool": "g", "parameters": {}}\n</plan>',
            "line 1: a key occurs twice",
        ),
        ("<plan>\n" + '{"a":' * 100_000 + "\n</plan>", "line 1: nested too deeply"),
    ],
)
def test_texts_that_are_no_plan(text, error):
    plan = parse_plan(text)
    assert plan.subtasks == ()
    assert error in (plan.error or "")


@pytest.mark.parametrize(
    "text",
    [
        "<" * 10_000_000,
        "<tool_call>" * 1_000_000,
        "<plan>" + " \n" * 5_000_000 + "</plan>",
        "<think>" * 1_500_000 + CALL,
        "</think>" * 1_200_000 + CALL,
        "<tool_call>" + "[" * 10_000_000 + "</tool_call>",
        '<tool_call>{"name": "f", "parameters": {"a": ' + "9" * 10_000_000 + "}}</tool_call>",
        '<tool_call>{"name": "f", "parameters": {"a": ' + "9" * 10_000_000 + ".5}}</tool_call>",
        "<tool_call>" + " " * 10_000_000,
        '<plan>{"task": "' + "\\ud800" * 1_500_000 + '", "tool": null}</plan>',
    ],
    ids=range(10),
)
def test_ten_megabytes_are_read_in_linear_time(text):
    start = time.process_time()
    parse_plan(text)
    parse_action(text)
    assert time.process_time() - start < 20  # a quadratic scan would take hours
