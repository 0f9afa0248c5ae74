"""What is asked of any chat template: its arguments, its clock, beginnings and ends, and spaces that tokenizers add."""

from __future__ import annotations

import datetime
from dataclasses import replace

import pytest

from cahl_pl.errors import ConfigError
from cahl_pl.parsing import format_call, parse_action
from cahl_pl.prompts import PromptBuilder, PromptConfig
from cahl_pl.types import Message, SubTask, Task, ToolCall

TASK = Task("t", (Message("user", "hello"),), ())
STEP = SubTask("go on", None)
CALL = format_call(ToolCall("add", {"a": 2}))
IM = ("<|im_end|>", "<|im_start|>", "<|endoftext|>")
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n%s{% endif %}"
)
DATED = "{{ strftime_now('%d %b %Y') }}\n{{ strftime_now(\"%Y\") }}\n" + CHATML.replace("%s", "")


def builder_of(tokenizer, template, **config):
    return PromptBuilder(tokenizer, PromptConfig(system="Tools:", planner="Plan.", chat_template=template, **config))


def shown(builder, task=TASK):
    return builder.tokenizer.decode(builder.planner(task))


@pytest.fixture
def chatml(tokenizer_with):
    return tokenizer_with(IM)


# --- arguments -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"enable_thinkng": False},
            "has 'enable_thinkng', which the template in .*chat_template never reads: did you mean 'enable_thinking'",
        ),
        ({"qwertz": 1}, "has 'qwertz', which .* never reads: leave it out, or give the name that it reads"),
        ({"messages": []}, "has 'messages', which is filled in here"),
        ({"add_generation_prompt": False}, "has 'add_generation_prompt', which is filled in here"),
        ({"tokenize": True}, "has 'tokenize', which is filled in here"),
    ],
)
def test_an_argument_that_would_do_nothing_or_harm_is_named(chatml, arguments, message):
    template = CHATML.replace("%s", "{{ '<think>' if enable_thinking }}")
    with pytest.raises(ConfigError, match=rf"^data\.prompts\.template_arguments {message}") as raised:
        builder_of(chatml, template, template_arguments=arguments)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "arguments", "said"),
    [
        (b"{% for m in messages %}\n{{ m.content }}", {}, "cannot be used (line 2: Unexpected end of template"),
        (b"{{ strftime_now('%d') }}\n{% for m in messages %}", {}, "cannot be used (line 2: Unexpected end of"),
        (CHATML.encode(), {"enable_thinkng": 1}, "never reads: leave it out"),
        (b"{{ messages[0].content }}", {}, "the template leaves a message out"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_and_not_the_models_folder(chatml, tmp_path, content, arguments, said):
    path = tmp_path / "my.jinja"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as raised:
        builder_of(chatml, str(path), template_arguments=arguments, date="2026-01-02")
    assert f"the chat template in the file {str(path)!r}" in str(raised.value)
    assert said in str(raised.value)
    assert repr(chatml.name_or_path) not in str(raised.value)


def test_a_file_in_another_encoding_is_named_and_line_ends_do_not_matter(chatml, tmp_path):
    path = tmp_path / "my.jinja"
    path.write_bytes(CHATML.encode("utf-16"))
    with pytest.raises(ConfigError, match=r"data\.prompts\.chat_template: .*UTF-16, not UTF-8"):
        builder_of(chatml, str(path))
    path.write_bytes(CHATML.replace("\n", "\r\n").encode("utf-8-sig"))
    assert builder_of(chatml, str(path)).template_key == builder_of(chatml, CHATML).template_key


def test_arguments_reach_every_prompt_and_tell_prompts_apart(chatml):
    template = CHATML.replace("%s", "{{ effort }}:")
    low, high = (builder_of(chatml, template, template_arguments={"effort": effort}) for effort in ("low", "high"))
    assert shown(low).endswith("assistant\nlow:")
    assert low.tokenizer.decode(low.next_step(True, "", TASK, STEP, 2)).endswith("assistant\nlow:")
    assert len({low.template_key, high.template_key, builder_of(chatml, template).template_key}) == 3
    assert low.template_key == builder_of(chatml, template, template_arguments={"effort": "low"}).template_key


# --- the clock -----------------------------------------------------------------------------------------------------


def test_the_clock_of_a_template_stands_still(chatml):
    builder = builder_of(chatml, DATED)
    assert shown(builder).startswith("26 Jul 2024\n2024\n<|im_start|>system\n")
    assert shown(builder_of(chatml, DATED, date="2025-02-01")).startswith("01 Feb 2025\n2025\n")
    assert builder.template_key != builder_of(chatml, DATED, date="2025-02-01").template_key


def test_a_template_may_look_at_the_clock(chatml):
    today = {datetime.date.today()}
    text = shown(builder_of(chatml, DATED, date=None))
    today.add(datetime.date.today())  # midnight may pass between
    assert any(text.startswith(f"{day:%d %b %Y}\n{day:%Y}\n") for day in today)


@pytest.mark.parametrize("form", ["set f = '%Y'", "macro f() %}{% endmacro %}{% set f = '%m'"])
def test_a_day_in_a_form_that_only_running_it_shows_is_a_plain_date(chatml, form):
    template = f"{{% {form} %}}{{{{ strftime_now(f) }}}} " + CHATML.replace("%s", "")
    assert shown(builder_of(chatml, template)).startswith("2024-07-26 <|im_start|>")


def test_stopping_the_clock_changes_no_white_space(chatml):
    for start in ("", "\n", "  ", " \n {% if true %}x{% endif %}\n"):
        template = start + "{{ strftime_now('%Y') }}\n" + CHATML.replace("%s", "")
        text = shown(builder_of(chatml, template, date=None))
        today = f"{datetime.date.today():%Y}"
        assert shown(builder_of(chatml, template)) == text.replace(today, "2024", 1)


def test_a_date_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"data\.prompts\.date must be a day such as 2024-07-26, not 'today'"):
        PromptConfig(date="today")


# --- beginnings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize("writes", ["", "{{ bos_token }}", "<s>"])
def test_the_beginning_of_sequence_is_neither_doubled_nor_lost(tokenizer_with, adds_bos, writes):
    tokenizer = tokenizer_with(("</s>", "<s>", *IM), bos="<s>", adds_bos=adds_bos)
    builder = builder_of(tokenizer, writes + CHATML.replace("%s", ""))
    for prompt in (builder.planner(TASK), builder.executor(TASK, STEP), builder.shared(TASK), builder.single(TASK)):
        wanted = 1 if adds_bos or writes else 0
        assert prompt[:2].count(tokenizer.bos_token_id) == prompt.count(tokenizer.bos_token_id) == wanted
    assert tokenizer.bos_token_id not in [*builder.completion("x"), *builder.next_step(True, "y", TASK, STEP, 2)]


@pytest.fixture
def metaspace():
    """A tokenizer that puts a space before each text, as those of Llama 2 and Mistral do."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [
        "</s>",
        "<s>",
        "[INST]",
        "[/INST]",
        "<unk>",
        "<0x0A>",
        "\u2581",
        "\u2581hello",
        "\u2581Plan",
        "\u2581Tools",
    ]
    pieces = [*words, *sorted(set('hello Plan.Tools:reply{}"\n,go'))]
    merges: list[tuple[str, str]] = []
    for word in ("\u2581hello", "\u2581Plan", "\u2581Tools"):
        for i in range(2, len(word) + 1):
            merges.append((word[: i - 1], word[i - 1]))
            pieces.append(word[:i])
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(["</s>", "<s>", "[INST]", "[/INST]"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def test_no_space_is_added_between_what_the_template_and_the_task_say(metaspace):
    template = (
        "<s>{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}"
        "{% elif m.role == 'user' %}[INST] {{ m.content }}[/INST]{% else %}{{ m.content }}</s>{% endif %}{% endfor %}"
    )
    task = replace(TASK, messages=(Message("user", "hello"), Message("assistant", "reply"), Message("user", "hello")))
    builder = PromptBuilder(metaspace, PromptConfig(system="Tools:", planner="Plan.", chat_template=template))
    ids = builder.planner(task)
    text = metaspace.decode(ids)
    assert text == "<s>[INST] Tools:\n\nhello[/INST]reply</s>[INST] hello\n\nPlan.[/INST]"
    hello = metaspace.convert_tokens_to_ids("\u2581hello")  # as the tokenizer has it of the whole text
    assert ids.count(hello) == metaspace(text, add_special_tokens=False)["input_ids"].count(hello) == 1
    assert metaspace.decode(builder.completion("hello")) == "hello</s>"


def test_a_text_is_decoded_as_it_was_written(tokenizer_with):
    """Some tokenizers are configured to take the spaces before full stops away, as Llama 3's are."""
    options = {"clean_up_tokenization_spaces": True}
    options["clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"] = (
        True  # as older ones do unasked
    )
    builder = builder_of(tokenizer_with(IM, **options), CHATML.replace("%s", ""))
    text = '<tool_call>{"name": "say", "parameters": {"text": "a . b , do n\'t !"}}</tool_call>'
    assert builder.decode(builder.completion(text)) == text


# --- ends ----------------------------------------------------------------------------------------------------------

SEVERAL = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}%s{% endfor %}" + (
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
ROLES = ("<|endoftext|>", "<|user|>", "<|system|>", "<|assistant|>", "<|end|>", "<|other|>")


