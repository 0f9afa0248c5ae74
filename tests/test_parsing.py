from __future__ import annotations

import json
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cahl_pl.parsing import (
    MAX_CALLS,
    MAX_DEPTH,
    MAX_SUBTASKS,
    format_answer,
    format_call,
    format_plan,
    format_turn,
    parse_action,
    parse_plan,
    parse_turn,
)
from cahl_pl.types import Action, Plan, SubTask, ToolCall, Turn

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


# Outputs of an executor without a planner.


@unhurried
@given(st.lists(st.builds(ToolCall, names, arguments), min_size=1, max_size=4))
def test_turn_round_trip(calls):
    assert parse_turn(format_turn(calls)) == Turn(tuple(calls), well_formed=True)
    assert parse_turn(f"<think> hm </think>\n{format_turn(calls)}\n") == Turn(
        tuple(calls), well_formed=True, thought=True
    )


PIECES = [
    "<tool_call>",
    "</tool_call>",
    "<answer>",
    "</answer>",
    "<think>",
    "</think>",
    CALL,
    '{"name": "f"}',
    "\n",
    "{",
    "}",
    '"',
    "[[[[",
    "\ud800",
    '"\\ud800"',
    "1e999",
    "NaN",
]
VALID = [CALL, f"{CALL}\n{CALL}", '<tool_call>\n{"name": "f"}\n{"name": "g"}\n</tool_call>', "<answer>ok</answer>"]


@st.composite
def mutated(draw):
    """A valid output in which pieces were cut out, doubled or put in."""
    text = draw(st.sampled_from(["", "<think>hm</think>\n"])) + draw(st.sampled_from(VALID))
    for _ in range(draw(st.integers(1, 3))):
        start, end = sorted(draw(st.tuples(*[st.integers(0, len(text))] * 2)))
        middle = draw(st.sampled_from(["", text[start:end] * 2]) | st.sampled_from(PIECES))
        text = text[:start] + middle + text[end:]
    return text


@unhurried
@given(st.text() | st.lists(st.sampled_from(PIECES) | st.text(), max_size=8).map("".join) | mutated())
def test_any_text_gives_a_turn_that_can_be_encoded(text):
    turn = parse_turn(text)
    repr(turn).encode()
    assert bool(turn.calls) + (turn.answer is not None) + (turn.error is not None) == 1
    if turn.answer is not None:
        assert turn.answer.strip()
    if turn.calls:  # what can be read can be written
        assert parse_turn(format_turn(turn.calls)).calls == turn.calls


F, G = ToolCall("f", {"a": 1}), ToolCall("g", {})


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        (CALL, (F,)),
        (f" \n{CALL} \n\n {CALL}\n", (F, F)),
        (f'{CALL}<tool_call>{{"name": "g"}}</tool_call>', (F, G)),
        ('<tool_call>\n{"name": "f", "parameters": {"a": 1}}\n\n{"name": "g"}\n</tool_call>', (F, G)),
        ('<tool_call>\n{"name": "f",\n "arguments": {"a": 1.0}}\n</tool_call>', (F,)),
        (f'{CALL}<tool_call>{{"name": "g"}}\r\n{{"name": "g"}}</tool_call>', (F, G, G)),
    ],
)
def test_turns_of_calls(text, calls):
    assert parse_turn(text) == Turn(calls, well_formed=True)


@pytest.mark.parametrize(
    ("before", "thought", "well_formed"),
    [
        ("", False, True),
        ("<think>hm</think>", True, True),
        (f" <think>\n{CALL} or <answer>no</answer>?</think>\n", False, True),
        (f"<think>maybe {CALL}</think>", True, True),
        ("<think></think>", False, True),
        ("<think> \n</think>", False, True),
        ("so <think>hm</think>", True, False),
        ("<think>a</think><think>b</think>", True, False),
        ("hm</think>", False, False),
        ("<think>hm ", False, False),
        ("Sure! ", False, False),
    ],
)
def test_what_stands_before_the_calls_or_the_answer(before, thought, well_formed):
    assert parse_turn(before + CALL * 2) == Turn((F, F), well_formed=well_formed, thought=thought)
    assert parse_turn(f"{before}<answer> ok </answer>") == Turn(answer="ok", well_formed=well_formed, thought=thought)


