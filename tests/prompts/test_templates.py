"""Chat templates as they are in the wild: where a turn ends, where the system's text goes, and which cannot be used."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from transformers import PreTrainedTokenizerFast

from cahl_pl.engines.local import stop_ids
from cahl_pl.errors import ConfigError
from cahl_pl.prompts import PromptBuilder, PromptConfig
from cahl_pl.types import Message, SubTask, Task, ToolSpec

ADD = ToolSpec("add", "Add.", {"type": "object", "properties": {"a": {"type": "integer"}}})
TURNS = (Message("user", "first"), Message("assistant", "reply"), Message("user", "second"))
TASK = Task("t", TURNS, (ADD,))
EOS = "<|endoftext|>"

PLAIN = (
    "{% for m in messages %}{% if m.role == 'assistant' %}A:{{ m.content }}%s"
    "{% else %}{{ m.role }}:{{ m.content }}\n{% endif %}{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
)
# Mistral's way: the system's text stands in the last user turn.
LAST_TURN = (
    "{% if messages[0].role == 'system' %}{% set s = messages[0].content %}{% set r = messages[1:] %}"
    "{% else %}{% set s = '' %}{% set r = messages %}{% endif %}"
    "{% for m in r %}{% if m.role == 'user' %}[INST]{% if loop.last %}{{ s }}\n{% endif %}{{ m.content }}[/INST]"
    "{% else %}{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
)
DROPS_SYSTEM = (
    "{% for m in messages %}{% if m.role != 'system' %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PARTS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for part in m.content %}{{ part.text }}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def tokenizer(tiny_model):
    """A base model's: its end of sequence is that of a document, not of a turn."""
    loaded = PreTrainedTokenizerFast.from_pretrained(tiny_model)
    loaded.eos_token = EOS
    return loaded


def builder_of(tokenizer, template):
    return PromptBuilder(tokenizer, PromptConfig(tool_format="compact", system="Tools:", chat_template=template))


def test_outputs_stop_at_the_end_of_turn_of_the_template(tokenizer):
    builder = builder_of(tokenizer, tokenizer.chat_template)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert builder.end_of_turn == end != tokenizer.eos_token_id
    settings = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=tokenizer.eos_token_id))
    policy = SimpleNamespace(end_of_turn=builder.end_of_turn, tokenizer=tokenizer, causal_lm=settings)
    assert stop_ids(policy) == {end, tokenizer.eos_token_id}
    assert builder.decode(builder.completion("x")) == "x"


@pytest.mark.parametrize(
    ("end", "taught"),
    [(EOS, f"x{EOS}"), (f" {EOS}", f"x {EOS}"), (f"{EOS}\n", f"x{EOS}"), ("\n", f"x{EOS}"), ("", f"x{EOS}")],
)
def test_a_completion_ends_and_the_next_prompt_holds_its_end_once(tokenizer, end, taught):
    builder = builder_of(tokenizer, PLAIN.replace("%s", end))
    assert builder.end_of_turn == tokenizer.eos_token_id
    completion = builder.completion("x")
    assert tokenizer.decode(completion) == taught
    assert builder.decode(completion).strip() == "x"
    following = [*completion, *builder.next_step(True, "", TASK, SubTask("go on", None), 2)]
    assert tokenizer.decode(following).count(EOS) == 1
    cut = [*builder._data("x"), *builder.next_step(False, "", TASK, SubTask("go on", None), 2)]
    assert tokenizer.decode(cut).startswith(f"x{end}user:")  # as the template goes on
    if EOS in end:
        assert tokenizer.decode(following).startswith(f"x{end}user:")


def test_a_system_text_in_the_last_user_turn_is_kept_there(tokenizer):
    builder = builder_of(tokenizer, LAST_TURN)
    shared, planner, executor = builder.shared(TASK), builder.planner(TASK), builder.executor(TASK, SubTask("x", None))
    assert planner[: len(shared)] == executor[: len(shared)] == shared
    assert tokenizer.decode(shared) == ("[INST]first[/INST]reply<|im_end|>[INST]Tools:\nadd(a?: integer): Add.\nsecond")
    assert tokenizer.decode(planner).endswith("[/INST]")


@pytest.mark.parametrize("template", [DROPS_SYSTEM, PARTS])
def test_nothing_that_is_said_is_lost(tokenizer, template):
    text = tokenizer.decode(builder_of(tokenizer, template).planner(TASK))
    for part in ("Tools:\nadd(a?: integer): Add.", "first", "reply", "second"):
        assert text.count(part) == 1


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for m in messages %}", "cannot be used .*Unexpected end of template"),
        ("{{ messages[0].content }}", "the template leaves a message out"),
        ("{{ raise_exception('no') }}", r"cannot be used \(no\)"),
        ("{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}", "shows it twice"),
    ],
)
def test_a_template_that_cannot_be_used_is_one_sentence(tokenizer, template, reason):
    with pytest.raises(
        ConfigError, match=rf"^the template in data\.prompts\.chat_template .*{reason}.*: correct it there$"
    ) as raised:
        builder_of(tokenizer, template)
    assert "\n" not in str(raised.value)