@pytest.mark.parametrize(
    ("end", "taught", "follows"),
    [
        ("<|end|>", "<|end|>", "<|user|>"),
        # a last turn is left open, an earlier one is not
        ("{{ '<|end|>' if not loop.last }}", "<|end|>", "<|user|>"),
        # the beginning of the next turn is the end
        ("", "<|user|>", ""),
        # only a last turn has an end
        ("{{ '<|end|>' if loop.last and m.role == 'assistant' }}", "<|end|>", "<|user|>"),
        # the last turn ends with another token than earlier ones, as users' turns do
        ("{{ '<|other|>' if loop.last and m.role == 'assistant' else '<|end|>' }}", "<|other|>", "<|user|>"),
    ],
)
def test_the_end_of_turn_and_what_follows_it(tokenizer_with, end, taught, follows):
    tokenizer = tokenizer_with(ROLES)
    builder = builder_of(tokenizer, SEVERAL.replace("%s", end))
    assert tokenizer.decode([builder.end_of_turn]) == taught
    later = builder.next_step(True, "", TASK, STEP, 2)
    assert tokenizer.decode(later).startswith(f"{follows}Carry out")
    # an output that the length limit cut off, and one that ended with another of the model's stop tokens
    cut, whole = builder.next_step(False, "", TASK, STEP, 2), tokenizer.decode(builder.completion("x"))
    assert tokenizer.decode(cut).startswith("<|end|><|user|>Carry" if "else" in end or end == "<|end|>" else "<|")
    other = builder.next_step(True, "", TASK, STEP, 2, ended_by=tokenizer.convert_tokens_to_ids("<|endoftext|>"))
    assert tokenizer.decode(other).startswith("<|user|>Carry out")
    assert whole == f"x{taught}"