@pytest.mark.parametrize("text", [f"{CALL} then {CALL}", f"{CALL}\n{CALL} done", f"first {CALL}{CALL}"])
def test_text_around_calls_leaves_them_readable(text):
    assert parse_turn(text) == Turn((F, F), well_formed=False)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "f(a=1)",
        f"<tool_call>{CALL}</tool_call>",
        f"<answer>{CALL}</answer>",
        f"{CALL}<answer>done</answer>",
        f"<answer>done</answer>{CALL}",
        "<answer>a</answer><answer>b</answer>",
        f"<think>{CALL}</think>",
        f"{CALL}<tool_call>",
        f"</tool_call>{CALL}<tool_call>",
        "<answer>a</tool_call>",
        "<answer> \n</answer>",
        "<tool_call>{}",
    ],
)
def test_tags_that_hold_no_turn(text):
    turn = parse_turn(text)
    assert (turn.calls, turn.answer, turn.well_formed) == ((), None, False)
    assert turn.error


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        ("", "not JSON"),
        ('{"name": "f"} {"name": "g"}', "not JSON"),
        ('[{"name": "f"}, {"name": "g"}]', "not a JSON object"),
        ('{"name": "f"}\nand\n{"name": "g"}', "not JSON"),
        ('{"name": "f"}\n{"parameters": {}}', "name"),
        ('{"name": "f"}\n{"name": "g", "name": "h"}', "twice"),
    ],
)
def test_one_call_that_cannot_be_read_makes_all_unreadable(payload, error):
    turn = parse_turn(f"{CALL}<tool_call>{payload}</tool_call>{CALL}")
    assert (turn.calls, turn.answer, turn.well_formed) == ((), None, True)
    assert error in (turn.error or "")


def test_a_plan_of_more_subtasks_than_the_limit_is_none():
    line = '{"task": "look", "tool": "f", "parameters": {}}\n'
    assert len(parse_plan(f"<plan>\n{line * MAX_SUBTASKS}</plan>").subtasks) == MAX_SUBTASKS
    plan = parse_plan(f"<plan>\n{line * (MAX_SUBTASKS + 1)}</plan>")
    assert (plan.subtasks, plan.error) == ((), "more than 64 sub-tasks")


def test_more_calls_than_the_limit_are_refused():
    line = '{"name": "f"}\n'
    for text in (
        CALL * (MAX_CALLS + 1),
        f"<tool_call>{line * (MAX_CALLS + 1)}</tool_call>",
        CALL * (MAX_CALLS - 1) + f"<tool_call>{line * 2}</tool_call>",
        f"<tool_call>{line * MAX_CALLS}</tool_call>" * MAX_CALLS,
    ):
        turn = parse_turn(text)
        assert turn.calls == ()
        assert turn.error
    assert parse_turn(CALL * MAX_CALLS).calls == (F,) * MAX_CALLS
    assert len(parse_turn(f"<tool_call>{line * MAX_CALLS}</tool_call>").calls) == MAX_CALLS


@pytest.mark.parametrize(
    "text",
    [
        "<" * 1_000_000,
        "<tool_call>" * 100_000,
        CALL * 20_000,
        "<tool_call>" + '{"name": "f"}\n' * 70_000 + "</tool_call>",
        "<tool_call>" + "\n" * 1_000_000 + "</tool_call>",
        "<tool_call>" + "{\n" * 500_000 + "</tool_call>",
        ("<tool_call>" + "[\n" * 8_000 + "</tool_call>") * MAX_CALLS,
        "<think>" * 150_000 + "</think>" + CALL,
        "<think>" + " " * 1_000_000 + "</think>" + CALL,
        "<think> " * 125_000 + "</think>" * 2 + CALL,
        CALL + " " * 1_000_000 + CALL,
        "<answer>" + "\u00e4" * 1_000_000 + "</answer>",
    ],
    ids=range(12),
)
def test_a_megabyte_is_read_as_a_turn_in_linear_time(text):
    start = time.process_time()
    parse_turn(text)
    assert time.process_time() - start < 5  # a quadratic scan would take many minutes
