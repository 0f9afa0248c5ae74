"""What chat templates of well-known families do, as small templates of our own, and the facts that have to come out of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

THINK = ("<think>", "</think>")


@dataclass(frozen=True)
class Family:
    """A family's way to write a dialogue.

    Attributes:
        template: written for this test; it does what the family's does with the roles system, user and assistant.
        special: special tokens, the end of sequence first.
        plain: added tokens that the tokenizer does not take for special ones.
        bos: the beginning of sequence; None for a family without one.
        adds_bos: the tokenizer puts it before a text by itself.
        system: where the system's text goes: "own" turn, "first" or "last" user turn.
        end: what a turn ends with.
        after_prompt: what a prompt ends with, behind the user's words.
        lead: what stands before an answer without a thought.
        off: arguments that turn thinking off, and what a prompt ends with then.
        thought: an output with a thought, as the model writes it behind the prompt; `{}` for the answer.
        history: what a prompt holds of a thought in an earlier turn: "kept" or "dropped".
        middle_end: what ends an earlier turn, where that is something else.
    """

    template: str
    special: tuple[str, ...]
    end: str
    after_prompt: str
    plain: tuple[str, ...] = ()
    bos: str | None = None
    adds_bos: bool = False
    system: str = "own"
    lead: str = ""
    off: tuple[dict[str, Any], str] | None = None
    thought: str | None = None
    history: str = "kept"
    middle_end: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)


def turns(
    start: str, end: str, model: str = "assistant", prompt: str = "", before: str = "", content: str = "m.content"
) -> str:
    """A template that writes every turn alike; `{role}` in `start`, `prompt` behind the header of the turn to be written."""
    header = start.replace("{role}", "{{ '" + model + "' if m.role == 'assistant' else m.role }}")
    last = start.replace("{role}", model) + prompt
    return (
        f"{before}{{% for m in messages %}}{header}{{{{ {content} }}}}{end}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{last}{{% endif %}}"
    )


# Thoughts of earlier turns are left out, and a last turn without a thought shows an empty one.
WITHOUT_OLD_THOUGHTS = (
    "((m.content.split('</think>')[-1].lstrip('\\n') if not loop.last else "
    "(m.content if '</think>' in m.content else '<think>\\n\\n</think>\\n\\n' + m.content)) "
    "if m.role == 'assistant' else m.content)"
)
CHATML = "<|im_start|>{role}\n"
IM = ("<|im_end|>", "<|im_start|>", "<|endoftext|>")
LLAMA = "<|start_header_id|>{role}<|end_header_id|>\n\n"
DATED = (
    "{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "<|begin_of_text|>" + LLAMA.replace("{role}", "system") + "Today Date: {{ date_string }}\n\n"
    "{% if messages[0].role == 'system' %}{{ messages[0].content | trim }}"
    "{% set messages = messages[1:] %}{% endif %}<|eot_id|>"
)
TO_FIRST_USER = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set s = messages[0].content + '\\n\\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set s = '' %}{% endif %}"
)
ALTERNATE = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}"
)
TO_LAST_USER = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set s = messages[0].content + '\\n\\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set s = '' %}{% endif %}" + ALTERNATE + "{% for m in messages %}"
    "{% if m.role == 'user' %}[INST] {% if loop.last or loop.index == loop.length - 1 and messages[-1].role == 'assistant' %}"
    "{{ s }}{% endif %}{{ m.content }}[/INST]{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}[SYSTEM_PROMPT]{{ m.content }}[/SYSTEM_PROMPT]"
    "{% elif m.role == 'user' %}[INST]{{ m.content }}[/INST]{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    "{# the model writes [THINK] and [/THINK] #}"
)
HARMONY = (
    "<|start|>system<|message|>Current date: {{ strftime_now('%Y-%m-%d') }}\n"
    "Reasoning: {{ reasoning_effort or 'medium' }}<|end|>"
    "{% for m in messages %}{% if m.role == 'system' %}<|start|>developer<|message|># Instructions\n\n{{ m.content }}<|end|>"
    "{% elif m.role == 'user' %}<|start|>user<|message|>{{ m.content }}<|end|>"
    "{% elif m.thinking is defined %}<|start|>assistant<|channel|>analysis<|message|>{{ m.thinking }}<|end|>"
    "{% else %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}"
    "{{ '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}"
    "{% elif m.role == 'user' %}<\uff5cUser\uff5c>"
    "{{ m.content }}{% else %}<\uff5cAssistant\uff5c>{{ m.content.split('</think>')[-1] }}"
    "<\uff5cend\u2581of\u2581sentence\uff5c>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<\uff5cAssistant\uff5c><think>\n{% endif %}"
)
OPEN = "{{ '<think>\\n\\n</think>\\n\\n' if enable_thinking is defined and not enable_thinking else '<think>\\n' }}"
CLOSED = "{{ '<think>\\n\\n</think>\\n\\n' if enable_thinking is defined and not enable_thinking }}"
OFF = {"enable_thinking": False}
EMPTY = "<think>\n\n</think>\n\n"

FAMILIES = {
    "Qwen2.5": Family(
        turns(
            CHATML,
            "<|im_end|>\n",
            before="{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}",
        ),
        IM,
        end="<|im_end|>",
        after_prompt="<|im_end|>\n<|im_start|>assistant\n",
    ),
    "Qwen3": Family(
        turns(CHATML, "<|im_end|>\n", prompt=CLOSED, content=WITHOUT_OLD_THOUGHTS),
        IM,
        plain=THINK,
        end="<|im_end|>",
        after_prompt="<|im_end|>\n<|im_start|>assistant\n",
        lead=EMPTY,
        off=(OFF, f"<|im_end|>\n<|im_start|>assistant\n{EMPTY}"),
        thought="<think>\nhm\n</think>\n\n{}",
        history="dropped",
    ),
    "Qwen3.5": Family(
        turns(CHATML, "<|im_end|>\n", prompt=OPEN, content=WITHOUT_OLD_THOUGHTS),
        IM,
        plain=THINK,
        end="<|im_end|>",
        after_prompt="<|im_end|>\n<|im_start|>assistant\n<think>\n",
        lead="\n</think>\n\n",
        off=(OFF, f"<|im_end|>\n<|im_start|>assistant\n{EMPTY}"),
        thought="hm\n</think>\n\n{}",
        history="dropped",
    ),
    "Llama 3": Family(
        turns(LLAMA, "<|eot_id|>", before=DATED, content="m.content | trim"),
        ("<|eot_id|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>"),
        bos="<|begin_of_text|>",
        adds_bos=True,
        end="<|eot_id|>",
        after_prompt="<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "Gemma 2": Family(
        "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        + ALTERNATE
        + turns("<start_of_turn>{role}\n", "<end_of_turn>\n", "model", content="m.content | trim"),
        ("<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        bos="<bos>",
        adds_bos=True,
        system="first",
        end="<end_of_turn>",
        after_prompt="<end_of_turn>\n<start_of_turn>model\n",
    ),
    "Gemma 3": Family(
        TO_FIRST_USER
        + ALTERNATE
        + turns(
            "<start_of_turn>{role}\n",
            "<end_of_turn>\n",
            "model",
            content="(s if loop.first else '') + m.content | trim",
        ),
        ("<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        bos="<bos>",
        adds_bos=True,
        system="first",
        end="<end_of_turn>",
        after_prompt="<end_of_turn>\n<start_of_turn>model\n",
    ),
    "Gemma 4": Family(
        turns("<|turn>{role}\n", "<turn|>\n", "model", before="{{ bos_token }}").replace(
            "{% endif %}", "{% if not enable_thinking %}<|channel>thought\n<channel|>{% endif %}{% endif %}"
        ),
        ("<eos>", "<bos>", "<|turn>", "<turn|>", "<|channel>", "<channel|>"),
        bos="<bos>",
        end="<turn|>",
        arguments={"enable_thinking": True},
        after_prompt="<turn|>\n<|turn>model\n",
        off=(OFF, "<turn|>\n<|turn>model\n<|channel>thought\n<channel|>"),
        thought="<|channel>thought\nhm<channel|>{}",
    ),
    "Mistral 7B v0.3": Family(
        TO_LAST_USER,
        ("</s>", "<s>", "[INST]", "[/INST]"),
        bos="<s>",
        adds_bos=True,
        system="last",
        end="</s>",
        after_prompt="[/INST]",
        lead=" ",
    ),
    "Magistral": Family(
        INST,
        ("</s>", "<s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[THINK]", "[/THINK]"),
        bos="<s>",
        end="</s>",
        after_prompt="[/INST]",
        thought="[THINK]hm[/THINK]{}",
    ),
    "Phi-4": Family(
        turns("<|im_start|>{role}<|im_sep|>", "<|im_end|>"),
        (*IM, "<|im_sep|>"),
        end="<|im_end|>",
        after_prompt="<|im_end|><|im_start|>assistant<|im_sep|>",
    ),
    "Phi-4-mini": Family(
        turns("<|{role}|>", "<|end|>") + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}",
        ("<|endoftext|>", "<|end|>", "<|user|>", "<|system|>", "<|assistant|>"),
        end="<|end|>",
        after_prompt="<|end|><|assistant|>",
    ),
    "SmolLM3": Family(
        turns(
            CHATML,
            "<|im_end|>\n",
            before="<|im_start|>system\nToday Date: {{ strftime_now('%d %B %Y') }}\n\n{{ messages[0].content }}<|im_end|>\n"
            "{% set messages = messages[1:] if messages[0].role == 'system' else messages %}",
            prompt=CLOSED,
        ).replace(
            "{{ messages[0].content }}", "{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}"
        ),
        IM,
        plain=THINK,
        end="<|im_end|>",
        after_prompt="<|im_end|>\n<|im_start|>assistant\n",
        off=(OFF, f"<|im_end|>\n<|im_start|>assistant\n{EMPTY}"),
        thought="<think>hm</think>\n{}",
    ),
    "Granite 4": Family(
        turns("<|start_of_role|>{role}<|end_of_role|>", "<|end_of_text|>\n"),
        ("<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>"),
        end="<|end_of_text|>",
        after_prompt="<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>",
    ),
    "gpt-oss": Family(
        HARMONY,
        ("<|return|>", "<|start|>", "<|message|>", "<|end|>", "<|channel|>", "<|call|>"),
        end="<|return|>",
        middle_end="<|end|>",
        after_prompt="<|end|><|start|>assistant",
        lead="<|channel|>final<|message|>",
        thought="<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>{}",
    ),
    "DeepSeek-R1": Family(
        R1,
        ("<\uff5cend\u2581of\u2581sentence\uff5c>", "<\uff5cbegin\u2581of\u2581sentence\uff5c>"),
        plain=("<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>", *THINK),
        bos="<\uff5cbegin\u2581of\u2581sentence\uff5c>",
        adds_bos=True,
        end="<\uff5cend\u2581of\u2581sentence\uff5c>",
        after_prompt="<\uff5cAssistant\uff5c><think>\n",
        lead="\n</think>\n\n",
        thought="hm\n</think>\n\n{}",
        history="dropped",
    ),
    "GLM-4.5": Family(
        turns("<|{role}|>\n", "", before="[gMASK]<sop>"),
        ("<|endoftext|>", "[gMASK]", "<sop>", "<|user|>", "<|system|>", "<|assistant|>"),
        plain=THINK,
        end="<|user|>",
        middle_end="",
        after_prompt="<|assistant|>\n",
        thought="<think>hm</think>\n{}",
    ),
    "Command A": Family(
        turns(
            "<|START_OF_TURN_TOKEN|>{role}", "<|END_OF_TURN_TOKEN|>", "<|CHATBOT_TOKEN|>", before="{{ bos_token }}"
        ).replace(
            "{{ m.content }}",
            "{% if m.role == 'assistant' %}<|START_RESPONSE|>{{ m.content }}<|END_RESPONSE|>"
            "{% else %}{{ m.content }}{% endif %}",
        )
        + "{# <|START_THINKING|> <|END_THINKING|> #}",
        (
            "<|END_OF_TURN_TOKEN|>",
            "<BOS_TOKEN>",
            "<|START_OF_TURN_TOKEN|>",
            "<|CHATBOT_TOKEN|>",
            "<|START_RESPONSE|>",
            "<|END_RESPONSE|>",
            "<|START_THINKING|>",
            "<|END_THINKING|>",
        ),
        bos="<BOS_TOKEN>",
        adds_bos=True,
        end="<|END_RESPONSE|>",
        middle_end="<|END_RESPONSE|><|END_OF_TURN_TOKEN|>",
        after_prompt="<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        lead="<|START_RESPONSE|>",
        thought="<|START_THINKING|>hm<|END_THINKING|><|START_RESPONSE|>{}",
    ),
    "MiniMax-M3": Family(
        turns(
            "]~b]{role}\n",
            "[e~[\n",
            "ai",
            content="(('<mm:think>' + m.reasoning_content if m.reasoning_content else '') + '</mm:think>' + m.content) "
            "if m.role == 'assistant' else m.content",
        ),
        ("[e~[", "]~b]"),
        plain=("<mm:think>", "</mm:think>"),
        end="[e~[",
        after_prompt="[e~[\n]~b]ai\n",
        lead="</mm:think>",
        thought="<mm:think>hm</mm:think>{}",
    ),
    "Hy3": Family(
        turns(
            "<|{role}|>",
            "<|eos|>",
            prompt="<think:opensource>",
            content="('<think:opensource>' + (m.reasoning_content or '') + '</think:opensource>' + m.content) "
            "if m.role == 'assistant' else m.content",
        ).replace("<|eos|>{% endfor", "{{ '<|eos|>' if m.role == 'assistant' }}{% endfor"),
        ("<|eos|>", "<|user|>", "<|assistant|>", "<|system|>", "<think:opensource>", "</think:opensource>"),
        end="<|eos|>",
        after_prompt="<|assistant|><think:opensource>",
        lead="</think:opensource>",
        thought="hm</think:opensource>{}",
    ),
    "Cohere2-MoE": Family(
        turns(
            "<|START_OF_TURN_TOKEN|><|{role}|>",
            "<|END_TEXT|><|END_OF_TURN_TOKEN|>",
            "CHATBOT_TOKEN",
            prompt="<|START_THINKING|>",
            content="'<|START_TEXT|>' + m.content",
        )
        + "{# <|START_THINKING|> <|END_THINKING|> #}",
        (
            "<|END_OF_TURN_TOKEN|>",
            "<|START_OF_TURN_TOKEN|>",
            "<|CHATBOT_TOKEN|>",
            "<|START_TEXT|>",
            "<|END_TEXT|>",
            "<|START_THINKING|>",
            "<|END_THINKING|>",
        ),
        end="<|END_TEXT|>",
        middle_end="<|END_TEXT|><|END_OF_TURN_TOKEN|>",
        after_prompt="<|END_TEXT|><|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_THINKING|>",
        lead="<|END_THINKING|><|START_TEXT|>",
        thought="hm<|END_THINKING|><|START_TEXT|>{}",
    ),
    "DeepSeek-V3.2, thinking off": Family(
        "{% for m in messages %}{% if m.role == 'assistant' %}<|A|></think>{{ m.content }}<|eos|>"
        "{% elif m.role == 'user' %}<|U|>{{ m.content }}{% else %}{{ m.content }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|A|><think></think>{% endif %}",
        ("<|eos|>", "<|A|>", "<|U|>"),
        plain=THINK,
        end="<|eos|>",
        after_prompt="<|A|><think></think>",
    ),
}