def test_an_output_that_ended_with_the_beginning_of_the_next_turn_does_not_get_it_twice(tokenizer_with):
    tokenizer = tokenizer_with(ROLES)
    builder = builder_of(tokenizer, SEVERAL.replace("%s", "{{ '<|end|>' if loop.last and m.role == 'assistant' }}"))
    user = tokenizer.convert_tokens_to_ids("<|user|>")
    assert tokenizer.decode(builder.next_turn(True, ["5"], ended_by=user)).startswith("Result: 5")
    assert tokenizer.decode(builder.next_turn(True, ["5"])).startswith("<|user|>Result: 5")


def test_pad_and_end_of_sequence_may_be_one_token(tokenizer_with):
    """The end of a turn is taught and scored where padding has the same id: only lengths say what is padding."""
    tokenizer = tokenizer_with(IM)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    builder = builder_of(tokenizer, CHATML.replace("%s", ""))
    assert builder.completion("x")[-1] == builder.end_of_turn == tokenizer.pad_token_id
    assert builder.decode(builder.completion("x")) == "x"


# --- thoughts ------------------------------------------------------------------------------------------------------


def test_a_gold_output_never_stands_within_a_thought(chatml):
    """Some templates write the opening before every assistant turn."""
    template = CHATML.replace("{{ m.role }}\n", "{{ m.role }}\n{{ '<think>\n' if m.role == 'assistant' }}")
    builder = builder_of(chatml, template.replace("%s", "<think>\n"))
    assert builder.decode(builder.completion(CALL)) == f"<think>\n\n</think>\n\n{CALL}"
    assert parse_action(builder.decode(builder.completion(CALL))).well_formed


