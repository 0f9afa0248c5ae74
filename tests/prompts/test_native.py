"""Prompts with tools in the family's own form; that its calls are read as written is seen in tests/rollout/test_calls.py."""

from __future__ import annotations

import pytest

from cahl_pl.parsing import format_call, format_turn
from cahl_pl.prompts import EXECUTOR_INSTRUCTION, PromptBuilder, PromptConfig
from cahl_pl.types import Message, SubTask, Task, ToolCall, ToolSpec
from tests.prompts.byte_tokenizers import tokenizer_with
from tests.prompts.families import IM
from tests.prompts.native_families import FAMILIES, IN_TAGS, TAGS, builder_of

ADD = ToolSpec("add", "Add two numbers.", {"type": "object", "properties": {"a": {"type": "integer"}}})
CALL = ToolCall("add", {"a": 2, "note": "hi"})
TASK = Task("t", (Message("user", "What is 2 plus 3?"),), (ADD,))
HERMES = FAMILIES["Qwen2.5, Hermes"]
SHOWN = '{"type": "function", "function": {"name": "add", "description": "Add two numbers.", "parameters": '


@pytest.mark.parametrize("name", FAMILIES)
def test_the_marks_of_calls_are_found(name):
    assert builder_of(FAMILIES[name]).native.tags == FAMILIES[name].tags


def test_a_prompt_is_what_the_template_makes_of_tools_and_dialogue():
    builder = builder_of(HERMES, system="Help.", executor="Do {subtask}")
    step = SubTask("add", "add", {"a": 2})
    words = 'Do {"task": "add", "tool": "add", "parameters": {"a": 2}}'
    function = {"name": "add", "description": ADD.description, "parameters": dict(ADD.parameters)}
    rendered = builder.tokenizer.apply_chat_template(
        [{"role": "system", "content": "Help."}, {"role": "user", "content": f"{TASK.request}\n\n{words}"}],
        tools=[{"type": "function", "function": function}],
        chat_template=HERMES.template,
        tokenize=False,
        add_generation_prompt=True,
    )
    assert builder.template.text(builder.executor(TASK, step)) == rendered
    assert SHOWN in rendered


def test_how_calls_are_written_is_said_by_the_template_alone():
    native, ours = builder_of(HERMES), PromptBuilder(tokenizer_with(IM), PromptConfig(chat_template=HERMES.template))
    for builder, said in ((native, 0), (ours, 1)):
        assert builder.template.text(builder.executor(TASK, SubTask("go", None))).count('"name of the tool"') == said
        assert builder.template.text(builder.single(TASK)).count("<tool_call>{") == said
    own = builder_of(HERMES, executor=EXECUTOR_INSTRUCTION + " Now.")
    assert own.config.executor == EXECUTOR_INSTRUCTION + " Now."


def test_an_empty_system_text_makes_no_system_turn():
    builder = builder_of(HERMES, system="")
    text = builder.template.text(builder.planner(TASK))
    assert text.startswith("<|im_start|>system\nTOOLS {")  # the template's own turn
    (first, *_) = builder.template.place([{"role": "user", "content": "x"}], [builder.native.tool(ADD)])[0]
    assert text.startswith(first[0])


def test_calls_in_a_dialogue_are_shown_in_the_same_form():
    said = (
        Message("user", "Go"),
        Message("assistant", format_turn([CALL, CALL])),
        Message("tool", "5"),
        Message("assistant", f"I wrote {format_call(CALL)}"),
        Message("user", format_call(CALL)),
    )
    builder = builder_of(HERMES)
    ids = builder.planner(Task("t", said, (ADD,)))
    text = builder.template.text(ids)
    assert f"assistant\n{IN_TAGS}\n{IN_TAGS}<|im_end|>" in text
    marks = builder.tokenizer.convert_tokens_to_ids(list(TAGS))
    assert sum(i in marks for i in ids) == 4  # not what is a text, and not what the user says
    assert text.count(format_call(CALL)) == 2


def test_a_thinking_family_shows_calls_of_a_dialogue_without_thoughts():
    builder = builder_of(FAMILIES["Qwen3"])
    said = (Message("user", "Go"), Message("assistant", format_call(CALL)), Message("user", "Again"))
    text = builder.template.text(builder.planner(Task("t", said, (ADD,))))
    assert f"assistant\n{IN_TAGS}<|im_end|>" in text
    assert "<think>" not in text


@pytest.mark.parametrize("name", ["gpt-oss", "Llama 3"])
def test_calls_that_cannot_stand_in_the_place_of_words_stay_in_ours(name):
    builder = builder_of(FAMILIES[name])
    written = format_turn([CALL, CALL])
    said = (Message("user", "Go"), Message("assistant", written), Message("user", "Again"))
    assert written in builder.template.text(builder.planner(Task("t", said, (ADD,))))


def test_of_several_templates_the_one_for_tools_is_taken():
    named = {"default": "{{ messages[0].content }}", "tool_use": HERMES.template}
    tokenizer = tokenizer_with(IM, TAGS)
    tokenizer.chat_template = named
    builder = PromptBuilder(tokenizer, PromptConfig(tool_format="native"))
    assert builder.template.source == HERMES.template
    other = PromptBuilder(tokenizer, PromptConfig(chat_template="tool_use"))
    assert other.template.source == HERMES.template


def test_a_template_that_was_made_for_tools_alone_is_taken():
    """Hermes 2 goes through the tools without asking whether there are any."""
    template = HERMES.template.replace(
        "{% if tools %}TOOLS", "TOOLS {{ '' if tools is iterable else raise_exception('none') }}"
    )
    template = template.replace("{% endfor %}{% endif %}<|im_end|>", "{% endfor %}<|im_end|>", 1)
    tokenizer = tokenizer_with(IM, TAGS)
    builder = PromptBuilder(tokenizer, PromptConfig(tool_format="native", chat_template=template))
    assert SHOWN in builder.template.text(builder.planner(TASK))
    assert builder.end_of_turn == tokenizer.convert_tokens_to_ids("<|im_end|>")
