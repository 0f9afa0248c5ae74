"""One row a family (`families.py`): the facts that its template and tokenizer have to give, by the road that prompts go."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from cahl_pl.parsing import format_call, parse_action, parse_plan, parse_turn
from cahl_pl.prompts import PromptBuilder, PromptConfig
from cahl_pl.types import Message, SubTask, Task, ToolCall, ToolSpec
from tests.prompts.families import FAMILIES

ADD = ToolSpec("add", "Add.", {"type": "object", "properties": {"a": {"type": "integer"}}})
TASK = Task("t", (Message("user", "first"), Message("assistant", "reply"), Message("user", "second")), (ADD,))
TOOLS = "Tools:\nadd(a?: integer): Add."
CALL = format_call(ToolCall("add", {"a": 2}))
PLAN = '<plan>\n{"task": "x", "tool": null, "parameters": {}}\n</plan>'
EMPTY = "<think>\n\n</think>\n\n"
THINKING = pytest.mark.parametrize("family", [name for name, row in FAMILIES.items() if row.thought], indirect=True)
WORDS = {
    "system": "Tools:",
    "planner": "Plan it.",
    "executor": "Do {subtask}",
    "single": "Do it.",
    "tool_format": "compact",
}


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


@pytest.fixture
def builder_of(family, tokenizer_with):
    tokenizer = tokenizer_with(family.special, family.plain, family.bos, family.adds_bos)

    def make(**arguments):
        given = family.arguments | arguments
        return PromptBuilder(tokenizer, PromptConfig(**WORDS, chat_template=family.template, template_arguments=given))

    return make


@pytest.fixture
def builder(builder_of):
    return builder_of()


def text(builder, ids):
    return builder.tokenizer.decode(ids)


def rendered(builder, *contents, prompt=True):
    """What the template itself makes of a dialogue: user, assistant, user, ..."""
    turns = [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]
    arguments = builder.config.template_arguments | {"date_string": "26 Jul 2024"}
    whole = builder.tokenizer.apply_chat_template(
        turns,
        chat_template=builder.config.chat_template,
        tokenize=False,
        add_generation_prompt=prompt,
        **arguments,
    )
    return re.sub(r"(Current date: |Today Date: )(\S+ \S+ \S+|\S+)(?=\n)", _date, whole)


def _date(match):
    return match[1] + (
        "2024-07-26" if "Current" in match[1] else "26 Jul 2024" if len(match[2]) < 12 else "26 July 2024"
    )


def test_a_prompt_says_everything_once_and_ends_where_the_model_goes_on(family, builder):
    shared, planner, executor = builder.shared(TASK), builder.planner(TASK), builder.executor(TASK, SubTask("x", None))
    assert planner[: len(shared)] == executor[: len(shared)] == shared
    shown = text(builder, planner)
    for part in (TOOLS, "first", "reply", "second"):
        assert shown.count(part) == 1
    order = {"own": (TOOLS, "first", "second"), "first": (TOOLS, "first", "second"), "last": ("first", TOOLS, "second")}
    places = [shown.index(part) for part in order[family.system]]
    assert places == sorted(places)
    gap = shown[shown.index(TOOLS) + len(TOOLS) : shown.index("second" if family.system == "last" else "first")]
    assert (gap.strip() == "") == (family.system != "own")
    assert shown.endswith(f"\n\nPlan it.{family.after_prompt}")


def test_there_is_one_beginning_of_sequence_where_the_family_has_one(family, builder):
    for prompt in (builder.planner(TASK), builder.executor(TASK, SubTask("x", None)), builder.single(TASK)):
        bos = builder.tokenizer.bos_token_id
        assert (prompt[0] == bos, prompt.count(bos)) == ((True, 1) if family.bos else (False, 0))


def test_an_output_ends_with_the_end_of_turn_whatever_the_end_of_sequence_is(family, builder):
    assert text(builder, [builder.end_of_turn]) == family.end
    gold = builder.completion("x")
    assert gold[-1] == builder.end_of_turn
    assert gold.count(builder.end_of_turn) == 1
    assert text(builder, gold) == f"{family.lead}x{family.end}"


def test_a_gold_output_is_what_the_template_writes_and_is_read_as_it_was_meant(family, builder):
    written = family.after_prompt + text(builder, builder.completion("answer"))
    if family.middle_end == "":  # the next turn ends it, and there is none
        written = written.removesuffix(family.end)
    shown = rendered(builder, "SAID", "answer", prompt=False).partition("SAID")[2]
    # some show an empty thought there, others none or its end
    opening, closing = map(re.escape, builder.template.marks[:2])
    written, shown = (re.sub(rf"({opening})?\s*{closing}\s*", "", said) for said in (written, shown))
    assert shown.startswith(written)
    assert parse_action(builder.decode(builder.completion(CALL))).well_formed
    assert parse_plan(builder.decode(builder.completion(PLAN))).error is None
    assert parse_turn(builder.decode(builder.completion(f"{CALL}\n{CALL}"))).well_formed


def test_the_next_prompt_goes_on_as_the_template_does(family, builder):
    """Plan, sub-task, call, result, next sub-task: each end stands there once, and a turn that was cut off is closed."""
    first, second = SubTask("one", "add"), SubTask("two", None)
    prompt, gold = builder.executor(TASK, first), builder.completion(CALL)
    ended = text(builder, [*gold, *builder.next_step(True, "5", TASK, second, 2)])
    words = builder.config.executor.replace("{subtask}", '{"task": "two", "tool": null, "parameters": {}}')
    said = f"Result: 5\n\n{words}"
    # the template's own rendering of three turns, from the second on
    tail = rendered(builder, "u", "ANSWER", said)
    tail = tail[tail.index("ANSWER") :].replace("ANSWER", CALL)
    closing = family.middle_end if family.middle_end is not None else family.end
    if family.system == "last":  # without a system's text the template writes the same
        assert said in tail
    assert tail.startswith(CALL + closing)
    expected = tail if family.middle_end != "<|end|>" else tail.replace("<|end|>", family.end, 1)
    assert ended == family.lead + expected
    cut = text(builder, [*builder._data(CALL), *builder.next_step(False, "5", TASK, second, 2)])
    assert cut == tail
    several = text(builder, [*gold, *builder.next_turn(True, ["5"])])
    assert several == (family.lead + expected).replace(words, "Do it.")
    assert text(builder, prompt).endswith(family.after_prompt)


@THINKING
def test_a_thought_is_read_as_one_and_counted(family, builder):
    for answer, read in ((CALL, parse_action), (f"{CALL}\n{CALL}", parse_turn)):
        ids = [*builder.template.literal(family.thought.format(answer)), builder.end_of_turn]
        found = read(builder.decode(ids))
        assert (found.well_formed, found.error) == (True, None)
        before = len(builder.template.literal(family.thought.partition("{}")[0].rstrip()))
        counted = builder.thinking_tokens(ids)
        # what leads an answer in behind a thought is no part of it
        assert before - len(family.lead) <= counted <= before
    turn = parse_turn(builder.decode([*builder.template.literal(family.thought.format(CALL)), builder.end_of_turn]))
    assert (turn.thought, turn.calls) == (True, (ToolCall("add", {"a": 2}),))
    plan = parse_plan(builder.decode([*builder.template.literal(family.thought.format(PLAN)), builder.end_of_turn]))
    assert plan.error is None


@THINKING
def test_a_thought_that_is_broken_off_can_be_closed_and_answered_from(family, builder):
    begun = builder.template.literal(family.thought.partition("hm")[0] + "hm")
    assert builder.breaks_off_in_thought(begun)
    assert builder.thinking_tokens(begun) == len(begun)
    ids = [*begun, *builder.end_of_thought, *builder._data(CALL), builder.end_of_turn]
    assert not builder.breaks_off_in_thought(ids)
    assert parse_action(builder.decode(ids)).well_formed
    assert not builder.breaks_off_in_thought(builder.completion(CALL))


@pytest.mark.parametrize("family", [name for name, row in FAMILIES.items() if row.off], indirect=True)
def test_thinking_is_turned_off_by_the_template(family, builder_of):
    arguments, prompt_end = family.off
    builder = builder_of(**arguments)
    assert text(builder, builder.planner(TASK)).endswith(f"Plan it.{prompt_end}")
    assert text(builder, builder.completion("x")) == f"x{family.end}"
    ids = [*builder._data(CALL), builder.end_of_turn]
    assert builder.decode(ids) == CALL
    assert builder.thinking_tokens(ids) == 0
    assert builder.template_key != builder_of().template_key


def test_thoughts_of_earlier_turns_are_shown_as_the_template_does(family, builder):
    messages = (
        Message("user", "first"),
        Message("assistant", "<think>\nold\n</think>\n\nreply"),
        Message("user", "second"),
    )
    shown = text(builder, builder.planner(replace(TASK, messages=messages)))
    assert ("old" in shown) == (family.history == "kept")
    assert "reply" in shown


def test_nothing_that_is_said_becomes_a_token_that_parts_turns(family, builder):
    marks = {"<think>", "</think>", *builder.template.marks}.intersection(family.plain)
    tokens = [token for token in (*family.special, *family.plain) if token not in marks]
    hostile = "".join(f"x{token}" for token in tokens)
    ids = {builder.tokenizer.convert_tokens_to_ids(token) for token in tokens}

    def control(said):
        task = replace(TASK, messages=(Message("user", said),), tools=(replace(ADD, description=said),))
        prompt = builder.executor(task, SubTask(said, said, {said: said}))
        later = builder.next_step(True, said, task, SubTask(said, None), 2)
        return [i for i in [*prompt, *builder.completion(said), *later] if i in ids]

    assert control(hostile) == control("x")
    assert text(builder, builder._data(hostile)) == hostile


def test_special_tokens_are_known_to_part_thoughts_from_answers(family, builder):
    opening = builder.template.opened or (family.thought or "").partition("hm")[0]
    assert builder.template.thinks_in_tokens == any(token in opening for token in family.special)


def test_a_date_is_that_of_the_configuration(family, builder):
    dated = "strftime_now" in family.template
    shown = text(builder, builder.planner(TASK))
    assert bool(re.search(r"26 Jul(y)? 2024|2024-07-26", shown)) == dated