def test_a_thought_that_ends_like_a_turn_is_refused_unless_it_is_turned_off(tokenizer_with):
    special = ("<|end|>", "<|begin|>", "<|think|>", "<|content|>")
    template = (
        "{% for m in messages %}<|begin|>{{ m.role }}<|content|>{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|begin|>assistant{{ '<|think|><|end|><|begin|>assistant<|content|>' if quick }}"
        "{% endif %}"
    )
    tokenizer = tokenizer_with(special)
    with pytest.raises(ConfigError, match=r"ends a thought with the token that ends a turn.*turn thinking off"):
        builder_of(tokenizer, template)
    quick = builder_of(tokenizer, template, template_arguments={"quick": True})
    assert parse_action(quick.decode(quick.completion(CALL))).well_formed


def test_a_thought_in_marks_of_its_own_that_ends_like_a_turn_is_refused_unless_it_is_turned_off(tokenizer_with):
    """Kimi K3 closes thoughts, answers and turns with one token."""
    template = (
        "{% for m in messages %}<|open|>{{ m.role }}<|sep|>{% if m.role == 'assistant' %}{% if thinking is not defined %}"
        "<|open|>think<|sep|>{{ m.reasoning_content }}<|close|>think<|sep|>{% endif %}<|open|>response<|sep|>{{ m.content }}"
        "<|close|>response<|sep|><|close|>message<|sep|>{% else %}{{ m.content }}<|close|>message<|sep|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|open|>assistant<|sep|><|open|>{{ 'think' if thinking is not defined else 'response' }}"
        "<|sep|>{% endif %}"
    )
    tokenizer = tokenizer_with(("<|eos|>", "<|open|>", "<|close|>", "<|sep|>"))
    with pytest.raises(ConfigError, match=r"ends a thought with the token that ends a turn.*turn thinking off"):
        builder_of(tokenizer, template)
    quick = builder_of(tokenizer, template, template_arguments={"thinking": False})
    assert parse_action(quick.decode(quick.completion(CALL))).well_formed


def test_thoughts_in_marks_that_are_not_known_are_noticed(tokenizer_with):
    channel = "<|start|>{{ m.role }}<|message|>{{ m.reasoning_content }}<|eom|>"
    template = (
        "{% for m in messages %}{% if m.reasoning_content %}" + channel + "{% endif %}<|start|>{{ m.role }}<|message|>"
        "{{ m.content }}<|eot|>{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
    )
    tokenizer = tokenizer_with(("<|eot|>", "<|start|>", "<|message|>", "<|eom|>"))
    assert builder_of(tokenizer, template).template.hides_thoughts
    known = builder_of(
        tokenizer, template.replace("<|eom|>", "</x:think>").replace("<|message|>{{ m.reas", "<x:think>{{ m.reas")
    )
    assert not known.template.hides_thoughts
    assert known.template.marks[:2] == ("<x:think>", "</x:think>")


