"""How well-known families show tools and write calls, as small templates of our own."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from cahl_pl.prompts import PromptConfig
from cahl_pl.rollout.calls import builder_for
from tests.prompts.byte_tokenizers import tokenizer_with
from tests.prompts.families import CLOSED, EMPTY, IM, OPEN, THINK

TOOLS = "{% if tools %}TOOLS {% for t in tools %}{{ t | tojson }}\n{% endfor %}{% endif %}"
CALLS = "{% for c in m.tool_calls or [] %}{% set f = c.function %}%s{% endfor %}"
TAGS = ("<tool_call>", "</tool_call>")


def chatml(call, prompt="", before_calls="", behind_calls="", thought="", end="<|im_end|>\n"):
    """A template of ChatML whose system turn holds the tools; `call` writes the function `f`."""
    calls = CALLS.replace("%s", call)
    said = f"{thought}{{% if m.tool_calls %}}{before_calls}{calls}{behind_calls}{{% else %}}{{{{ m.content }}}}{{% endif %}}"
    return (
        "<|im_start|>system\n{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}"
        + TOOLS
        + "<|im_end|>\n"
        "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant\n"
        + said
        + end
        + "{% elif m.role != 'system' %}"
        "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n" + prompt + "{% endif %}"
    )


JSON = '<tool_call>\n{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}}\n</tool_call>'
HERMES = JSON + "{{ '\n' if not loop.last }}"
CODER = (
    "<tool_call>\n<function={{ f.name }}>\n{% for k, v in f.arguments.items() %}<parameter={{ k }}>\n"
    "{{ v if v is string else v | tojson }}\n</parameter>\n{% endfor %}</function>\n</tool_call>{{ '\n' if not loop.last }}"
)
GLM = (
    "<tool_call>{{ f.name }}\n{% for k, v in f.arguments.items() %}<arg_key>{{ k }}</arg_key>\n"
    "<arg_value>{{ v if v is string else v | tojson }}</arg_value>\n{% endfor %}</tool_call>"
)
ONE = "{% if m.tool_calls | length > 1 %}{{ raise_exception('one call a turn') }}{% endif %}"
LLAMA = ONE + '{"name": "{{ f.name }}", "parameters": {{ f.arguments | tojson }}}'
LISTED = '{{ \', \' if not loop.first }}{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}, "id": "{{ c.id }}"}'
GEMMA = (
    "<|tool_call>call:{{ f.name }}{{ '{' }}{% for k, v in f.arguments.items() %}{{ ',' if not loop.first }}{{ k }}:"
    "{% if v is string %}<|\"|>{{ v }}<|\"|>{% else %}{{ v | tojson }}{% endif %}{% endfor %}{{ '}' }}<tool_call|>"
)
KIMI = (
    "<|tool_call_begin|>functions.{{ f.name }}:{{ loop.index0 }}<|tool_call_argument_begin|>{{ f.arguments | tojson }}"
    "<|tool_call_end|>"
)
COHERE = (
    '{{ \', \' if not loop.first }}{"tool_call_id": "{{ loop.index0 }}", "tool_name": "{{ f.name }}", '
    '"parameters": {{ f.arguments | tojson }}}'
)
HARMONY = (
    "<|start|>system<|message|>{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}"
    + TOOLS
    + "<|end|>"
    "{% for m in messages %}{% if m.role == 'user' %}<|start|>user<|message|>{{ m.content }}<|end|>"
    "{% elif m.tool_calls %}"
    + ONE
    + "{% set f = m.tool_calls[0].function %}<|start|>assistant to=functions.{{ f.name }}"
    "<|channel|>commentary json<|message|>{{ f.arguments | tojson }}<|call|>"
    "{% elif m.role == 'assistant' %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}"
    "{{ '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}{# <|channel|>analysis<|message|> #}"
)


@dataclass(frozen=True)
class Family:
    """A family's way to show tools and to write calls.

    Attributes:
        template: written for these tests.
        call: the call `add(a=2, note="hi")` as the template writes it behind the prompt, ends of turn included.
        special: special tokens, the end of sequence first.
        plain: added tokens that are no special ones.
        tags: what every call has.
        also: further outputs with this call, as models of the family write them.
        several: whether a turn may hold several calls.
        odd: whether any text may be a value; where texts stand bare between tags, a closing tag may not.
    """

    template: str
    call: str
    special: tuple[str, ...] = IM
    plain: tuple[str, ...] = ()
    tags: tuple[str, ...] = TAGS
    also: tuple[str, ...] = ()
    several: bool = True
    odd: bool = True


ARGUMENTS = '{"a": 2, "note": "hi"}'
BODY = '{"name": "add", "arguments": ' + ARGUMENTS + "}"
IN_TAGS = f"<tool_call>\n{BODY}\n</tool_call>"
IN_XML = "<tool_call>\n<function=add>\n{}\n</function>\n</tool_call>".format(
    "\n".join(f"<parameter={key}>\n{value}\n</parameter>" for key, value in (("a", 2), ("note", "hi")))
)
BEGIN, END = "<\uff5ctool\u2581calls\u2581begin\uff5c>", "<\uff5ctool\u2581calls\u2581end\uff5c>"
ONE_BEGIN, SEP, ONE_END = (f"<\uff5ctool\u2581{word}\uff5c>" for word in ("call\u2581begin", "sep", "call\u2581end"))

FAMILIES = {
    "Qwen2.5, Hermes": Family(
        chatml(HERMES), IN_TAGS + "<|im_end|>", plain=TAGS, also=(f"<tool_call>{BODY}</tool_call><|im_end|>",)
    ),
    "Hermes, marks of plain text": Family(chatml(HERMES), IN_TAGS + "<|im_end|>"),
    "Hermes, special marks": Family(chatml(HERMES), IN_TAGS + "<|im_end|>", special=(*IM, *TAGS)),
    "Qwen3": Family(
        chatml(HERMES, CLOSED, thought="{{ '" + EMPTY.replace("\n", "\\n") + "' if loop.last }}"),
        EMPTY + IN_TAGS + "<|im_end|>",
        plain=(*TAGS, *THINK),
        also=(f"<think>\nhm\n</think>\n\n{IN_TAGS}<|im_end|>",),
    ),
    "Qwen3-Coder": Family(
        chatml(CODER), IN_XML + "<|im_end|>", plain=TAGS, tags=("<tool_call>", "</function>", "</tool_call>"), odd=False
    ),
    "Qwen3.5": Family(
        chatml(CODER, OPEN),
        "\n</think>\n\n" + IN_XML + "<|im_end|>",
        plain=(*TAGS, *THINK),
        tags=("<tool_call>", "</function>", "</tool_call>"),
        also=(f"hm\n</think>\n\n{IN_XML}<|im_end|>",),
        odd=False,
    ),
    "Llama 3": Family(
        chatml(LLAMA, end="<|eot_id|>"),
        '{"name": "add", "parameters": ' + ARGUMENTS + "}<|eot_id|>",
        special=("<|eot_id|>", "<|eom_id|>", *IM),
        tags=(),
        also=('{"name": "add", "parameters": ' + ARGUMENTS + "}<|eom_id|>",),
        several=False,
    ),
    "Mistral Nemo": Family(
        chatml(LISTED, before_calls="[TOOL_CALLS][", behind_calls="]", end="</s>"),
        f'[TOOL_CALLS][{BODY[:-1]}, "id": "call00001"}}]</s>',
        special=("</s>", "[TOOL_CALLS]", *IM),
        tags=("[TOOL_CALLS]",),
        also=(f"[TOOL_CALLS] [{BODY}]</s>",),
    ),
    "Mistral Small": Family(
        chatml("[TOOL_CALLS]{{ f.name }}[ARGS]{{ f.arguments | tojson }}", end="</s>"),
        f"[TOOL_CALLS]add[ARGS]{ARGUMENTS}</s>",
        special=("</s>", "[TOOL_CALLS]", "[ARGS]", *IM),
        tags=("[TOOL_CALLS]", "[ARGS]"),
    ),
    "Granite 3, whose template writes none": Family(
        chatml("").replace("{% if m.tool_calls %}", "{% if false %}") + "{# answer with <|tool_call|> #}",
        f"<|tool_call|>[{BODY}]<|im_end|>",
        special=(*IM, "<|tool_call|>"),
        tags=("<|tool_call|>",),
        also=(f"<|tool_call|> [{BODY}]<|im_end|>",),
    ),
    "GLM-4.5": Family(
        chatml(GLM),
        "<tool_call>add\n<arg_key>a</arg_key>\n<arg_value>2</arg_value>\n<arg_key>note</arg_key>\n<arg_value>hi</arg_value>\n"
        "</tool_call><|im_end|>",
        special=(*IM, "<|observation|>"),
        plain=(*TAGS, "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
        also=(
            "<tool_call>add<arg_key>a</arg_key><arg_value>2</arg_value><arg_key>note</arg_key><arg_value>hi</arg_value>"
            "</tool_call><|observation|>",
        ),
    ),
    "Kimi K2": Family(
        chatml(KIMI, before_calls="<|tool_calls_section_begin|>", behind_calls="<|tool_calls_section_end|>"),
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.add:0<|tool_call_argument_begin|>"
        f"{ARGUMENTS}<|tool_call_end|><|tool_calls_section_end|><|im_end|>",
        special=(
            *IM,
            *(f"<|tool_call{s}_{e}|>" for s in ("s_section", "") for e in ("begin", "end", "argument_begin")),
        ),
        tags=(
            "<|tool_calls_section_begin|>",
            "<|tool_call_begin|>",
            "<|tool_call_argument_begin|>",
            "<|tool_call_end|>",
            "<|tool_calls_section_end|>",
        ),
    ),
    "DeepSeek V3.1, arguments as text": Family(
        chatml(
            ONE_BEGIN + "{{ f.name }}" + SEP + "{{ '' + f.arguments }}" + ONE_END, before_calls=BEGIN, behind_calls=END
        ),
        f"{BEGIN}{ONE_BEGIN}add{SEP}{ARGUMENTS}{ONE_END}{END}<|im_end|>",
        special=(*IM, BEGIN, END, ONE_BEGIN, SEP, ONE_END),
        tags=(BEGIN, ONE_BEGIN, SEP, ONE_END, END),
    ),
    "Command R7B": Family(
        chatml(COHERE, before_calls="<|START_ACTION|>[", behind_calls="]<|END_ACTION|>"),
        '<|START_ACTION|>[{"tool_call_id": "0", "tool_name": "add", "parameters": '
        + ARGUMENTS
        + "}]<|END_ACTION|><|im_end|>",
        special=(*IM, "<|START_ACTION|>", "<|END_ACTION|>"),
        tags=("<|START_ACTION|>", "<|END_ACTION|>"),
    ),
    "Gemma 4": Family(
        chatml(GEMMA, end="<turn|>\n") + "{# <|channel>thought <channel|> #}",
        '<|tool_call>call:add{a:2,note:<|"|>hi<|"|>}<tool_call|><turn|>',
        special=(
            "<turn|>",
            "<|channel>",
            "<channel|>",
            "<|tool_call>",
            "<tool_call|>",
            '<|"|>',
            "<|tool_response>",
            *IM,
        ),
        tags=("<|tool_call>", "<tool_call|>"),
        also=(
            '<|tool_call>call:add{note:<|"|>hi<|"|>,a:2}<tool_call|><|tool_response>',
            '<|channel>thought\nhm<channel|><|tool_call>call:add{a:2,note:<|"|>hi<|"|>}<tool_call|><turn|>',
        ),
    ),
    "gpt-oss": Family(
        HARMONY,
        f" to=functions.add<|channel|>commentary json<|message|>{ARGUMENTS}<|call|>",
        special=("<|return|>", "<|start|>", "<|message|>", "<|end|>", "<|channel|>", "<|call|>", "<|constrain|>"),
        tags=("<|channel|>", "<|message|>"),
        also=(
            f"<|channel|>commentary to=functions.add <|constrain|>json<|message|>{ARGUMENTS}<|call|>",
            "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>commentary to=functions.add "
            f"<|constrain|>json<|message|>{ARGUMENTS}<|call|>",
            f"<|channel|>analysis<|message|>hm<|end|><|start|>assistant to=functions.add<|channel|>commentary json<|message|>"
            f"{ARGUMENTS}<|call|>",
        ),
        several=False,
    ),
}

PARSES = "prefix" in inspect.signature(getattr(PreTrainedTokenizerBase, "parse_response", len)).parameters
"""Whether this transformers reads response templates."""
if not PARSES:
    del FAMILIES["Gemma 4"]

OWN = chatml("<CALL>{{ f.name }}={{ f.arguments | tojson }}</CALL>")
"""A form that no reader here knows."""
RESPONSE_TEMPLATE = {
    "start_anchor": "<|im_start|>assistant\n",
    "defaults": {"role": "assistant"},
    "fields": {
        "tool_calls": {
            "open_pattern": r"<CALL>(?P<name>[^=]+)=",
            "close": "</CALL>",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
        },
        "content": {"close": "<|im_end|>", "content": "text"},
    },
}
"""What a tokenizer that knows it would say of it to transformers."""


def builder_of(family: Family, **config):
    """The builder of a family's prompts."""
    tokenizer = tokenizer_with(family.special, family.plain)
    return builder_for(tokenizer, PromptConfig(tool_format="native", chat_template=family.template, **config))