def test_a_value_that_a_template_does_not_take_is_at_fault_and_not_the_template(chatml):
    template = CHATML.replace("%s", "{{ '' if effort is not defined else 'effort ' + effort }}")
    with pytest.raises(
        ConfigError, match=r"data\.prompts\.template_arguments holds a value .* not take \(.*\): effort: 7; give"
    ):
        builder_of(chatml, template, template_arguments={"effort": 7})


HARMONY = (
    "{% for m in messages %}<|start|>{{ m.role }}{{ '<|channel|>final' if m.role == 'assistant' }}<|message|>{{ m.content }}"
    "<|end|>{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}{# <|channel|>analysis #}"
)
ANALYSIS = "<|channel|>analysis<|message|>"
FINAL = "<|start|>assistant<|channel|>final<|message|>"


@pytest.mark.parametrize(
    ("output", "well_formed", "readable"),
    [
        (f"{ANALYSIS}a<|end|>{FINAL}{CALL}", True, True),
        (f"{ANALYSIS}a<|end|><|start|>assistant{ANALYSIS}b<|end|>{FINAL}{CALL}", True, True),
        (f"<|channel|>final<|message|>{CALL}", True, True),
        (CALL, True, True),  # without a channel
        (f"{ANALYSIS}{CALL}", False, True),  # a thought that is not closed
        (f"{ANALYSIS}a<|end|>{FINAL}{CALL}<|end|>{FINAL}{CALL}", False, True),  # two answers: the last counts
        (f"<|channel|>commentary<|message|>{CALL}", False, True),  # a channel that nobody asked for
        (f"<|start|>{CALL}", False, True),
    ],
)
def test_channels_are_read_as_thought_and_answer(tokenizer_with, output, well_formed, readable):
    tokenizer = tokenizer_with(("<|return|>", "<|start|>", "<|message|>", "<|end|>", "<|channel|>"))
    builder = builder_of(
        tokenizer,
        HARMONY.replace("<|end|>", "{{ '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}"),
    )
    action = parse_action(builder.decode([*builder.template.literal(output), builder.end_of_turn]))
    assert action.well_formed == well_formed
    assert (action.call is not None) == readable


# --- several templates ---------------------------------------------------------------------------------------------


def test_of_several_templates_the_default_is_taken_or_the_one_that_is_named(chatml):
    chatml.chat_template = {"default": CHATML.replace("%s", "D"), "rag": CHATML.replace("%s", "R")}
    assert shown(PromptBuilder(chatml)).endswith("assistant\nD")
    assert shown(PromptBuilder(chatml, PromptConfig(chat_template="rag"))).endswith("assistant\nR")
    with pytest.raises(ConfigError, match=r"names the file 'tools', which does not exist.*default, rag"):
        PromptBuilder(chatml, PromptConfig(chat_template="tools"))
    chatml.chat_template = {"rag": CHATML, "tool_use": CHATML}
    with pytest.raises(ConfigError, match=r"has several chat templates \(rag, tool_use\) and no default"):
        PromptBuilder(chatml)


def test_neighbouring_turns_become_one_before_the_systems_text_leaves_its_place(tokenizer_with):
    template = (
        "{% for m in messages %}{% if loop.index0 and m.role == messages[loop.index0 - 1].role %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}" + CHATML.replace("%s", "")
    )
    builder = builder_of(tokenizer_with(IM), template)
    text = shown(builder, Task("t", (Message("user", "a"), Message("user", "b")), ()))
    assert text.startswith("<|im_start|>system\nTools:<|im_end|>\n<|im_start|>user\na\n\nb\n\nPlan.")
